"""Values that the paper reports, to stand beside measured ones; none was measured here."""

import functools
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel

from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb.video import CLASSIFICATION, RETRIEVAL

SUITES: dict[str, frozenset[str]] = {
    "MMEB": frozenset(mmeb.NAMES),
    "video classification": frozenset(CLASSIFICATION),
    "video retrieval": frozenset(RETRIEVAL),
}
"""Suite -> all its datasets: a mean over fewer has no counterpart in the paper."""


class Published(BaseModel):
    """One value: the mean of the main metric (Precision@1) over a suite."""

    suite: Literal["MMEB", "video classification", "video retrieval"]
    method: str
    runs: tuple[str, ...]
    """Systems of `freeret eval` that do the same; none: nothing here is comparable."""
    depth: int | None
    """Candidates that were reranked; None: not stated."""
    model: str
    value: float

    @property
    def cell(self) -> str:
        """The value, with the model that it belongs to."""
        return f"{self.value:.3f} ({self.model})"


class _File(BaseModel):
    source: str
    values: list[Published]


@functools.cache
def published() -> _File:
    """The committed table and its source."""
    text = (files("freeret.evaluate") / "published.json").read_text(encoding="utf-8")
    return _File.model_validate_json(text)


def counterparts(suite: str, datasets: frozenset[str], system: str, depth: int) -> str:
    """What the paper reports for a system on a suite.

    Args:
        suite: A key of SUITES; for any other nothing is published.
        datasets: Those that a mean was taken over.
        system: Its name, such as `paper`.
        depth: Candidates reranked, 0 without stage 2.

    Returns:
        The values with their models, joined by commas; "" unless the suite is whole.
    """
    if SUITES.get(suite) != datasets:
        return ""
    same = [
        value
        for value in published().values
        if value.suite == suite and system in value.runs and value.depth == depth
    ]
    return ", ".join(value.cell for value in same)
