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
"""How ir_datasets says that it cannot."""


def check_ir_dataset(name: str) -> None:
    """Raise BadFile unless the catalogue knows the id; nothing is fetched."""
    _catalogued(name)


def load_ir_dataset(
    name: str, *, task: str = "question", metrics: tuple[str, ...] = ("nDCG@10", "P@1")
) -> Dataset:
    """Raises BadFile when the package, the id or the files are missing."""
    source = _catalogued(name)
    try:
        judgements: Judgements = {}
        for judged in source.qrels_iter():
            judgements.setdefault(judged.query_id, {})[judged.doc_id] = int(judged.relevance)
        queries = [Item(_text(q), id=q.query_id) for q in source.queries_iter()]
        documents = [Item(_text(d) or "(empty)", id=d.doc_id) for d in source.docs_iter()]
    except LOADING as error:
        raise BadFile(f"cannot load {name!r} ({error}); {SOURCE}") from None
    kept = [query for query in queries if query.id in judgements]
    return Dataset(
        name=name.replace("/", "-"),
        queries=kept,
        documents=documents,
        judgements={query.id or "": judgements[query.id or ""] for query in kept},
        task=task,
        metrics=metrics,
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
    """What the dataset itself calls its default text: title and body where there are both."""
    return str(record.default_text()).strip()
