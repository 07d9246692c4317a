"""The names of a report's parts and of its figures, and which parts need others.

Nothing here imports torch: the command line reads the names before it loads anything.
"""

from collections.abc import Collection
from typing import Literal, cast, get_args

from probes.errors import BadSetting

PartName = Literal["framing", "diagnostic", "reranking", "curves", "synonyms", "injection"]
PARTS: tuple[PartName, ...] = get_args(PartName)
"""In the order in which they are measured."""
NEEDS: dict[str, tuple[PartName, ...]] = {"reranking": ("framing", "diagnostic")}
"""Reranking is measured with the frame and at the extraction that these favour."""
FigureKind = Literal["curves", "rank", "norms", "synonyms", "separation", "framing", "diagnostic"]
Format = Literal["png", "svg", "pdf"]


def with_needed(parts: Collection[str]) -> list[PartName]:
    """The parts with those that they need, in the order of PARTS.

    Raises:
        BadSetting: There is no such part.
    """
    if unknown := [part for part in parts if part not in PARTS]:
        raise BadSetting(f"there is no part {unknown[0]!r} of a report; parts: {', '.join(PARTS)}")
    needed = {need for part in parts for need in NEEDS.get(part, ())}
    return [part for part in PARTS if part in parts or part in needed]


def part_names(listed: str) -> list[PartName]:
    """The parts named in a list such as `curves,synonyms`, with those that they need.

    Raises:
        BadSetting: There is no such part, or none is named.
    """
    names = [name for name in map(str.strip, listed.split(",")) if name]
    if not names:
        raise BadSetting(f"name at least one part of a report; parts: {', '.join(PARTS)}")
    return with_needed(cast(list[PartName], names))
