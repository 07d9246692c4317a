"""The query sets of the diagnostic, and their stage-1 scores.

| set           | queries                       | documents                                     |
|---------------|-------------------------------|-----------------------------------------------|
| `paraphrases` | 200 sentences                 | their paraphrases, and as many near-misses    |
| `passages`    | 120 questions, 120 requests   | 120 passages of 170 words, six on a subject   |
| `scenes`      | 100 captions                  | their pictures, where the backbone reads them |
| `everyday`    | 63 captions                   | their photographs and drawings, there too     |

The texts were written for this project, and the scenes are drawn by it. Where photographs and
drawings of everyday things are from, `probes.data.pictures` says.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from probes.data import paraphrases, passages, pictures
from probes.geometry import CorpusGeometry, GeometryKind
from probes.items import Item
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.reference import (
    Reference,
    at_column,
    everyday_pictures,
    no_reference,
    reference_vectors,
)
from probes.model.backbone import Backbone
from probes.model.batches.remembering import remembered_states
from probes.model.batches.states import prompted_states
from probes.prompts import Prompt, Side, as_prompt
from probes.scenes.generator import SEEN, distinct_scenes

SetName = Literal["paraphrases", "passages", "scenes", "everyday"]
PICTURED: tuple[SetName, ...] = ("scenes", "everyday")
"""The sets whose documents are pictures."""
SCENES = 100
"""Number of drawn scenes, each with a caption and a picture."""


@dataclass(frozen=True)
class QuerySet:
    """Queries, and a corpus that holds the answer of each."""

    name: SetName
    queries: list[Item]
    documents: list[Item]
    answers: Int[np.ndarray, " queries"]
    """The place of each query's answer among the documents."""
    pool: int
    """The number of documents, the first ones, among which an answer is ranked. The others are
    near-misses, which the answers are compared with apart."""

    def ranks(self, scores: Float[np.ndarray, "queries _"]) -> Float[np.ndarray, " queries"]:
        """The rank of each query's answer in the pool, 1 for the best."""
        return answer_ranks(scores[:, : self.pool], self.answers)

    def by_answer(self, values: Shaped[np.ndarray, " queries"]) -> Float[np.ndarray, " answers"]:
        """The mean over the queries of each answer, which are not independent of each other."""
        counts = np.bincount(self.answers)
        return np.bincount(self.answers, np.asarray(values, dtype=float)) / counts


@dataclass(frozen=True)
class SetStates:
    """Raw states of a query set under one prompt, at several sites."""

    set: QuerySet
    queries: Float[Tensor, "queries sites hidden"]
    documents: Float[Tensor, "documents sites hidden"]
    reference: Reference
    """States of the reference items, for documents of another modality than the queries."""

    def scores(self, kind: GeometryKind, column: int) -> Float[Tensor, "queries documents"]:
        """Stage-1 scores at the site of this column, in a geometry of the documents alone."""
        queries, documents = self.queries[:, column], self.documents[:, column]
        asked, held = self.set.queries[0].signature, self.set.documents[0].signature
        reference = at_column(self.reference, column)
        ids = [str(place) for place in range(len(documents))]
        geometry = CorpusGeometry.of(kind, ids, [held] * len(ids), documents, no_reference)
        geometry = geometry.with_queries([asked], reference)
        return geometry.map(queries, asked, "query") @ geometry.map(documents, held, "document").T


def query_set(name: SetName) -> QuerySet:
    """The query set of this name."""
    match name:
        case "paraphrases":
            rows = paraphrases()
            texts = [row["paraphrase"] for row in rows] + [row["near_miss"] for row in rows]
            queries = [row["sentence"] for row in rows]
        case "passages":
            rows = passages()
            texts = [row["passage"] for row in rows]
            queries = [row["question"] for row in rows] + [row["request"] for row in rows]
        case "scenes":
            return _scenes()
        case "everyday":
            return _everyday()
    count = len(rows)
    answers = np.arange(len(queries)) % count
    return QuerySet(name, [Item(q) for q in queries], [Item(t) for t in texts], answers, count)


@functools.cache
def _scenes() -> QuerySet:
    """Captions and pictures of the same scenes, drawn once for all prompts."""
    rng = Random(0)
    scenes = distinct_scenes(rng, SCENES, SEEN)
    captions = [Item(scene.caption()) for scene in scenes]
    pictures = [Item(images=[scene.draw(rng=rng)]) for scene in scenes]
    return QuerySet("scenes", captions, pictures, np.arange(SCENES), SCENES)


def _everyday() -> QuerySet:
    """Captions of photographs and drawings of everyday things."""
    captions = [Item(row["caption"]) for row in pictures()]
    return QuerySet(
        "everyday", captions, everyday_pictures(), np.arange(len(captions)), len(captions)
    )


def sets_for(backbone: Backbone) -> list[SetName]:
    """The query sets that a backbone can read."""
    sees = "image" in backbone.modalities
    return ["paraphrases", "passages", *(PICTURED if sees else ())]


def embed_set(
    backbone: Backbone,
    prompt: Prompt,
    name: SetName,
    sites: Sequence[str],
    *,
    progress: bool = False,
) -> SetStates:
    """Raw states of a query set under a prompt. Within `remembering`, those of texts are kept."""

    def states(items: Sequence[Item], side: Side) -> Tensor:
        title = f"{prompt.name}: {name}, {side}" if progress else None
        if any(item.media for item in items):
            return prompted_states(backbone, prompt, items, side, sites, progress=title)
        rows = [backbone.row(prompt.apply(item, side), item.name) for item in items]
        return remembered_states(backbone, rows, sites, progress=title)

    found = query_set(name)
    reference = reference_vectors(states) if name in PICTURED else no_reference
    return SetStates(
        found, states(found.queries, "query"), states(found.documents, "document"), reference
    )


def scored_set(
    backbone: Backbone, extraction: DiagnosticScore, name: SetName, *, progress: bool = False
) -> tuple[QuerySet, Float[Tensor, "queries documents"]]:
    """A query set, and its stage-1 scores under an extraction."""
    prompt = as_prompt(extraction.prompt, extraction.task)
    states = embed_set(backbone, prompt, name, [extraction.site], progress=progress)
    return states.set, states.scores(extraction.geometry, 0)


def answer_ranks(
    scores: Float[np.ndarray, "queries pool"], answers: Int[np.ndarray, " queries"]
) -> Float[np.ndarray, " queries"]:
    """The rank of each query's answer among all, 1 for the best; ties count against it."""
    theirs = scores[np.arange(len(answers)), answers]
    return (scores >= theirs[:, None]).sum(1).astype(float)
