"""Rows of tokens, and batches of rows."""

import functools
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from probes.media.perception import Piece


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
    """

    ids: list[int]
    per_token: dict[str, list[int]] = field(default_factory=dict)
    media: tuple[Piece, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    positions: Tensor | None = field(default=None, compare=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of its processed media."""
        return sum(piece.processed.size for piece in self.media)

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
    ends: list[tuple[int, int]] | None = None
    """Where the last token of each row is, as row and column of the inputs; None if it is in the
    last column of a row of its own."""

    def __repr__(self) -> str:
        return f"Batch({len(self)} rows, up to {max(self.lengths, default=0)} tokens)"

    def __len__(self) -> int:
        return len(self.lengths)
