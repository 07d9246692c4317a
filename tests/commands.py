"""Commands of the command line, run in the process of the test or in one of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from freeret.cli import main


def run(*arguments: Any) -> int:
    """The exit code of one command."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1 if end.code else 0
    return 0


def own_lines(captured: str) -> list[str]:
    """Lines without the progress bars of the libraries."""
    return [line for line in captured.splitlines() if line.startswith("freeret:")]


def index(*arguments: Any, store: Path, model: Path, recipe: Path) -> int:
    """The exit code of `freeret index`."""
    return run("index", *arguments, "--store", store, "--model", model, "--recipe", recipe)


def spawn(*arguments: Any) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, where every warning is an error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "freeret", *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def json_rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The rows that a command with --json has printed since the last call."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
