"""How much of a sublayer's turn is lexical: its write split by the word that the backbone predicts.

Let h be the state before the sublayer, m its write, and u the unit vector along the part of w_y*
that is at right angles to h. Then

    m = a · h/|h| + b · u + r,

where a changes the length of the state alone, b turns it toward the predicted word, or away where
it is negative, and the remainder r, at right angles to both, turns it elsewhere. The angle of the
turn is atan2(√(b² + |r|²), |h| + a).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.display import data_frame
from probes.errors import BadSetting
from probes.measure.lexicalization import curve_sites, prompt_rows
from probes.model.backbone import Backbone
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch
from probes.model.sites import Site
from probes.model.trace import record
from probes.prompts import Source
from probes.stats import Interval, mean_interval

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Turn:
    """The turn of one sublayer, by prompt. Lengths are in units of the state before it."""

    site: str
    words: list[str]
    """y* of each prompt."""
    length: Float[np.ndarray, " prompts"]
    """a / |h|: what the write adds to the length of the state."""
    lexical: Float[np.ndarray, " prompts"]
    """b / |h|: how far it goes toward the predicted word."""
    remainder: Float[np.ndarray, " prompts"]
    """|r| / |h|: how far it goes elsewhere."""

    @property
    def angle(self) -> Float[np.ndarray, " prompts"]:
        """The angle between the state before and after, in degrees; α is its cosine."""
        across = np.hypot(self.lexical, self.remainder)
        return np.degrees(np.arctan2(across, 1 + self.length))

    @property
    def shares(self) -> dict[str, Float[np.ndarray, " prompts"]]:
        """The squared lengths of the three components as shares of that of the write, which sum to
        1: `length`, `lexical` and `remainder`."""
        squares = {name: getattr(self, name) ** 2 for name in ("length", "lexical", "remainder")}
        whole = np.maximum(sum(squares.values()), 1e-300)
        return {name: square / whole for name, square in squares.items()}

    @property
    def lexical_share(self) -> Float[np.ndarray, " prompts"]:
        """The share of the turn that is lexical: b² / (b² + |r|²), length left out. A random
        direction has 1 / (hidden size - 1) of it."""
        return self.lexical**2 / np.maximum(self.lexical**2 + self.remainder**2, 1e-300)

    @property
    def growth(self) -> Float[np.ndarray, " prompts"]:
        """The length of the state after the sublayer over that before it."""
        return np.hypot(np.hypot(self.lexical, self.remainder), 1 + self.length)

    def intervals(self, seed: int = 0) -> dict[str, Interval]:
        """Means over prompts with 95% bootstrap intervals: the shares of the write, the lexical
        share of the turn, the angle in degrees and the growth."""
        values = {
            **{f"{name} share": share for name, share in self.shares.items()},
            "lexical share of the turn": self.lexical_share,
            "angle": self.angle,
            "growth": self.growth,
        }
        return {name: mean_interval(value, seed) for name, value in values.items()}

    def __repr__(self) -> str:
        share, angle = self.intervals()["lexical share of the turn"], self.angle.mean()
        return (
            f"Turn({self.site}, {len(self.words)} prompts, {angle:.0f}°, {100 * share.mean:.0f}% "
            f"of it lexical [{100 * share.low:.0f}, {100 * share.high:.0f}])"
        )

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each prompt. Raises BadSetting where pandas is not
        installed."""
        names = ("length", "lexical", "remainder", "lexical_share", "angle", "growth")
        columns = [getattr(self, name).tolist() for name in names]
        rows = zip(self.words, *columns, strict=True)
        return data_frame(dict(zip(("word", *names), row, strict=True)) for row in rows)


def turn(
    backbone: Backbone,
    prompts: Source | Sequence[Source] | None = None,
    site: str | Site = "mlp[-1]",
    *,
    progress: bool = False,
) -> Turn:
    """Split the turn of a sublayer into length, word and remainder.

    Args:
        backbone: The model to measure.
        prompts: Items or prompted exchanges; by default `curve_prompts("word")`.
        site: The site after the sublayer: `attn[l]` or `mlp[l]`.
        progress: Whether to show a progress bar.

    Returns:
        The components by prompt.

    Raises:
        BadItem: A prompt cannot be read.
        BadSetting: There are no prompts, or no sublayer ends at the site.
    """
    sites = curve_sites(backbone.num_layers)
    after = Site.parse(site).single(backbone.num_layers)
    if after.kind not in ("attn", "mlp"):
        raise BadSetting(f"{after} is not the end of a sublayer: name attn[l] or mlp[l]")
    before = sites[sites.index(after) - 1]
    rows = prompt_rows(backbone, prompts)

    def forward(batch: Batch) -> list[tuple[Tensor, int]]:
        states = record(backbone, batch, [before, after], logits=True)
        assert states.logits is not None
        words = states.logits.argmax(-1)
        start, end = (states[each].cpu().double() for each in (before, after))
        turned = components(start, end, backbone.word_rows(words).cpu().double())
        return list(zip(turned, words.tolist(), strict=True))

    title = f"turns at {after}" if progress else None
    split, words = zip(*run_batches(backbone, rows, forward, progress=title), strict=True)
    return Turn(
        str(after),
        [backbone.tokenizer.decode([word]) for word in words],
        *torch.stack(split).numpy().T,
    )


def components(
    before: Float[Tensor, "prompts hidden"],
    after: Float[Tensor, "prompts hidden"],
    rows_of_words: Float[Tensor, "prompts hidden"],
) -> Float[Tensor, "prompts 3"]:
    """a, b and |r|, in units of the length of the state before."""
    size = before.norm(dim=-1, keepdim=True)
    state, write = before / size, (after - before) / size
    length = (write * state).sum(-1, keepdim=True)
    toward = rows_of_words - (rows_of_words * state).sum(-1, keepdim=True) * state
    toward = toward / toward.norm(dim=-1, keepdim=True)
    lexical = (write * toward).sum(-1, keepdim=True)
    remainder = (write - length * state - lexical * toward).norm(dim=-1, keepdim=True)
    return torch.cat([length, lexical, remainder], dim=-1)
