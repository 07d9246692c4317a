"""Lines of a text file: what ends with a newline, and nothing else.

`str.splitlines` also cuts at U+2028, U+0085 and others, which JSON and tables hold as they are.
"""

from collections.abc import Iterator
from pathlib import Path

from probes.errors import BadFile


def lines_of(path: Path, source: str) -> Iterator[str]:
    """One after the other, without their ends. Raises BadFile, with `source`: what is needed and
    where to get it."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield line.removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"cannot read {path} ({error}); {source}") from None
