"""Lexicalization curves: where the state turns, and where it becomes the word.

At the last position of the prompt, for layer l and the predicted token y* = argmax logits, whose
row of the LM head is w_y* (FreeRet, arXiv 2509.24621, §3.2):

    alpha_attn[l] = cos(mlp[l-1], attn[l])      alpha_mlp[l] = cos(attn[l], mlp[l])
    beta_attn[l]  = cos(attn[l], w_y*)          beta_mlp[l]  = cos(mlp[l], w_y*)

where `embed` takes the place of mlp[l-1] in the first layer. The paper stops at the last layer; the
step through the final norm is measured too (alpha_norm, beta_norm), since some backbones lexicalize
there. Rank and probability of y* are those of the logit lens (nostalgebraist, 2020): the final norm
and the LM head applied to the state of an earlier site.

Where a backbone turns depends on the prompt: the same model may turn in its last MLP when it is
asked for a word and at its final norm on running text. So a report has the curves under several
kinds of prompt (PROMPT_KINDS), and the predicted words beside them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from probes.data import paraphrases
from probes.display import data_frame, picture
from probes.errors import BadFile, BadSetting
from probes.files import read_json, write_json, wrong_field
from probes.items import Item, as_item, several
from probes.measure.parts import NO_TURN, PROMPT_KINDS
from probes.model.backbone import Backbone
from probes.model.batches.remembering import remember
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.sites import Site, all_sites, embedding_sites
from probes.model.trace import record
from probes.prompts import E5V, NAMED, ControlPrompt, Prompt, Prompted, Source, as_prompt
from probes.stats import Interval, mean_interval, median_interval

if TYPE_CHECKING:
    from pandas import DataFrame


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
    median: a few prompts of very high rank would dominate a mean."""
    rank_mlp: Interval
    probability_attn: Interval
    """p(y*) under the logit lens at attn[l]."""
    probability_mlp: Interval
    probability_norm: Interval
    """p(y*) of the model itself."""
    words: list[str]
    """y* of each prompt."""

    @property
    def sharper_step(self) -> Literal["mlp", "norm"]:
        """The step of the last MLP or of the final norm: that with the smaller mean α."""
        return "norm" if self.alpha_norm.mean[0] < self.alpha_mlp.mean[-1] else "mlp"

    @property
    def alpha_turn(self) -> float:
        """Mean α of the sharper of the last two steps."""
        step = self.alpha_norm if self.sharper_step == "norm" else self.alpha_mlp
        return float(step.mean[-1])

    @property
    def onset(self) -> str | None:
        """The site right before the sharper of the last two steps, `attn[-1]` or `mlp[-1]`; None
        where neither of them turns the state, with a mean α of NO_TURN or more."""
        if self.alpha_turn >= NO_TURN:
            return None
        return "mlp[-1]" if self.sharper_step == "norm" else "attn[-1]"

    @property
    def turn(self) -> str:
        """The step after `onset`, in words: `the last MLP`, `the final norm` or `no turn`."""
        if self.onset is None:
            return "no turn"
        return "the final norm" if self.sharper_step == "norm" else "the last MLP"

    @property
    def num_layers(self) -> int:
        return len(self.alpha_mlp.mean)

    def __repr__(self) -> str:
        turn = self.turn if self.onset is None else f"turn in {self.turn}"
        return f"Curves({self.num_layers} layers, {len(self.words)} prompts, {turn})"

    def _repr_html_(self) -> str:
        from probes.plots import curves_figure

        return picture(curves_figure({f"{len(self.words)} prompts": self}), repr(self))

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each curve and layer, and the columns curve, layer,
        mean, low and high. Raises BadSetting where pandas is not installed."""
        return data_frame(self.points())

    def points(self) -> Iterator[dict[str, Any]]:
        """Each curve at each layer, by the names of the columns of `to_dataframe`."""
        for name in CURVES:
            for layer, (mean, low, high) in enumerate(zip(*getattr(self, name), strict=True)):
                yield {"curve": name, "layer": layer, "mean": mean, "low": low, "high": high}

    def to_json(self) -> dict[str, Any]:
        """Means and intervals to four significant digits, and the words."""
        curves = {
            name: {key: _rounded(values) for key, values in getattr(self, name)._asdict().items()}
            for name in CURVES
        }
        return {**curves, "words": self.words}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Curves":
        """Curves from what `to_json` returned."""
        curves = {
            name: Interval(*(np.array(curve[key]) for key in Interval._fields))
            for name, curve in data.items()
            if name != "words"
        }
        return cls(**curves, words=data["words"])

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, whole or not at all, that `load` reads."""
        return write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> "Curves":
        """Read saved curves.

        Raises:
            BadFile: The file is missing, cut off, or holds something else.
        """
        try:
            return cls.from_json(read_json(path))
        except (AttributeError, KeyError, TypeError) as error:
            raise BadFile(f"{path} holds no curves ({wrong_field(error)})") from None


CURVES = tuple(field.name for field in fields(Curves) if field.name != "words")
QUANTITIES = ("alpha", "beta", "norm", "rank", "probability")
"""The quantities of the curves; a curve is named after its quantity and its kind of site."""


def curve_prompts(kind: str) -> list[Source]:
    """The sentences of the paraphrase set as prompts of one kind.

    `word` is the prompt of E5-V, which asks for one word; `control` is the paper's control prompt;
    `text` is running text: the bare sentence without a chat turn, cut before its last word.

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
    """The kind in PROMPT_KINDS that is closest to a prompt of `probes.NAMED`."""
    return "control" if isinstance(NAMED[prompt], ControlPrompt) else "word"


def curves_by_prompt(
    backbone: Backbone, *, seed: int = 0, progress: bool = False
) -> dict[str, Curves]:
    """Measure the curves under every kind of prompt.

    Args:
        backbone: The model to measure.
        seed: Seed of the bootstrap intervals.
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
    prompt: str | Prompt | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Curves:
    """Measure α, β, norms, ranks and probabilities over one set of prompts.

    Args:
        backbone: The model to measure.
        prompts: Items or prompted items; by default the sentences of `curve_prompts("word")`, under
            the prompt of E5-V unless `prompt` names another one.
        prompt: The prompt that the items are put under, or its name in `probes.NAMED`, such as that
            of a recipe. None takes the items as they are.
        seed: Seed of the bootstrap intervals.
        progress: Whether to show a progress bar.

    Returns:
        Means (medians for ranks) over the prompts with 95% intervals, and the predicted words.

    Raises:
        BadSetting: `prompts` is empty, or `prompt` is unknown or given for prompted items.
        BadItem: A prompt cannot be read.
    """
    if prompt is not None:
        template = as_prompt(prompt)
        if prompts is None:
            prompts = [row["sentence"] for row in paraphrases()]
        items = [prompts] if isinstance(prompts, Prompted) else list(several(prompts))
        if any(isinstance(item, Prompted) for item in items):
            raise BadSetting("these items are under a prompt already: leave `prompt` out")
        prompts = [template.apply(as_item(item)) for item in items]
    rows = prompt_rows(backbone, prompts)
    return _measure(backbone, rows, seed, "lexicalization curves" if progress else None)


def prompt_rows(backbone: Backbone, prompts: Source | Sequence[Source] | None) -> list[Row]:
    """Prompts, or by default those of `curve_prompts("word")`, as tokens. Raises BadSetting where
    there are none."""
    rows = backbone.rows(curve_prompts("word") if prompts is None else prompts)
    if not rows:
        raise BadSetting("there are no prompts to measure: give at least one, or None")
    return rows


def curve_sites(num_layers: int) -> list[Site]:
    """The sites that the curves are measured at, in order of execution: `embed`, `attn` and `mlp`
    of each layer, and `norm`."""
    return [site for site in all_sites(num_layers) if site.kind in ("embed", "attn", "mlp", "norm")]


def alpha_of(before: Tensor, after: Tensor) -> Tensor:
    """α: the cosine of states `[…, hidden]` before and after a step, in float64."""
    return torch.cosine_similarity(before.double(), after.double(), dim=-1)


def beta_of(states: Tensor, word_rows: Tensor) -> Tensor:
    """β: the cosine of states `[…, hidden]` with rows w_y of the LM head, in float64."""
    return torch.cosine_similarity(states.double(), word_rows.double(), dim=-1)


def _measure(backbone: Backbone, rows: Sequence[Row], seed: int, progress: str | None) -> Curves:
    depth = backbone.num_layers
    sites = curve_sites(depth)
    late = [Site.parse(s).resolve(depth) for s in embedding_sites(depth)]

    def forward(batch: Batch) -> list[tuple]:
        """For each row, five quantities at every site after `embed`, the id of y*, and the states
        that the diagnostic reads."""
        states = record(backbone, batch, [*sites, *late], logits=True)
        assert states.logits is not None
        word = states.logits.argmax(-1)
        stream = torch.stack([states[site].float().cpu() for site in sites], dim=1)
        lens = [_find_word(backbone.lens(states[site], site), word) for site in sites[1:-1]]
        lens.append(_find_word(states.logits, word))
        ranks, probabilities = (torch.stack(values, dim=1) for values in zip(*lens, strict=True))
        wide = stream.double()
        before, after = wide[:, :-1], wide[:, 1:]
        alpha = alpha_of(before, after)  # [batch, sites - 1]
        beta = beta_of(after, backbone.word_rows(word).cpu()[:, None])
        lengths = after.norm(dim=-1)
        kept = torch.stack([states[site].float().cpu() for site in late], dim=1)
        quantities = alpha, beta, lengths, ranks, probabilities
        return list(zip(*quantities, kept, word.tolist(), strict=True))

    rows = [replace(row, mean=True) for row in rows]
    *columns, words = zip(*run_batches(backbone, rows, forward, progress=progress), strict=True)
    *quantities, kept = map(torch.stack, columns)
    remember(backbone, rows, late, kept)
    arrays = (quantity.double().numpy() for quantity in quantities)
    values: dict[str, ndarray] = dict(zip(QUANTITIES, arrays, strict=True))

    def curve(name: str) -> Interval:
        """A curve by its name, such as `beta_mlp`: a quantity at the sites of one kind."""
        quantity, kind = name.split("_")
        columns = [i for i, site in enumerate(sites[1:]) if site.kind == kind]
        average = median_interval if quantity == "rank" else mean_interval
        return average(np.take(values[quantity], columns, axis=1), seed)

    decoded = [backbone.tokenizer.decode([word]) for word in words]
    return Curves(**{name: curve(name) for name in CURVES}, words=decoded)


def _find_word(logits: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """Rank (1 is the top) and probability of each row's word."""
    word = word.to(logits.device)  # the head may be on another device than the input
    score = logits.gather(1, word[:, None])
    rank = (logits > score).sum(1) + 1
    return rank.cpu(), (score[:, 0] - logits.logsumexp(1)).exp().cpu()


def _rounded(values: ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
