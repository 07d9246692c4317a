"""Long texts, cut into passages of about equal length.

The last position of a prompt has to sum up everything before it, and a long text is summed up less
well than its passages are. So a text may be read in passages, whose vectors are averaged: it keeps
one vector, and nothing else in a search changes.
"""

import re
from itertools import pairwise

from probes.items import Item

_WORD = re.compile(r"\S+\s*")


def passages_of(item: Item, words: int) -> list[Item]:
    """An item's passages, as items with its name; the item itself where it is no long text.

    Only an item of a single text is cut, into as many equal passages as come closest to this number
    of words, separated by white space, so that none is much shorter than the others.
    """
    if len(item.parts) != 1 or item.media:
        return [item]
    found = _WORD.findall(item.text)
    count = max(1, round(len(found) / words))
    if count == 1:
        return [item]
    cuts = [round(len(found) * i / count) for i in range(count + 1)]
    return [
        Item("".join(found[start:end]).rstrip(), id=item.id, place=item.place)
        for start, end in pairwise(cuts)
    ]
