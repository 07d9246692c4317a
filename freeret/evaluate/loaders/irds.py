"""Any dataset of the ir_datasets catalogue, by its id, such as `cranfield` or `beir/scifact/test`.

Nothing is sampled: use `sample` for a catalogue of millions.
"""

from typing import Any

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.extras import missing
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "ir_datasets fetches a dataset itself at its first use, from the owner's site; its catalogue "
    "at ir-datasets.com says how large each one is and which need an agreement"
)
LOADING = (KeyError, AttributeError, OSError, RuntimeError)
"""Errors of ir_datasets that mean that a dataset cannot be loaded."""


def check_ir_dataset(name: str) -> None:
    """Raise BadFile unless the catalogue knows the id; nothing is fetched."""
    _catalogued(name)


def load_ir_dataset(name: str) -> Dataset:
    """Load a dataset of the catalogue. Raises BadFile when package, id or files are missing."""
    source = _catalogued(name)
    try:
        judgements: Judgements = {}
        for row in source.qrels_iter():
            judgements.setdefault(row.query_id, {})[row.doc_id] = int(row.relevance)
        queries = [Item(_text(q), id=q.query_id) for q in source.queries_iter()]
        documents = [Item(_text(d) or "(empty)", id=d.doc_id) for d in source.docs_iter()]
    except LOADING as error:
        raise BadFile(f"cannot load {name!r} ({error}); {SOURCE}") from None
    judged = [query for query in queries if query.id in judgements]
    return Dataset(
        name=name.replace("/", "-"),
        queries=judged,
        documents=documents,
        judgements={query.id or "": judgements[query.id or ""] for query in judged},
        task="question",
        metrics=("nDCG@10", "P@1"),
        group="text retrieval",
    )


def _catalogued(name: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        raise BadFile(missing(error)) from None
    try:
        return ir_datasets.load(name)
    except LOADING as error:
        raise BadFile(f"cannot load {name!r} ({error}); {SOURCE}") from None


def _text(record: Any) -> str:
    """The default text of a record, as its dataset defines it: often title and body."""
    return str(record.default_text()).strip()
