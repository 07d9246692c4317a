"""Metadata as JSON: converts values of Arrow, NumPy and Python.

Dates, times and timestamps become ISO 8601, durations seconds, and decimals strings with all their
digits; NaN and infinity, which JSON does not have, become null. Bytes, pictures and objects without
a JSON value are left out, which is logged once per name.
"""

import datetime
import decimal
import enum
import functools
import logging
import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

DEPTH = 50
"""Values that are nested deeper are left out, and so are those that contain themselves."""


class _LeftOut(Exception):
    """A value that JSON cannot hold; the message is its type."""


def as_metadata(values: Mapping[Any, Any]) -> dict[str, Any]:
    """A copy with JSON values only."""
    return _members(values, "", 0)


def _members(values: Mapping[Any, Any], within: str, depth: int) -> dict[str, Any]:
    members = {}
    for key, value in values.items():
        name = _text(str(key))
        try:
            members[name] = _value(value, f"{within}{name}", depth)
        except _LeftOut as left:
            _warn_once(f"{within}{name}", str(left))
    return members


def _value(value: Any, name: str, depth: int) -> Any:
    if depth > DEPTH:
        raise _LeftOut("values nested too deeply")
    match value:
        case enum.Enum():
            return _value(value.value, name, depth + 1)
        case np.datetime64():
            return None if np.isnat(value) else str(value)
        case np.timedelta64():
            seconds = value.astype("timedelta64[ns]") / np.timedelta64(1, "s")
            return None if np.isnat(value) else float(seconds)
        case np.generic() if not isinstance(value, np.void):
            return _value(value.item(), name, depth + 1)
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else None
        case str():
            return _text(value)
        case datetime.datetime() | datetime.date() | datetime.time():
            return None if value != value else value.isoformat()  # pandas' NaT
        case datetime.timedelta():
            return value.total_seconds()
        case decimal.Decimal() | uuid.UUID() | PurePath():
            return _text(str(value))
        case Mapping():
            return _members(value, f"{name}.", depth + 1)
        case list() | tuple():
            return _list(value, name, depth)
        case set() | frozenset():
            return _list(sorted(value, key=repr), name, depth)
    if hasattr(value, "tolist") and not isinstance(value, memoryview | np.void):
        return _value(value.tolist(), name, depth + 1)  # an array or a tensor
    raise _LeftOut(type(value).__name__)


def _list(values: Iterable[Any], name: str, depth: int) -> list[Any]:
    return [_value(value, name, depth + 1) for value in values]


def _text(text: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes its escape sequence."""
    return text.encode("utf-8", "backslashreplace").decode()


@functools.lru_cache(1024)
def _warn_once(name: str, type: str) -> None:
    log.warning("metadata: %s holds %s, which JSON cannot hold; it is left out", name, type)
