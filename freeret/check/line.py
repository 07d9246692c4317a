"""One line of a check, and what becomes of a measurement that stops with an error."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from probes.errors import one_line

Status = Literal["ok", "note", "FAILED"]


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and whether it is as it must be."""

    what: str
    found: str
    status: Status = "ok"
    """`note` is a limitation that makes nothing wrong."""
    value: float | None = None
    """What was measured, where it is a number."""
    limit: float | None = None
    """The largest `value` that passes, or the smallest where something must differ."""

    @property
    def passed(self) -> bool:
        return self.status != "FAILED"

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values; a number that is not finite is left to `found`."""
        numbers = {"value": self.value, "limit": self.limit}
        return {
            "what": self.what,
            "found": self.found,
            "passed": self.passed,
            "status": self.status,
            **{key: n for key, n in numbers.items() if n is not None and math.isfinite(n)},
        }


def tried(what: str, measure: Callable[[], list[Check]]) -> list[Check]:
    """The lines that `measure` gives; a measurement that raises is a line that failed.

    A backbone of any make may raise anything, and the other lines still say what else holds.
    """
    try:
        return measure()
    except Exception as error:
        return [Check(what, f"{type(error).__name__}: {one_line(error)}", "FAILED")]
