"""Rows of tokens, and batches of rows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from probes.errors import BadSetting
from probes.media.perception import Piece

Positions = Literal["last", "all"] | slice
"""Which tokens of each row are read: "last" stands for where `Batch.read` says, "all" for every
token that is not padding, placeholders of media among them, and a slice for some of these, counted
in each row: `slice(-5, None)` for its last five."""


@dataclass(frozen=True)
class Row:
    """A tokenised prompt.

    Attributes:
        ids: Token ids, placeholder tokens of media among them.
        per_token: Further inputs of the model by name, with one value per token: 0 for text.
        media: The media, in the order of their placeholders.
        spans: First and last placeholder, plus one, of each medium.
        positions: M-RoPE positions `[axes, length]` where they are not those of this row alone,
            since it is the end of a longer row.
        content: First and last token, plus one, of each stretch of tokens that hold content of the
            item, the placeholders of its media among them.
        mean: Whether the states of these tokens are read, too, for a site with a mean.
        targets: Tokens that the model is to predict at its end, the last of which is not part of
            the row. The state before each of them is read.
    """

    ids: list[int]
    per_token: dict[str, list[int]] = field(default_factory=dict)
    media: tuple[Piece, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    positions: Tensor | None = field(default=None, compare=False)
    content: tuple[tuple[int, int], ...] = ()
    mean: bool = False
    targets: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of its processed media."""
        return sum(piece.processed.size for piece in self.media)

    def predicting(self, ids: Sequence[int]) -> "Row":
        """The row at whose end the model predicts these tokens, of which there is at least one."""
        added = len(ids) - 1
        per_token = {name: values + [0] * added for name, values in self.per_token.items()}
        return replace(self, ids=[*self.ids, *ids[:-1]], per_token=per_token, targets=tuple(ids))

    @property
    def read(self) -> int:
        """Number of tokens at its end whose states are read."""
        return max(1, len(self.targets))

    @property
    def averaged(self) -> list[int]:
        """Places of the tokens whose states are averaged for a site with a mean: those of its
        content, or the last one where there is none."""
        if not self.mean:
            return []
        return [i for start, stop in self.content for i in range(start, stop)] or [len(self) - 1]

    @property
    def first_read(self) -> int:
        """Place of the first token whose state is read."""
        return min([len(self) - self.read, *self.averaged[:1]])

    @functools.cached_property
    def contents(self) -> list[int]:
        """The token ids, in which the placeholders of different media differ: rows begin alike as
        far as their contents do."""
        contents = list(self.ids)
        for piece, (start, stop) in zip(self.media, self.spans, strict=True):
            contents[start:stop] = [-1 - abs(hash(piece.key))] * (stop - start)
        return contents


@dataclass(frozen=True)
class Batch:
    """Left-padded rows on the device."""

    inputs: dict[str, Any]
    """The model's keyword arguments."""
    lengths: list[int]
    """Tokens of each row that are computed: no padding, and nothing that it shares."""
    read: list[list[tuple[int, int]]]
    """For each row, the tokens whose states are read, as row and column of the inputs."""
    averaged: list[list[tuple[int, int]]] = field(default_factory=list)
    """For each row the tokens whose states are averaged, likewise; empty where none are."""

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, up to {max(self.lengths, default=0)} tokens)"

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def packed(self) -> bool:
        """Whether it holds packs, with an attention mask of their own, and not whole rows."""
        mask = self.inputs["attention_mask"]
        return not isinstance(mask, Tensor) or mask.ndim != 2

    def reading(self, positions: Positions) -> "Batch":
        """The same batch, of which the states at these positions are read.

        Raises:
            BadSetting: There are no such positions; or other than "last" are asked of a batch that
                continues a shared prefix, in which tokens of its rows are missing.
        """
        if positions == "last":
            return self
        if self.packed:
            raise BadSetting(
                "a batch that continues a shared prefix is read at its last positions only: "
                "make it by Backbone.encode, or by run_batches with share_prefix=False"
            )
        read = [
            [(number, column) for column in row.nonzero().flatten().tolist()]
            for number, row in enumerate(
                chosen_tokens(self.inputs["attention_mask"], positions).cpu()
            )
        ]
        return replace(self, read=read)

    def averaged_places(self) -> list[list[tuple[int, int]]]:
        """The places whose states are averaged for each row, of which one state is read. Raises
        BadSetting where these are not known, or a row has several states."""
        if not self.averaged or not all(self.averaged):
            raise BadSetting(
                "nothing says what the content of these rows is, which a site with a mean reads: "
                "make the batch by Backbone.encode"
            )
        if any(len(places) != 1 for places in self.read):
            raise BadSetting(
                "a site with a mean has one state in each row: leave positions at 'last'"
            )
        return self.averaged

    def by_row(self, states: Tensor) -> list[Tensor]:
        """The states of each row, `[read, …]`, from those of the batch, which are row after row."""
        return list(states.split([len(places) for places in self.read]))


def token_slice(positions: Positions) -> slice:
    """The tokens of a row without padding that are read. Raises BadSetting where `positions` is
    none of `Positions`."""
    named = {"all": slice(None), "last": slice(-1, None)}
    chosen = positions if isinstance(positions, slice) else named.get(positions)
    if chosen is None:
        raise BadSetting(f"positions are 'last', 'all' or a slice, not {positions!r}")
    return chosen


def chosen_tokens(mask: Tensor, positions: Positions) -> Tensor:
    """Truth values `[batch, tokens]` of the tokens at some positions, by an attention mask of the
    same shape, in which padding is 0. Raises what `token_slice` does."""
    chosen, found = token_slice(positions), torch.zeros_like(mask, dtype=torch.bool)
    for row, tokens in zip(found, mask, strict=True):
        row[tokens.nonzero().flatten()[chosen]] = True
    return found
