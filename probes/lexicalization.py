"""Lexicalization curves: where the state turns, and where it becomes the word (paper §3.2).

At the last prompt position, for layer l and the predicted token y* = argmax logits:

    alpha_attn[l] = cos(mlp[l-1], attn[l])      alpha_mlp[l] = cos(attn[l], mlp[l])
    beta_attn[l]  = cos(attn[l], w_y*)          beta_mlp[l]  = cos(mlp[l], w_y*)

with mlp[-1 before the first layer] = embed. The paper stops at the last layer; the step through
the final norm is measured too (alpha_norm, beta_norm), since some backbones lexicalize there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probes.backbone import Backbone, Source
from probes.batching import run_batches
from probes.data import paraphrases
from probes.errors import BadSetting, FreeRetError
from probes.items import Item
from probes.prompts import E5V
from probes.sites import all_sites
from probes.stats import Interval, mean_interval
from probes.trace import record


@dataclass(frozen=True)
class Curve:
    """One quantity by layer: `values` per prompt, and their mean with its 95% interval."""

    values: Float[ndarray, "prompts layers"]
    interval: Interval

    @property
    def mean(self) -> Float[ndarray, " layers"]:
        return self.interval.mean


@dataclass(frozen=True)
class Curves:
    """All curves of one backbone. Cosines are in [-1, 1]; layer axes have `num_layers` entries,
    those of `norm` one."""

    alpha_attn: Curve
    alpha_mlp: Curve
    alpha_norm: Curve
    beta_attn: Curve
    beta_mlp: Curve
    beta_norm: Curve
    norm_attn: Curve
    """||attn[l]||, the length of the residual state."""
    norm_mlp: Curve
    rank_attn: Curve
    """Rank of y* (1 is the top) when final norm and LM head read attn[l]: a logit lens."""
    rank_mlp: Curve
    words: list[str]
    """y* of each prompt."""

    @property
    def onset(self) -> str:
        """The site right before the sharpest turn of the last MLP and the final norm."""
        return "mlp[-1]" if self.alpha_norm.mean[0] < self.alpha_mlp.mean[-1] else "attn[-1]"

    def to_json(self) -> dict[str, Any]:
        """Means and intervals, and the per-prompt values rounded to four digits."""
        curves = {
            f.name: {
                "mean": _rounded(curve.interval.mean),
                "low": _rounded(curve.interval.low),
                "high": _rounded(curve.interval.high),
                "values": _rounded(curve.values),
            }
            for f in fields(self)
            if isinstance(curve := getattr(self, f.name), Curve)
        }
        return {**curves, "words": self.words}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Curves":
        curves = {
            name: Curve(
                np.array(c["values"]), Interval(*(np.array(c[k]) for k in ("mean", "low", "high")))
            )
            for name, c in data.items()
            if name != "words"
        }
        return cls(**curves, words=data["words"])


def default_prompts(count: int = 48) -> list:
    """The E5-V prompt over the first sentences of the paraphrase set."""
    return [E5V.apply(Item(row["sentence"])) for row in paraphrases()[:count]]


def lexicalization_curves(
    backbone: Backbone,
    prompts: Sequence[Source] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Curves:
    """Measure all curves over `prompts` (default: `default_prompts()`)."""
    sites = all_sites(backbone.num_layers)
    rows = [backbone.row(prompt) for prompt in (default_prompts() if prompts is None else prompts)]
    if not rows:
        raise BadSetting("no prompts: curves are means over prompts; give at least two")

    def forward(batch: Any) -> list[tuple]:
        states = record(backbone, batch, sites, logits=True)
        if states.logits is None:
            raise FreeRetError("the trace kept no logits")
        by_site = torch.stack([states[site].float().cpu() for site in sites], dim=1)
        word = states.logits.argmax(-1)
        ranks = [_rank(backbone.lens(states[site]), word) for site in sites[1:-1]]
        rows_of_words = backbone.word_rows(word).cpu()
        return list(zip(by_site, rows_of_words, torch.stack(ranks, 1), word.tolist(), strict=True))

    results = run_batches(
        backbone, rows, forward, progress="lexicalization curves" if progress else None
    )
    states = torch.stack([r[0] for r in results])  # [prompts, sites, hidden]
    words = torch.stack([r[1] for r in results])[:, None]
    ranks = torch.stack([r[2] for r in results]).double().numpy()  # [prompts, sites - 2]
    alpha = _cosine(states[:, :-1], states[:, 1:])  # entry i: the turn into site i + 1
    beta = _cosine(states[:, 1:], words)
    lengths = states.norm(dim=-1).double().numpy()

    def curve(values: ndarray) -> Curve:
        return Curve(values, mean_interval(values, seed))

    return Curves(
        alpha_attn=curve(alpha[:, 0:-1:2]),
        alpha_mlp=curve(alpha[:, 1:-1:2]),
        alpha_norm=curve(alpha[:, -1:]),
        beta_attn=curve(beta[:, 0:-1:2]),
        beta_mlp=curve(beta[:, 1:-1:2]),
        beta_norm=curve(beta[:, -1:]),
        norm_attn=curve(lengths[:, 1:-1:2]),
        norm_mlp=curve(lengths[:, 2:-1:2]),
        rank_attn=curve(ranks[:, 0::2]),
        rank_mlp=curve(ranks[:, 1::2]),
        words=[backbone.tokenizer.decode([r[3]]) for r in results],
    )


def _cosine(a: Tensor, b: Tensor) -> ndarray:
    return torch.cosine_similarity(a.double(), b.double(), dim=-1).numpy()


def _rank(logits: Tensor, word: Tensor) -> Tensor:
    return (logits > logits.gather(1, word[:, None])).sum(1).cpu() + 1


def _rounded(values: Any) -> list:
    return np.round(np.asarray(values, dtype=float), 4).tolist()
