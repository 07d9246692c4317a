"""Checks of arguments, so that a bad value is a BadSetting that names the argument."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from probes.errors import BadSetting

T = TypeVar("T")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int. Raises BadSetting unless it is a whole number from `least` on."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise BadSetting(f"{name} must be a whole number from {least} on, not {value!r}")
    return value.__index__()


def check_choice(name: str, value: T, choices: Iterable[T]) -> T:
    """Return `value`. Raises BadSetting, which suggests a choice of similar spelling, unless it is
    among the choices."""
    allowed = list(choices)
    if value not in allowed:
        names = list(map(str, allowed))
        similar = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise BadSetting(f"{name} must be one of {', '.join(names)}, not {value!r}{hint}")
    return value
