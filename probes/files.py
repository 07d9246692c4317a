"""Files are written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from probes.errors import BadFile, one_line


def write_atomic(path: Path, text: str) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
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


def wrong_field(error: Exception) -> str:
    """What a file lacks or holds wrongly, in one line that names the field."""
    if not isinstance(error, ValidationError):
        return f"{type(error).__name__}: {one_line(error)}"
    first, *others = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"])) or "the whole"
    more = f", and {len(others)} more" if others else ""
    return f"{where}: {first['msg']}{more}"
