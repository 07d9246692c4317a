"""Files are written whole or not at all; text is read in one way, whatever wrote it."""

import codecs
import io
import json
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from probes.errors import BadFile, one_line

T = TypeVar("T")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins like UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NO_TEXT = re.compile("[\udc80-\udcff\0]")
"""What stands for a byte that is no text, by the error handler `surrogateescape`; and the null
bytes of UTF-16 without its mark."""


def open_text(file: Any, newline: str | None = "") -> io.TextIOWrapper:
    """The text of an open binary file: UTF-8, or as its byte order mark says, which is left out.

    A byte that cannot be decoded does not end the reading: it stands in its line as a character
    that `undecoded` finds.
    """
    buffered = file if hasattr(file, "peek") else io.BufferedReader(file)
    head = buffered.peek(4)[:4]
    marked = (encoding for mark, encoding in BYTE_ORDER_MARKS if head.startswith(mark))
    encoding = next(marked, "utf-8")
    return io.TextIOWrapper(buffered, encoding, errors="surrogateescape", newline=newline)


def undecoded(text: str) -> str | None:
    """What is wrong with text of `open_text` that holds bytes of another encoding, or None."""
    found = NO_TEXT.search(text)
    if found is None:
        return None
    byte = max(0, ord(found.group()) - 0xDC00)
    return f"byte 0x{byte:02x} is not UTF-8 text; save the file as UTF-8"


def read_lines(file: Any) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, each with its number in the file and without its end.

    A line ends with a newline and nothing else: `str.splitlines` also cuts at U+2028, U+0085 and
    others, which JSON and tables hold as they are.
    """
    with open_text(file, newline=None) as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                yield number, line.removesuffix("\n")


def write_atomic(path: Path, content: str | bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        scratch.chmod(0o644)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def write_json(path: Path, data: Any) -> Path:
    return write_atomic(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_json(path: str | Path) -> Any:
    """Raises BadFile when there is no such file or it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except TypeError:
        raise BadFile(f"a file is given by its path, not as {path!r}") from None
    except OSError as error:
        raise BadFile(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise BadFile(f"{path} is not JSON ({error}); was it cut off? Make it again") from None


def read_format(path: str | Path, format: int, kind: str, remedy: str) -> dict[str, Any]:
    """A JSON object of this format. Raises BadFile, which says what kind was looked for and what
    makes it."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("format") != format:
        raise BadFile(f"{path} is not {kind} of format {format}; run `{remedy}`")
    return data


def read_validated(
    path: str | Path,
    format: int,
    kind: str,
    remedy: str,
    validate: Callable[[Any], T],
    again: str,
) -> T:
    """A JSON file of this format as the value that a pydantic validator makes of it.

    Args:
        path: The file.
        format: The format that it must have.
        kind: What it holds, such as "a result".
        remedy: The command that writes such files.
        validate: Makes the value of the JSON object, or raises ValidationError.
        again: What to do about a file that is not whole, such as "evaluate again".

    Raises:
        BadFile: The file is missing, cut off, of another format, or lacks a field.
    """
    data = read_format(path, format, kind, remedy)
    try:
        return validate(data)
    except ValidationError as error:
        noun = kind.split(" ", 1)[1]
        raise BadFile(f"{path} is not a whole {noun} ({wrong_field(error)}); {again}") from None


def wrong_field(error: Exception) -> str:
    """What a file lacks or holds wrongly, in one line that names the field."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {one_line(error)}"
    first, *others = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"])) or "the whole"
    more = f", and {len(others)} more" if others else ""
    return f"{where}: {first['msg']}{more}"


def temporary_folder(owner: object) -> str:
    """A new folder that is removed with its owner, or else when the interpreter exits."""
    folder = tempfile.mkdtemp(prefix="freeret-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
