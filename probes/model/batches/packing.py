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
    read: list[list[int]]
    """For each row, the places of the tokens whose states are read."""
    averaged: list[list[int]]
    """For each row, the places of the tokens whose states are averaged."""
    lengths: list[int]
    """Tokens that each row adds to those before it."""

    @classmethod
    def of(cls, encoder: Encoder, rows: Sequence[Row], skip: int) -> "Pack":
        """Pack rows, in lexicographic order of their contents, without the first `skip` tokens,
        which are the same in all."""
        ids, depths, exits, read, averaged, lengths = [], [], [], [], [], []
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
            read.append(path[-row.read :])
            averaged.append([path[place - skip] for place in row.averaged])
            lengths.append(len(row) - shared)
            before = row.contents
        for place in path:
            exits[place] = len(ids)
        joined = torch.cat(positions, dim=1) if positions else None
        whole = Row(ids, per_token, tuple(media), positions=joined)
        return cls(whole, depths, exits, read, averaged, lengths)


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


@dataclass(frozen=True)
class Group:
    """Rows that begin alike, in lexicographic order. Tokens that all rows of the list begin with,
    which are not in the packs, do not count."""

    places: list[int]
    """The rows, as places in the list."""
    shared: int
    """Tokens that all of them begin with."""
    lengths: list[int]
    """Tokens of each row."""
    tails: list[int]
    """Tokens of each row that neither the beginning nor the row before it holds."""

    def parts(self, budget: int, width: int) -> int:
        """The number of packs to divide it into, each of which computes the beginning.

        A layer of d dimensions takes 24·d² operations per token and 4·d per token attended to. With
        s tokens in the beginning, packs of √(6·d·s) tokens therefore cost least.

        Args:
            budget: The most tokens of a pack of several rows.
            width: Dimensions of a state, d.
        """
        room = min(budget, max(_limit(budget), math.isqrt(6 * width * self.shared)))
        parts = -(-sum(self.tails) // max(1, room - self.shared))
        return min(len(self.places), max(1, parts))

    def divided(self, parts: int) -> list[tuple[list[int], int]]:
        """The rows of each part and its tokens, about as many in each."""
        share = sum(self.tails) / parts
        packs: list[tuple[list[int], int]] = []
        filled = 0.0
        for place, length, tail in zip(self.places, self.lengths, self.tails, strict=True):
            if not packs or filled + tail / 2 > share * len(packs):
                packs.append(([place], length))
            else:
                packs[-1][0].append(place)
                packs[-1] = packs[-1][0], packs[-1][1] + tail
            filled += tail
        return packs


def grouped(rows: Sequence[Row], skip: int) -> list[Group]:
    """Group rows that begin alike beyond the `skip` tokens that all of them begin with."""
    runs: list[list[tuple[int, int]]] = []  # the rows, and what each shares with the one before
    before: Sequence[int] = ()
    for place in sorted(range(len(rows)), key=lambda place: rows[place].contents):
        shared = common(before, rows[place].contents) - skip
        if runs and shared >= MIN_SHARED:
            runs[-1].append((place, shared))
        else:
            runs.append([(place, 0)])
        before = rows[place].contents
    groups = []
    for run in runs:
        lengths = [len(rows[place]) - skip for place, _ in run]
        least = min([shared for _, shared in run[1:]], default=lengths[0])
        tails = [n - max(shared, least) for n, (_, shared) in zip(lengths, run, strict=True)]
        groups.append(Group([place for place, _ in run], least, lengths, tails))
    return groups


def packed(groups: Sequence[Group], budget: int, width: int) -> list[tuple[list[int], int]]:
    """Decide which rows share a pack, of at most `budget` tokens if it holds several.

    Long groups are divided. Short ones are joined to packs of about PACK tokens, spread evenly: the
    longest first, each to the shortest pack (Graham, 1969).

    Returns:
        The rows of each pack, in lexicographic order, and its number of tokens.
    """
    limit = _limit(budget)
    parts = [part for g in groups for part in g.divided(g.parts(budget, width))]
    short = [part for part in parts if part[1] <= limit]
    bins = [(0, number) for number in range(-(-sum(size for _, size in short) // limit))]
    members: list[list[int]] = [[] for _ in bins]
    for i in sorted(range(len(short)), key=lambda i: -short[i][1]):
        size, number = bins[0]
        heapq.heapreplace(bins, (size + short[i][1], number))
        members[number].append(i)
    return [part for part in parts if part[1] > limit] + [
        ([place for i in sorted(members[number]) for place in short[i][0]], size)
        for size, number in bins
    ]


def _limit(budget: int) -> int:
    """Tokens of a pack of short rows, two of which must be within the budget."""
    return max(1, min(PACK, budget // 2))
