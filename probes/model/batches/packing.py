"""Packs: several rows in one row of a batch, with what they begin with alike computed once.

Padding short rows to the length of long ones wastes tokens, and so does computing a query again for
each of its candidates. A pack is the trie of its rows, written depth first: each token attends to
its ancestors, which are the tokens before it in its own rows, and has the position that it has
there. States are therefore those of the rows alone.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probes.model.encoding import Encoder, Row

PACK = 256
"""Tokens of a pack of short rows. Attention within a pack costs the square of its length, and a
short pack is filled less evenly."""
MIN_SHARED = 8
"""Tokens below which a common beginning is not worth a forward pass, or a place in a pack, of its
own."""


@dataclass(frozen=True)
class Pack:
    """Rows as one row."""

    row: Row
    """Every token once, depth first, at the positions of its own row."""
    depths: list[int]
    """Position of each token in its own row."""
    exits: list[int]
    """For each token, the place of the first one after it that does not descend from it."""
    ends: list[int]
    """Place of the last token of each row."""
    lengths: list[int]
    """Tokens that each row adds to those before it."""

    @classmethod
    def of(cls, encoder: Encoder, rows: Sequence[Row], skip: int) -> "Pack":
        """Pack rows, in lexicographic order of their contents, without the first `skip` tokens,
        which are the same in all."""
        ids, depths, exits, ends, lengths = [], [], [], [], []
        per_token: dict[str, list[int]] = {name: [] for row in rows for name in row.per_token}
        positions, media = [], []
        path: list[int] = []  # places of the tokens of the latest row
        before = rows[0].contents[:skip]
        for row in rows:
            shared = common(before, row.contents)
            for place in path[shared - skip :]:
                exits[place] = len(ids)
            path[shared - skip :] = range(len(ids), len(ids) + len(row) - shared)
            ids += row.ids[shared:]
            depths += range(shared, len(row))
            exits += [0] * (len(row) - shared)
            for name, values in per_token.items():
                values += row.per_token.get(name, [0] * len(row))[shared:]
            media += [
                piece
                for piece, (start, _) in zip(row.media, row.spans, strict=True)
                if start >= shared
            ]
            if encoder.counts_positions:
                positions.append(encoder.positions(row)[:, shared:])
            ends.append(path[-1])
            lengths.append(len(row) - shared)
            before = row.contents
        for place in path:
            exits[place] = len(ids)
        joined = torch.cat(positions, dim=1) if positions else None
        whole = Row(ids, per_token, tuple(media), positions=joined)
        return cls(whole, depths, exits, ends, lengths)


def visible(exits: Tensor) -> Tensor:
    """Which tokens each token of a pack attends to: itself and its ancestors.

    Args:
        exits: The exits of the tokens of each pack, `[packs, tokens]`.

    Returns:
        Truth values `[packs, tokens, tokens]`.
    """
    places = torch.arange(exits.shape[1], device=exits.device)
    return (places <= places[:, None]) & (places[:, None] < exits[:, None, :])


def common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning of two rows."""
    differ = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
    return next(differ, min(len(left), len(right)))


def arrange(
    rows: Sequence[Row], skip: int, budget: int, width: int
) -> list[tuple[list[int], int]]:
    """Decide which rows share a pack.

    Rows that begin alike beyond `skip` stay together. Where they are too long for one pack, their
    beginning of s tokens is computed in each of several. A layer of d dimensions takes 24·d²
    operations per token and 4·d per token attended to, so packs of √(6·d·s) tokens then cost least.
    All other rows are spread evenly over packs of about PACK tokens.

    Args:
        rows: The rows.
        skip: Tokens that all rows begin with, which are not in the packs.
        budget: The most tokens of a pack of several rows.
        width: Dimensions of a state, d.

    Returns:
        The rows of each pack, in lexicographic order, and its number of tokens.
    """
    limit = max(1, min(PACK, budget // 2))
    groups: list[tuple[list[int], int]] = []
    before: Sequence[int] = ()
    for i in sorted(range(len(rows)), key=lambda i: rows[i].contents):
        shared = common(before, rows[i].contents)
        before, own = rows[i].contents, len(rows[i]) - shared
        room = min(budget, max(limit, math.isqrt(6 * width * max(0, shared - skip))))
        if shared - skip >= MIN_SHARED and groups[-1][1] + own <= room:
            members, size = groups[-1]
            groups[-1] = [*members, i], size + own
        else:
            groups.append(([i], len(rows[i]) - skip))
    short = [group for group in groups if group[1] <= limit]
    return [group for group in groups if group[1] > limit] + _spread(short, limit)


def _spread(groups: list[tuple[list[int], int]], limit: int) -> list[tuple[list[int], int]]:
    """Join groups to packs of about `limit` tokens: the longest first, each to the shortest pack
    (Graham, 1969)."""
    packs = [(0, number) for number in range(-(-sum(size for _, size in groups) // limit))]
    members: list[list[int]] = [[] for _ in packs]
    for place in sorted(range(len(groups)), key=lambda place: -groups[place][1]):
        size, number = packs[0]
        heapq.heapreplace(packs, (size + groups[place][1], number))
        members[number].append(place)
    return [
        ([row for place in sorted(members[number]) for row in groups[place][0]], size)
        for size, number in packs
    ]
