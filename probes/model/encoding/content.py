"""Where the content of an item stands in a text, and among its tokens."""

import bisect
import re
from collections.abc import Sequence

MARKER = re.compile("\ue000(\\d+)\ue001")
"""What stands for a content, by its number, until it is put in its place."""


def filled(text: str, contents: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """A text with the contents in place of their markers, and the characters of each of them."""
    filled, stretches, end = "", [], 0
    for marker in MARKER.finditer(text):
        filled += text[end : marker.start()]
        start, end = len(filled), marker.end()
        filled += contents[int(marker[1])]
        stretches.append((start, len(filled)))
    return filled + text[end:], stretches


def overlapping(
    offsets: Sequence[tuple[int, int]], stretches: Sequence[tuple[int, int]], shift: int
) -> list[tuple[int, int]]:
    """The tokens that hold characters of each stretch, as first one and last one plus one; those
    of no character are left out."""
    found = []
    for start, stop in stretches:
        first = bisect.bisect_right(offsets, start, key=lambda token: token[1])
        last = bisect.bisect_left(offsets, stop, key=lambda token: token[0])
        if start < stop and first < last:
            found.append((first + shift, last + shift))
    return found
