"""Lexicalization curves: where the state turns, and where it becomes the word (paper §3.2).

At the last prompt position, for layer l and the predicted token y* = argmax logits:

    alpha_attn[l] = cos(mlp[l-1], attn[l])      alpha_mlp[l] = cos(attn[l], mlp[l])
    beta_attn[l]  = cos(attn[l], w_y*)          beta_mlp[l]  = cos(mlp[l], w_y*)

with mlp[-1 before the first layer] = embed. The paper stops at the last layer; the step through
the final norm is measured too (alpha_norm, beta_norm), since some backbones lexicalize there.

Where a backbone turns depends on the prompt: the same model may turn in its last MLP when it is
asked for a word and at its final norm on running text. So the curves are measured under several
kinds of prompt (PROMPT_KINDS), and the predicted words are kept beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from probes.data import paraphrases
from probes.display import picture
from probes.errors import BadSetting, FreeRetError
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batching import run_batches
from probes.model.encoding import Batch, Row
from probes.model.sites import all_sites
from probes.model.trace import record
from probes.prompts import E5V, ControlPrompt, Source
from probes.stats import Interval, mean_interval, median_interval

PROMPT_KINDS: dict[str, str] = {
    "word": "asked for a word",
    "control": "control prompt",
    "text": "running text",
}
"""The kinds of prompt that a report holds curves of, and how figures and sentences call them."""


@dataclass(frozen=True)
class Curves:
    """All curves of one backbone under one set of prompts.

    Each is a mean over prompts (a median for the ranks) with its 95% bootstrap interval; `mean`,
    `low` and `high` are arrays by layer, of length `num_layers`, or of length 1 for the final norm.
    Entry l belongs to the site `attn[l]` or `mlp[l]`. Cosines are in [-1, 1].
    """

    alpha_attn: Interval
    alpha_mlp: Interval
    alpha_norm: Interval
    beta_attn: Interval
    beta_mlp: Interval
    beta_norm: Interval
    norm_attn: Interval
    """||attn[l]||, the length of the residual state."""
    norm_mlp: Interval
    rank_attn: Interval
    """Median rank of y* (1 is the top) under the logit lens at attn[l]. Its `mean` holds the
    median: a few prompts of very high rank would decide a mean of ranks."""
    rank_mlp: Interval
    probability_attn: Interval
    """p(y*) under the logit lens at attn[l]."""
    probability_mlp: Interval
    probability_norm: Interval
    """p(y*) of the model itself."""
    words: list[str]
    """y* of each prompt."""

    @property
    def onset(self) -> str:
        """The site right before the sharpest turn of the last MLP and the final norm."""
        return "mlp[-1]" if self.alpha_norm.mean[0] < self.alpha_mlp.mean[-1] else "attn[-1]"

    @property
    def turn(self) -> str:
        """The step after `onset`, in words."""
        return "the last MLP" if self.onset == "attn[-1]" else "the final norm"

    @property
    def alpha_turn(self) -> float:
        """Mean α of the step after `onset`."""
        after = self.alpha_mlp if self.onset == "attn[-1]" else self.alpha_norm
        return float(after.mean[-1])

    @property
    def num_layers(self) -> int:
        return len(self.alpha_mlp.mean)

    def __repr__(self) -> str:
        return f"Curves({self.num_layers} layers, {len(self.words)} prompts, turn in {self.turn})"

    def _repr_html_(self) -> str:
        from probes.plots import curves_figure

        return picture(curves_figure({f"{len(self.words)} prompts": self}), repr(self))

    def to_json(self) -> dict[str, Any]:
        """Means and intervals to four significant digits, and the words."""
        names = [f.name for f in fields(self) if f.name != "words"]
        curves = {
            name: {key: _rounded(values) for key, values in getattr(self, name)._asdict().items()}
            for name in names
        }
        return {**curves, "words": self.words}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Curves":
        curves = {
            name: Interval(*(np.array(curve[key]) for key in Interval._fields))
            for name, curve in data.items()
            if name != "words"
        }
        return cls(**curves, words=data["words"])


def curve_prompts(kind: str) -> list[Source]:
    """The sentences of the paraphrase set as prompts of one kind.

    `word` asks for one word (E5-V), `control` is the paper's control prompt, and `text` is running
    text: the bare sentence without a chat turn, cut before its last word, which is what should
    follow.

    Args:
        kind: One of PROMPT_KINDS.

    Returns:
        One prompt for each of the 200 sentences.

    Raises:
        BadSetting: There is no such kind.
    """
    sentences = [row["sentence"] for row in paraphrases()]
    if kind == "text":
        return [Item(sentence.rsplit(maxsplit=1)[0]) for sentence in sentences]
    if kind not in PROMPT_KINDS:
        raise BadSetting(
            f"{kind!r} is not a kind of prompt; choose one of {', '.join(PROMPT_KINDS)}"
        )
    prompt = ControlPrompt() if kind == "control" else E5V
    return [prompt.apply(Item(sentence)) for sentence in sentences]


def prompt_kind(prompt: str) -> str:
    """The kind in PROMPT_KINDS that a prompt of `probes.NAMED` belongs to."""
    return "control" if prompt == "control" else "word"


def curves_by_prompt(
    backbone: Backbone, *, seed: int = 0, progress: bool = False
) -> dict[str, Curves]:
    """Measure the curves under every kind of prompt.

    Args:
        backbone: The model to measure.
        seed: Of the bootstrap.
        progress: Whether to show progress bars.

    Returns:
        The curves by kind, in the order of PROMPT_KINDS.
    """
    return {
        kind: _measure(
            backbone,
            backbone.rows(curve_prompts(kind)),
            seed,
            f"curves, {title}" if progress else None,
        )
        for kind, title in PROMPT_KINDS.items()
    }


def lexicalization_curves(
    backbone: Backbone,
    prompts: Source | Sequence[Source] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Curves:
    """Measure all curves over one set of prompts.

    Args:
        backbone: The model to measure.
        prompts: Items or prompted items; by default `curve_prompts("word")`.
        seed: Of the bootstrap.
        progress: Whether to show a progress bar.

    Returns:
        Means over the prompts with 95% intervals, and the predicted words.

    Raises:
        BadSetting: `prompts` is empty.
        BadItem: A prompt cannot be read.
    """
    rows = backbone.rows(curve_prompts("word") if prompts is None else prompts)
    if not rows:
        raise BadSetting("there are no prompts to measure: give at least one, or None")
    return _measure(backbone, rows, seed, "lexicalization curves" if progress else None)


def _measure(backbone: Backbone, rows: Sequence[Row], seed: int, progress: str | None) -> Curves:
    sites = all_sites(backbone.num_layers)

    def forward(batch: Batch) -> list[tuple]:
        """For each row, five quantities at every site after `embed`, and the id of y*."""
        states = record(backbone, batch, sites, logits=True)
        if states.logits is None:
            raise FreeRetError("the trace kept no logits")
        word = states.logits.argmax(-1)
        stream = torch.stack([states[site].float().cpu() for site in sites], dim=1).double()
        before, after = stream[:, :-1], stream[:, 1:]
        rows_of_words = backbone.word_rows(word).cpu().double()[:, None]
        lens = [_find_word(backbone.lens(states[site], site), word) for site in sites[1:]]
        ranks, probabilities = (torch.stack(values, dim=1) for values in zip(*lens, strict=True))
        alpha = torch.cosine_similarity(before, after, dim=-1)  # [batch, sites - 1]
        beta = torch.cosine_similarity(after, rows_of_words, dim=-1)
        lengths = after.norm(dim=-1)
        return list(zip(alpha, beta, lengths, ranks, probabilities, word.tolist(), strict=True))

    *columns, words = zip(*run_batches(backbone, rows, forward, progress=progress), strict=True)
    alpha, beta, lengths, ranks, probabilities = (torch.stack(c).double().numpy() for c in columns)

    def attn(values: ndarray) -> Interval:
        return mean_interval(values[:, :-1:2], seed)

    def mlp(values: ndarray) -> Interval:
        return mean_interval(values[:, 1::2], seed)

    def norm(values: ndarray) -> Interval:
        return mean_interval(values[:, -1:], seed)

    return Curves(
        alpha_attn=attn(alpha),
        alpha_mlp=mlp(alpha),
        alpha_norm=norm(alpha),
        beta_attn=attn(beta),
        beta_mlp=mlp(beta),
        beta_norm=norm(beta),
        norm_attn=attn(lengths),
        norm_mlp=mlp(lengths),
        rank_attn=median_interval(ranks[:, :-1:2], seed),
        rank_mlp=median_interval(ranks[:, 1::2], seed),
        probability_attn=attn(probabilities),
        probability_mlp=mlp(probabilities),
        probability_norm=norm(probabilities),
        words=[backbone.tokenizer.decode([word]) for word in words],
    )


def _find_word(logits: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """Rank (1 is the top) and probability of each row's word."""
    word = word.to(logits.device)  # the head may be on another device than the input
    score = logits.gather(1, word[:, None])
    rank = (logits > score).sum(1) + 1
    return rank.cpu(), (score[:, 0] - logits.logsumexp(1)).exp().cpu()


def _rounded(values: ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
