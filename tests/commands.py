"""Commands of the command line, run in the process of the test."""

from typing import Any

from freeret.cli import main


def run(*arguments: Any) -> int:
    """The exit code of one command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0
