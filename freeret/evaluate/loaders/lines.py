"""Lines of a text file: what ends with a line feed, and nothing else.

`str.splitlines` also cuts at U+2028, U+0085 and others, which JSON and tables hold as they are.
"""

from pathlib import Path

from probes.errors import BadFile


def lines_of(path: Path, source: str) -> list[str]:
    """Without their ends. Raises BadFile, with `source`: what is needed and where to get it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"cannot read {path} ({error}); {source}") from None
    return text.removesuffix("\n").split("\n") if text else []
