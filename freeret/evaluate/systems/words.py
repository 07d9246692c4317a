"""The lexical leg over the documents of a dataset, as a store has it over its items."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import lancedb
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import DEPTH, QueryScores
from freeret.search.hybrid import fuse_legs, lowered
from freeret.search.lexical import Lexical
from freeret.store.commits import BY_WORD
from probes import Item
from probes.measure.diagnostic.hybrid import CANDIDATES


@contextmanager
def indexed_words(documents: Sequence[Item], words: Sequence[str]) -> Iterator[Lexical]:
    """The words of documents, indexed as those of a store, in a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="freeret-words-") as folder:
        texts = {"id": [d.id for d in documents], "words": list(words)}
        schema = pa.schema({"id": pa.string(), "words": pa.string()})
        table = lancedb.connect(folder).create_table("items", pa.table(texts, schema))
        table.create_index(BY_WORD.column, config=BY_WORD.config)
        yield Lexical(table, folder)


def lexical_scores(dataset: Dataset, words: Lexical) -> QueryScores:
    """BM25 scores; 0 for documents that share no word with the query."""
    place = {document.id: number for number, document in enumerate(dataset.documents)}
    depth = DEPTH + 1 if dataset.candidates is None else len(place)

    def score(query: int, places: Int[Tensor, " pool"] | None) -> Float[Tensor, " pool"]:
        values = torch.zeros(len(place))
        for id, value in words.best(dataset.queries[query].text, depth).items():
            values[place[id]] = value
        return values if places is None else values[places]

    return score


def hybrid_scores(
    dataset: Dataset, asked: Sequence[str], words: Lexical, cosines: QueryScores, weight: float
) -> QueryScores:
    """Scores as `freeret.search.hybrid` ranks: the candidates of both legs over all documents, and
    below them the other documents by their cosines. `asked` are the words of the queries."""
    ids = [document.id or "" for document in dataset.documents]
    place = {id: number for number, id in enumerate(ids)}
    by_id = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))

    def score(query: int, places: Int[Tensor, " pool"] | None) -> Float[Tensor, " pool"]:
        near = cosines(query, None).double()
        text = asked[query]
        first = near[by_id].sort(descending=True, stable=True).indices[:CANDIDATES]
        candidates = fuse_legs(
            {ids[i]: float(near[i]) for i in by_id[first].tolist()},
            words.best(text, CANDIDATES),
            lambda some: {id: float(near[place[id]]) for id in some},
            partial(words.scores, text),
            weight,
        )
        values = near + lowered(candidates, float(near.max()))
        for id, fused, _ in candidates:
            values[place[id]] = fused
        values = values.float()
        return values if places is None else values[places]

    return score
