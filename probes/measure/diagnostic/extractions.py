"""Which prompt, task, site and geometry retrieve best?

Every extraction is measured on the query sets: a sentence is to find its paraphrase, a question or
a request its passage, a caption its picture. A second, harder measure on the paraphrases compares
each with the near-miss of the same sentence, which shares far more words with it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from probes.geometry import GEOMETRY_KINDS, GeometryKind
from probes.measure.diagnostic.hybrid import LEXICAL_WEIGHTS, SETS, hybrid_ranks, word_scores
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import SetName, SetStates, embed_set, query_set, sets_for
from probes.model.backbone import Backbone
from probes.model.sites import late_sites
from probes.prompts import NAMED, Prompt, as_prompt
from probes.stats import Interval, mean_interval, mean_of_means

TASKED: tuple[tuple[str, str], ...] = (("control", "question"),)
"""Prompts with a task in place of their default, which are measured beside those of NAMED."""


def diagnose(
    backbone: Backbone,
    prompts: Mapping[str, Prompt] | str | Sequence[str] | None = None,
    sites: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[DiagnosticScore]:
    """Measure the retrieval quality of every extraction: each prompt, task, site and geometry.

    Args:
        backbone: The model to measure.
        prompts: Prompts by name, or names in NAMED; by default all of NAMED, and those of TASKED.
        sites: Names of sites; by default those of the last five layers, and `norm`.
        seed: Seed of the bootstrap intervals, which resample answers with their queries.
        progress: Whether to show progress bars.

    Returns:
        A score for each extraction.

    Raises:
        BadSetting: There is no prompt or site of this name.
    """
    sites = [sites] if isinstance(sites, str) else sites
    chosen = list(sites or late_sites(min(5, backbone.num_layers)))
    words: dict[SetName, np.ndarray] = {name: word_scores(query_set(name)) for name in SETS}
    scores = []
    for (name, task), prompt in _wordings(prompts).items():
        states: dict[SetName, SetStates] = {
            each: embed_set(backbone, prompt, each, chosen, progress=progress)
            for each in sets_for(backbone)
        }
        scores += [
            _evaluate(name, task, site, kind, states, column, words, seed)
            for column, site in enumerate(chosen)
            for kind in GEOMETRY_KINDS
        ]
    return scores


def _wordings(
    prompts: Mapping[str, Prompt] | str | Sequence[str] | None,
) -> dict[tuple[str, str | None], Prompt]:
    """Prompts by their name and the task that replaces their default."""
    if isinstance(prompts, Mapping):
        return {(name, None): prompt for name, prompt in prompts.items()}
    if prompts is None:
        pairs = [*((name, None) for name in NAMED), *TASKED]
    else:
        pairs = [(name, None) for name in ([prompts] if isinstance(prompts, str) else prompts)]
    return {(name, task): as_prompt(name, task) for name, task in pairs}


def _evaluate(
    prompt: str,
    task: str | None,
    site: str,
    kind: GeometryKind,
    states: Mapping[SetName, SetStates],
    column: int,
    words: Mapping[SetName, np.ndarray],
    seed: int,
) -> DiagnosticScore:
    scores = {n: each.scores(kind, column).double().numpy() for n, each in states.items()}
    ranks = {name: each.set.ranks(scores[name]) for name, each in states.items()}

    def reciprocal(name: SetName) -> Interval:
        return mean_interval(states[name].set.by_answer(1 / ranks[name]), seed)

    def by_weight(weight: float) -> list[np.ndarray]:
        return [hybrid_ranks(states[n].set, scores[n], words[n], weight) for n in SETS]

    hybrid = max(map(by_weight, (0.0, *LEXICAL_WEIGHTS)), key=lambda sets: sum(map(np.mean, sets)))

    paraphrases = scores["paraphrases"]
    near_misses = paraphrases[:, states["paraphrases"].set.pool :]
    return DiagnosticScore(
        prompt,
        site,
        kind,
        mean_interval(ranks["paraphrases"] == 1, seed),
        reciprocal("paraphrases"),
        mean_interval(paraphrases.diagonal() > near_misses.diagonal(), seed),
        reciprocal("passages"),
        reciprocal("scenes") if "scenes" in states else None,
        mean_of_means([mean_interval(each, seed) for each in hybrid]),
        task,
    )
