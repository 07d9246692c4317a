"""Lexical search: BM25 over the column `words` of a table, by LanceDB's full-text index.

Words are lower-cased and stemmed, and English stop words are left out. A text that is searched for
is a bag of words: nothing in it is query syntax. Rows that are newer than the index are read one by
one, and the frequencies of their words are counted among them alone until the store is compacted.
"""

import json
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

from lancedb.query import MatchQuery

from freeret.store.commits import storage_errors
from freeret.store.filters import EVERYTHING, Selection, id_conditions
from probes import Item

Scores = dict[str, float]
"""BM25 scores by id, best first; ties by id."""


def words_asked(
    queries: Sequence[Item], held: Container[str], read: Callable[[list[Item]], list[str]]
) -> list[str]:
    """The words of each query that the lexical leg searches for.

    The words that the model reads in media lead from one form to another. Media of one form are
    told apart better by their vectors, so a query without text is searched for by vectors alone
    where the corpus holds items of its form.

    Args:
        held: The modality signatures of the items that are searched.
        read: Returns the words of queries, which takes a forward of those with media.

    Returns:
        The words of each query, none for one that vectors alone search for.
    """
    asked = [has_text(query.signature) or query.signature not in held for query in queries]
    words = iter(read([query for query, is_asked in zip(queries, asked, strict=True) if is_asked]))
    return [next(words) if is_asked else "" for is_asked in asked]


def has_text(signature: str) -> bool:
    """Whether items of a modality signature hold text."""
    return "text" in signature.split("+")


@dataclass(frozen=True)
class Lexical:
    """The words of the items in a table with the columns `id` and `words`."""

    table: Any
    location: str
    """Where the table lies, for messages."""

    def best(self, text: str, count: int, selection: Selection = EVERYTHING) -> Scores:
        """The items that share words with a text, at most `count`; others have no score.

        Raises:
            StoreError: The table cannot be read.
        """
        columns, limit = ["id"], count
        if selection.filter is not None:  # the condition lets more than the filter through
            columns, limit = ["id", "metadata"], len(self)
        rows = self._rows(text, columns, max(1, limit), selection.sql())
        scores = {
            row["id"]: row["_score"]
            for row in rows
            if "metadata" not in row or selection.takes_metadata(json.loads(row["metadata"]))
        }
        return dict(sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:count])

    def scores(self, text: str, ids: Sequence[str]) -> Scores:
        """The scores of those of these items that share words with a text."""
        return {
            row["id"]: row["_score"]
            for condition in id_conditions(ids)
            for row in self._rows(text, ["id"], len(ids), condition)
        }

    def __len__(self) -> int:
        with storage_errors(self.location):
            return self.table.count_rows()

    def _rows(
        self, text: str, columns: list[str], limit: int, where: str | None
    ) -> list[dict[str, Any]]:
        with storage_errors(self.location):
            match = MatchQuery(text, "words")  # pyright: ignore[reportCallIssue]
            query = self.table.search(match, query_type="fts")
            query = query.select([*columns, "_score"]).limit(limit)
            return (query.where(where) if where else query).to_arrow().to_pylist()
