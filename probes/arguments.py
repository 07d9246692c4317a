"""Checks of arguments: a wrong one is a BadSetting that names it, not an error from deep inside."""

import difflib
from collections.abc import Iterable
from typing import Any, TypeVar

from probes.errors import BadSetting

T = TypeVar("T")


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Raise BadSetting unless `value` is a whole number of at least `least`; returns it."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < least:
        raise BadSetting(f"{name} must be a whole number from {least} on, not {value!r}")
    return value.__index__()


def check_choice(name: str, value: T, known: Iterable[T]) -> T:
    """Raise BadSetting, which suggests a choice of similar spelling, unless `value` is among the
    `known`; returns it."""
    choices = list(known)
    if value not in choices:
        names = list(map(str, choices))
        similar = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {similar[0]!r}?" if similar else ""
        raise BadSetting(f"{name} must be one of {', '.join(names)}, not {value!r}{hint}")
    return value
