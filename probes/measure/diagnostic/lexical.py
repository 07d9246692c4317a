"""BM25 over a few texts in memory, by the full-text index that a store has too (LanceDB's)."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

FULL_TEXT: dict[str, Any] = {"stem": True, "remove_stop_words": True, "with_position": False}
"""Settings of every full-text index: English stems, without stop words."""


def lexical_scores(
    queries: Sequence[str], texts: Sequence[str]
) -> Float[np.ndarray, "queries texts"]:
    """The BM25 score of every text for every query, float64; 0 where they share no word.

    Queries are words, never a query language. The scores are kept, read-only, since several parts
    of a report ask for the same ones.
    """
    return _scores(tuple(queries), tuple(texts))


@functools.lru_cache(maxsize=4)
def _scores(queries: tuple[str, ...], texts: tuple[str, ...]) -> Float[np.ndarray, "queries texts"]:
    import pyarrow as pa
    from lancedb import connect  # seconds, which an import of `probes` need not wait for
    from lancedb.index import FTS
    from lancedb.query import MatchQuery

    places = pa.array(range(len(texts)), pa.int32())
    table = connect("memory://").create_table("texts", pa.table({"place": places, "words": texts}))
    table.create_index("words", config=FTS(**FULL_TEXT))
    scores = np.zeros((len(queries), len(texts)))
    for row, query in zip(scores, queries, strict=True):
        match = MatchQuery(query, "words")  # pyright: ignore[reportCallIssue]
        search = table.search(match, query_type="fts").limit(len(texts))
        found = search.select(["place", "_score"]).to_arrow()
        row[found["place"].to_numpy()] = found["_score"].to_numpy()
    scores.flags.writeable = False
    return scores
