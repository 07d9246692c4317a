"""Datasets: queries, the documents that they may find, and judgements."""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from probes import Item
from probes.errors import BadFile, BadItem
from probes.items import Part

Grade = int | float
Judgements = dict[str, dict[str, Grade]]
"""Query id -> document id -> grade; unjudged documents count as non-relevant, as grade 0 does."""


@dataclass(frozen=True)
class Dataset:
    """Queries, one pool of documents, and graded judgements.

    A judged document may be missing from the pool: it counts, and cannot be found.

    Raises:
        BadFile: Ids are missing or repeated, a query has no judgement, or a candidate is not a
            document.
    """

    name: str
    queries: list[Item]
    documents: list[Item]
    judgements: Judgements
    candidates: dict[str, list[str]] | None = field(default=None, repr=False)
    """Query id -> ids of the only documents that it may find; None: all documents."""
    task: str = "same meaning"
    """A key of `probes.prompts.TASKS`, or the task in words: the prior of task alignment."""
    metrics: tuple[str, ...] = ("P@1",)
    """Names as ir-measures writes them, or `Spearman` (of scores and grades over pairs). The first
    is the main metric."""
    group: str = ""
    """The kind of task that the dataset is counted under, such as `classification`."""
    note: str = ""
    """A remark that belongs beside every value, such as how the pool was sampled."""
    drawn_from: tuple[int, int] | None = None
    """Numbers of queries and documents before `sample` drew from them; None: nothing was drawn."""
    missing: BadFile | None = field(default=None, repr=False, compare=False)
    """Says which media files of the items are missing, where some are."""
    unreadable: dict[str, str] = field(default_factory=dict, repr=False)
    """Id -> reason, for documents that could not be read and are not in the pool."""

    def __post_init__(self) -> None:
        for kind, items in (("query", self.queries), ("document", self.documents)):
            ids = [item.id for item in items]
            if None in ids or len(set(ids)) < len(ids):
                raise BadFile(f"{self.name}: every {kind} needs an id that no other has")
        if not self.queries:
            raise BadFile(f"{self.name}: no query has a judgement")
        known = {item.id for item in self.documents}
        for query in self.queries:
            if not self.judgements.get(query.id or ""):
                raise BadFile(f"{self.name}: query {query.id!r} has no judgement")
            if self.candidates is None:
                continue
            candidates = self.candidates.get(query.id or "")
            if not candidates or not known.issuperset(candidates):
                raise BadFile(f"{self.name}: the candidates of query {query.id!r} are not all here")

    @functools.cached_property
    def in_corpus(self) -> frozenset[str]:
        """Ids of the queries that are documents too, as in ArguAna and Quora.

        No query may find itself: `to_run` leaves that document out of its ranking, judged or not,
        as BEIR does. Since queries and documents may both be numbered, an equal id is not enough:
        the text must be equal too, with or without a title before it, and the media.
        """
        documents = {document.id: document for document in self.documents}
        return frozenset(
            query.id or ""
            for query in self.queries
            if query.id in documents and _repeats(documents[query.id], query)
        )

    @property
    def has_choice(self) -> bool:
        """Whether some query may find more than one document: else there is nothing to rerank."""
        if self.candidates is None:
            return len(self.documents) > 1
        return any(len(set(ids)) > 1 for ids in self.candidates.values())

    def check_readable(self) -> None:
        """Raise BadFile where media are missing, BadItem where a document could not be read."""
        if self.missing is not None:
            raise self.missing
        for id, reason in self.unreadable.items():
            raise BadItem(reason, id)

    def only(self, queries: Iterable[Item], documents: Iterable[Item]) -> "Dataset":
        """The same dataset with some of its items, less the queries that lose all candidates.

        Raises BadFile when no query is left.
        """
        kept, pool = list(queries), list(documents)
        candidates = self.candidates
        if candidates is not None:
            ids = {document.id for document in pool}
            candidates = {q: [id for id in row if id in ids] for q, row in candidates.items()}
            kept = [query for query in kept if candidates[query.id or ""]]
        return replace(self, queries=kept, documents=pool, candidates=candidates)

    def digest(self) -> str:
        """16 hex digits over queries, documents, candidates and judgements. Results with equal
        digests are comparable."""
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for item in (*self.queries, *self.documents):
            digest.update(f"{item.id}\0{_content(item.parts)}\0".encode())
        rest: list[object] = [self.judgements, self.candidates, self.task, self.metrics]
        # Results in which these queries found themselves were measured on something else.
        rest += [sorted(self.in_corpus)] if self.in_corpus else []
        digest.update(json.dumps(rest, sort_keys=True).encode())
        return digest.hexdigest()[:16]


def sample(
    dataset: Dataset, queries: int | None = None, documents: int | None = None, seed: int = 0
) -> Dataset:
    """Draw from a dataset.

    Args:
        dataset: Left as it is when it is small enough.
        documents: Keep at most this many; all judged documents are kept. Where queries have
            candidates, their candidates are the documents.

    Returns:
        The smaller dataset, whose note says how it was drawn.
    """
    notes = [dataset.note] if dataset.note else []
    drawn, pool = dataset.queries, dataset.documents
    if queries is not None and queries < len(drawn):
        places = _draw(range(len(drawn)), queries, seed)
        notes.append(f"{queries} of {len(drawn)} queries, drawn with seed {seed}")
        drawn = [query for i, query in enumerate(drawn) if i in places]
    ids = [query.id or "" for query in drawn]
    judgements = {id: dataset.judgements[id] for id in ids}
    candidates = dataset.candidates and {id: dataset.candidates[id] for id in ids}
    if candidates is not None:
        wanted = {id for row in candidates.values() for id in row}
        pool = [document for document in pool if document.id in wanted]
    elif documents is not None:
        judged = {id for grades in judgements.values() for id in grades}
        others = [i for i, document in enumerate(pool) if document.id not in judged]
        room = max(0, documents - (len(pool) - len(others)))
        if room < len(others):
            places = _draw(others, room, seed)
            notes.append(
                f"all judged documents and {room} of {len(others)} others, drawn with seed {seed}"
            )
            pool = [d for i, d in enumerate(pool) if d.id in judged or i in places]
    # Candidates follow their queries: leaving out those of others is no draw of documents.
    sizes = (len(dataset.queries), len(pool if candidates else dataset.documents))
    return replace(
        dataset,
        queries=drawn,
        documents=pool,
        judgements=judgements,
        candidates=candidates,
        note="; ".join(notes),
        drawn_from=sizes if (len(drawn), len(pool)) != sizes else dataset.drawn_from,
    )


def pools_of(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Names of datasets by suite: the pools of one task of scenes are one together, and any other
    dataset is a suite by itself.

    Args:
        groups: Dataset -> its group. That of a pool is its task, such as "text→image" for the pool
            "text→image 0" and "hard negatives: binding" for "binding 0".
    """
    pools: dict[str, list[str]] = {}
    for name, group in groups.items():
        task, _, number = name.rpartition(" ")
        pooled = number.isdigit() and group.rpartition(": ")[2] == task
        pools.setdefault(task if pooled else name, []).append(name)
    return pools


def _draw(places: Sequence[int], count: int, seed: int) -> set[int]:
    return set(np.random.default_rng(seed).permutation(places)[:count].tolist())


def _repeats(document: Item, query: Item) -> bool:
    """Whether a document is the query itself, with or without a title before its text."""
    text, words = (" ".join(item.text.split()) for item in (document, query))
    if text != words and not (words and text.endswith(f" {words}")):
        return False
    return _content(document.media) == _content(query.media)


def _content(parts: tuple[Part, ...]) -> list[str]:
    return [f"{part.kind}:{_describe(part.value)}" for part in parts]


def _describe(value: object) -> str:
    """Text as it is, a file by its name, a picture in memory by its pixels."""
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return value.name
    if isinstance(value, list | tuple):
        return str([_describe(frame) for frame in value])
    return hashlib.sha256(np.asarray(value).tobytes()).hexdigest()
