"""A line of a check; a measurement that raises becomes a line that failed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from probes.errors import one_line

Status = Literal["ok", "note", "FAILED"]


@dataclass(frozen=True)
class Check:
    """The subject of a check, its result in words, and whether it passed."""

    what: str
    found: str
    status: Status = "ok"
    """`note` is a limitation that makes no result wrong."""
    value: float | None = None
    """The measured number, if there is one."""
    limit: float | None = None
    """The largest `value` that passes, or the smallest if states must differ."""

    @property
    def passed(self) -> bool:
        return self.status != "FAILED"

    def as_dict(self) -> dict[str, Any]:
        """The line as JSON values; numbers that are not finite are left out."""
        numbers = {"value": self.value, "limit": self.limit}
        return {
            "what": self.what,
            "found": self.found,
            "passed": self.passed,
            "status": self.status,
            **{key: n for key, n in numbers.items() if n is not None and math.isfinite(n)},
        }


def tried(what: str, measure: Callable[[], list[Check]]) -> list[Check]:
    """The lines of a measurement, or a FAILED line if it raises. Any architecture may raise any
    error, and the other checks should still run."""
    try:
        return measure()
    except Exception as error:
        return [Check(what, f"{type(error).__name__}: {one_line(error)}", "FAILED")]
