"""Does stage 2 help? Stage-1 candidates of the paraphrase set, judged by the best frame.

At the extraction that the diagnostic supports, every sentence's first candidates are judged and
the two scores fused at several weights: standardised stage-1 score + w · log-odds. A weight is
worth its cost only where it beats stage 1 alone beyond noise, sentence by sentence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from probes.data import paraphrases
from probes.items import Item
from probes.measure.framing import FRAMES, judge
from probes.measure.paraphrases import DiagnosticScore, embed_diagnostic, in_geometry
from probes.model.backbone import Backbone
from probes.prompts import NAMED
from probes.stats import Interval, mean_interval

SENTENCES, CANDIDATES = 50, 5
WEIGHTS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, None)
"""Weights of the log-odds; None leaves stage 2 alone to decide."""


@dataclass(frozen=True)
class Fusion:
    """Mean reciprocal rank of the partner among the candidates, and the gain over stage 1."""

    frame: str
    weight: float | None
    reciprocal_rank: Interval
    gain: Interval
    """Paired difference to stage 1 alone."""


def fuse(
    stage1: Sequence[float] | Float[np.ndarray, " candidates"],
    margins: Sequence[float] | Float[np.ndarray, " candidates"],
    weight: float | None,
) -> Float[np.ndarray, " candidates"]:
    """One query's candidates by both stages: standardised stage-1 score + weight · log-odds.

    Args:
        stage1: Stage-1 scores. Equal ones standardise to 0.
        margins: Log-odds of a match.
        weight: None leaves the log-odds alone to decide.

    Returns:
        Fused scores, float64; higher is better.
    """
    second = np.asarray(margins, dtype=float)
    if weight is None:
        return second
    first = np.asarray(stage1, dtype=float)
    spread = first.std()
    return (first - first.mean()) / (spread if spread > 0 else 1.0) + weight * second


def rerank_gain(
    backbone: Backbone,
    setting: DiagnosticScore,
    frame: str,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[Fusion]:
    """What judging gains over stage 1, sentence by sentence, at each weight of WEIGHTS.

    Args:
        backbone: Embeds and judges.
        setting: The extraction of stage 1.
        frame: A name in FRAMES.
        seed: Of the bootstrap intervals.
        progress: Whether to show a bar.

    Returns:
        One entry for each weight, over the first SENTENCES sentences and their CANDIDATES closest
        paraphrases and near-misses, the partner always among them.
    """
    vectors = embed_diagnostic(backbone, NAMED[setting.prompt], [setting.site], progress=progress)
    at_site = {column: states[:, 0] for column, states in vectors.items()}
    sentences, partners, near = in_geometry(setting.geometry, at_site)
    bar = {"desc": f"reranking, {frame}", "disable": not progress, "delay": 2}
    scores, candidates = closest(sentences[:SENTENCES] @ torch.cat([partners, near]).T)
    rows = paraphrases()
    texts = [row["paraphrase"] for row in rows] + [row["near_miss"] for row in rows]
    margins = []
    for row, places in zip(rows, tqdm(candidates.tolist(), **bar), strict=False):
        pairs = [(Item(row["sentence"]), Item(texts[place])) for place in places]
        margins.append(judge(backbone, FRAMES[frame], pairs))  # one query: they share its prefix
    partner = candidates.numpy() == np.arange(len(candidates))[:, None]
    first = scores.double().numpy()
    alone = reciprocal_ranks(first, partner)
    fusions = []
    for weight in WEIGHTS:
        fused = np.stack([fuse(s, m, weight) for s, m in zip(first, margins, strict=True)])
        together = reciprocal_ranks(fused, partner)
        gain = mean_interval(together - alone, seed)
        fusions.append(Fusion(frame, weight, mean_interval(together, seed), gain))
    return fusions


def closest(
    scores: Float[Tensor, "queries pool"],
) -> tuple[Float[Tensor, "queries candidates"], Int[Tensor, "queries candidates"]]:
    """Each query's partner, which stands at its own place of the pool, and its closest rivals.

    Returns:
        Stage-1 scores and places in the pool, best first. The partner is among them whatever its
        rank, since this is about the second stage alone.
    """
    own = torch.arange(len(scores))
    lifted = scores.clone()
    lifted[own, own] = torch.inf
    places = lifted.topk(CANDIDATES).indices
    order = scores.gather(1, places).argsort(dim=1, descending=True, stable=True)
    places = places.gather(1, order)
    return scores.gather(1, places), places


def reciprocal_ranks(
    scores: Float[np.ndarray, "queries candidates"],
    partner: Bool[np.ndarray, "queries candidates"],
) -> Float[np.ndarray, " queries"]:
    """1 / rank of the partner among the candidates; ties count against it."""
    return 1 / (scores >= scores[partner][:, None]).sum(1)
