"""Does stage 2 help? Stage-1 candidates of the paraphrase set, judged by the best frame.

For the best setting of the diagnostic, every sentence's first candidates are judged and the two
scores fused at several weights: standardised stage-1 score + w · log-odds. A weight is worth its
cost only where it beats stage 1 alone beyond noise, sentence by sentence.
"""

from dataclasses import dataclass

import numpy as np
import torch

from probes.backbone import Backbone
from probes.data import paraphrases
from probes.diagnostic import SIDES, Setting, embed_diagnostic
from probes.framing import FRAMES, judge
from probes.geometry import Geometry
from probes.items import Item
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


def rerank_gain(
    backbone: Backbone, setting: Setting, frame: str, *, seed: int = 0, progress: bool = False
) -> list[Fusion]:
    """One entry for each weight, on sentences whose own near-miss stands among the candidates."""
    stage1, candidates = _candidates(backbone, setting, progress)
    texts = [row["paraphrase"] for row in paraphrases()]
    texts += [row["near_miss"] for row in paraphrases()]
    margins = []
    for sentence, chosen in enumerate(candidates.tolist()):
        query = Item(paraphrases()[sentence]["sentence"])
        margins.append(judge(backbone, FRAMES[frame], [(query, Item(texts[i])) for i in chosen]))
    second = np.array(margins)
    first = stage1.double().numpy()
    standard = (first - first.mean(1, keepdims=True)) / first.std(1, keepdims=True)
    right = candidates.numpy() == np.arange(len(candidates))[:, None]
    alone = _reciprocal_rank(standard, right)
    found = []
    for weight in WEIGHTS:
        fused = second if weight is None else standard + weight * second
        ranks = _reciprocal_rank(fused, right)
        gain = mean_interval(ranks - alone, seed)
        found.append(Fusion(frame, weight, mean_interval(ranks, seed), gain))
    return found


def _candidates(backbone: Backbone, setting: Setting, progress: bool) -> tuple:
    """Stage-1 scores and pool indices of the partner and its closest rivals, best first."""
    vectors = embed_diagnostic(backbone, NAMED[setting.prompt], [setting.site], progress=progress)
    at_site = {column: v[:, 0] for column, v in vectors.items()}
    pool = torch.cat([at_site["paraphrase"], at_site["near_miss"]])
    geometry = Geometry.fit(setting.geometry, {"text": pool})
    mapped = geometry.map(pool, ["text"] * len(pool), "document")
    asked = at_site["sentence"][:SENTENCES]
    scores = geometry.map(asked, ["text"] * len(asked), SIDES["sentence"]) @ mapped.T
    # The partner always stands among the candidates: this is about the second stage only.
    lifted = scores.clone()
    lifted[torch.arange(len(asked)), torch.arange(len(asked))] = float("inf")
    chosen = lifted.topk(CANDIDATES).indices
    order = scores.gather(1, chosen).argsort(dim=1, descending=True, stable=True)
    chosen = chosen.gather(1, order)
    return scores.gather(1, chosen), chosen


def _reciprocal_rank(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    own = scores[right][:, None]
    return 1 / ((scores > own).sum(1) + 1)
