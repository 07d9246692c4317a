"""The gain of reading long texts in passages, whose vectors are averaged.

At the extraction that the diagnostic supports, the long documents of the query set `passages` are
read whole, and cut into shorter passages.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.display import Results
from probes.geometry import unit
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import embed_set
from probes.model.backbone import Backbone
from probes.model.batches.states import prompted_states
from probes.model.encoding.splitting import passages_of
from probes.prompts import as_prompt
from probes.stats import Interval, mean_interval

PASSAGE_WORDS = (50,)
"""Lengths of a passage that are measured, in words."""


@dataclass(frozen=True)
class Splitting:
    """Mean reciprocal rank of a document that is read in passages, by vectors alone."""

    words: int
    """About how many words a passage has."""
    reciprocal_rank: Interval
    gain: Interval
    """Mean paired difference to documents that are read whole."""


def splitting_gain(
    backbone: Backbone, extraction: DiagnosticScore, *, seed: int = 0, progress: bool = False
) -> Results[Splitting]:
    """Measure the gain of reading documents in passages, for each length of PASSAGE_WORDS, with
    this extraction. The bootstrap intervals resample documents with their queries."""
    prompt = as_prompt(extraction.prompt, extraction.task)
    whole = embed_set(backbone, prompt, "passages", [extraction.site], progress=progress)
    documents = whole.set.documents

    def ranks(vectors: Tensor) -> Float[np.ndarray, " documents"]:
        scores = replace(whole, documents=vectors).scores(extraction.geometry, 0)
        return whole.set.by_answer(1 / whole.set.ranks(scores.double().numpy()))

    before, gains = ranks(whole.documents), Results()
    for words in PASSAGE_WORDS:
        cut = [passages_of(document, words) for document in documents]
        title = f"{prompt.name}: passages of {words} words" if progress else None
        states = prompted_states(
            backbone, prompt, [passage for passages in cut for passage in passages], "document",
            [extraction.site], progress=title,
        )  # fmt: skip
        parts = states[:, 0].split([len(passages) for passages in cut])
        after = ranks(torch.stack([unit(part).mean(0) for part in parts])[:, None])
        gains.append(
            Splitting(words, mean_interval(after, seed), mean_interval(after - before, seed))
        )
    return gains
