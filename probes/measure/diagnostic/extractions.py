"""Which prompt, task, site and geometry retrieve best?

Every extraction is measured on the query sets: a sentence is to find its paraphrase, a question or
a request its passage, a caption its picture: a drawn scene, a photograph or a drawing. A second,
harder measure on the paraphrases compares each with the near-miss of the same sentence, which
shares far more words with it.

Passages cost most, so only the better half of the prompts reads them, and only those can be chosen
(successive halving; Karnin et al., 2013).
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from probes.display import Results
from probes.geometry import GEOMETRY_KINDS
from probes.measure.diagnostic.hybrid import LEXICAL_WEIGHTS, SETS, hybrid_ranks, word_scores
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import (
    PICTURED,
    QuerySet,
    SetName,
    SetStates,
    embed_set,
    query_set,
    sets_for,
)
from probes.model.backbone import Backbone
from probes.model.sites import embedding_sites
from probes.prompts import NAMED, Prompt, as_prompt
from probes.stats import Interval, mean_interval, mean_of_means

Wording = tuple[str, str | None]
"""A prompt's name, and the task that it states in place of its default."""
TASKED: tuple[tuple[str, str], ...] = (("control", "question"),)
"""Prompts with a task in place of their default, which are measured beside those of NAMED."""


def diagnose(
    backbone: Backbone,
    prompts: Mapping[str, Prompt] | str | Sequence[str] | None = None,
    sites: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Results[DiagnosticScore]:
    """Measure the retrieval quality of every extraction: each prompt, task, site and geometry.

    Args:
        backbone: The model to measure.
        prompts: Prompts by name, or names in NAMED; by default all of NAMED, and those of TASKED.
        sites: Names of sites; by default those of the last five layers and `norm`, with and
            without the mean.
        seed: Seed of the bootstrap intervals, which resample answers with their queries.
        progress: Whether to show progress bars.

    Returns:
        A score for each extraction.

    Raises:
        BadSetting: There is no prompt or site of this name.
    """
    sites = [sites] if isinstance(sites, str) else sites
    chosen = list(sites or embedding_sites(backbone.num_layers))
    wordings = _wordings(prompts)
    sets: dict[SetName, QuerySet] = {name: query_set(name) for name in sets_for(backbone)}
    words: dict[SetName, np.ndarray] = {name: word_scores(sets[name]) for name in SETS}

    def measured(wording: Wording, states: Mapping[SetName, SetStates]) -> list[DiagnosticScore]:
        name, task = wording
        found = []
        for column, site in enumerate(chosen):
            for kind in GEOMETRY_KINDS:
                scores: dict[SetName, np.ndarray] = {
                    each: of.scores(kind, column).double().numpy() for each, of in states.items()
                }
                measures = _measures(sets, scores, words, seed)
                found.append(DiagnosticScore(name, site, kind, task=task, **measures))
        return found

    states: dict[Wording, dict[SetName, SetStates]] = {
        wording: {
            each: embed_set(backbone, prompt, each, chosen, progress=progress)
            for each in sets
            if each != "passages"
        }
        for wording, prompt in wordings.items()
    }
    scores = {wording: measured(wording, of) for wording, of in states.items()}
    best_first = sorted(scores, key=lambda wording: -max(s.quality for s in scores[wording]))
    for wording in best_first[: math.ceil(len(scores) / 2)]:
        states[wording]["passages"] = embed_set(
            backbone, wordings[wording], "passages", chosen, progress=progress
        )
        scores[wording] = measured(wording, states[wording])
    return Results(score for found in scores.values() for score in found)


def _wordings(
    prompts: Mapping[str, Prompt] | str | Sequence[str] | None,
) -> dict[Wording, Prompt]:
    """Prompts by their name and the task that replaces their default."""
    if isinstance(prompts, Mapping):
        return {(name, None): prompt for name, prompt in prompts.items()}
    if prompts is None:
        pairs = [*((name, None) for name in NAMED), *TASKED]
    else:
        pairs = [(name, None) for name in ([prompts] if isinstance(prompts, str) else prompts)]
    return {(name, task): as_prompt(name, task) for name, task in pairs}


def _measures(
    sets: Mapping[SetName, QuerySet],
    scores: Mapping[SetName, np.ndarray],
    words: Mapping[SetName, np.ndarray],
    seed: int,
) -> dict[str, Interval]:
    """The fields of `DiagnosticScore` that are measured, from stage-1 scores `[queries, documents]`
    and lexical scores `[queries, pool]`."""
    ranks = {name: sets[name].ranks(scores[name]) for name in scores}
    reciprocal = {
        name: mean_interval(sets[name].by_answer(1 / ranks[name]), seed) for name in scores
    }

    def hybrid(weight: float) -> list[np.ndarray]:
        return [hybrid_ranks(sets[n], scores[n], words[n], weight) for n in SETS]

    near_misses = scores["paraphrases"][:, sets["paraphrases"].pool :]
    beats = scores["paraphrases"].diagonal() > near_misses.diagonal()
    measures = {
        "precision": mean_interval(ranks["paraphrases"] == 1, seed),
        "reciprocal_rank": reciprocal["paraphrases"],
        "beats_near_miss": mean_interval(beats, seed),
    }
    if "passages" in scores:
        best = max(map(hybrid, (0.0, *LEXICAL_WEIGHTS)), key=lambda sets: sum(map(np.mean, sets)))
        measures["passages"] = reciprocal["passages"]
        measures["hybrid"] = mean_of_means([mean_interval(each, seed) for each in best])
    if seen := [reciprocal[name] for name in PICTURED if name in scores]:
        measures["pictures"] = mean_of_means(seen)
    return measures
