"""Read the text files of a dataset line by line."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from probes.errors import BadFile
from probes.files import read_lines, undecoded


def check_there(root: Path, parts: Iterable[str], source: str) -> None:
    """Raise BadFile, with `source`, unless all parts exist below `root`; they are not read."""
    for part in parts:
        if not (root / part).exists():
            raise BadFile(f"cannot read {root / part}: it does not exist; {source}")


def lines_of(path: Path, source: str) -> Iterator[tuple[int, str]]:
    """Each non-blank line with its number, without its end (`probes.files.read_lines`).

    Raises BadFile, with `source`, which says what is needed and where to get it.
    """
    try:
        with path.open("rb") as file:
            for number, line in read_lines(file):
                if wrong := undecoded(line):
                    raise BadFile(f"cannot read {path}, line {number}: {wrong}; {source}")
                yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"cannot read {path} ({error}); {source}") from None
