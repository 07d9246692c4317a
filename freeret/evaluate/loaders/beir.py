"""BEIR: a folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.loaders.lines import check_there, lines_of
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "a BEIR folder holds corpus.jsonl, queries.jsonl and qrels/test.tsv. The archives are listed "
    "at github.com/beir-cellar/beir, one per dataset: from SciFact (5,183 documents, 3 MB) to "
    "MS MARCO (8.8 million passages, 1 GB)"
)

QRELS = "qrels/test.tsv"


def check_beir(folder: str | Path) -> None:
    """Raise BadFile unless the files are there; they are not read."""
    check_there(Path(folder), ("corpus.jsonl", "queries.jsonl", QRELS), SOURCE)


def load_beir(
    folder: str | Path,
    *,
    task: str = "question",
    metrics: tuple[str, ...] = ("nDCG@10", "P@1"),
) -> Dataset:
    """Load the folder, without queries that have no judgement.

    Raises BadFile, which says what is missing and where to get it.
    """
    root = Path(folder)
    judgements: Judgements = {}
    for line, row in _tsv(root / QRELS):
        try:
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        except (KeyError, TypeError, ValueError):
            raise BadFile(
                f"{root}/{QRELS}, line {line}: needs query-id, corpus-id, score"
            ) from None
    queries = [item for item in _items(root / "queries.jsonl") if item.id in judgements]
    return Dataset(
        name=root.name,
        queries=queries,
        documents=list(_items(root / "corpus.jsonl")),
        judgements={query.id or "": judgements[query.id or ""] for query in queries},
        task=task,
        metrics=metrics,
        group="text retrieval",
    )


def _tsv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows under a header. Cells hold neither tabs nor line breaks, and quotes are content."""
    lines = lines_of(path, SOURCE)
    _, header = next(lines, (0, ""))
    for number, line in lines:
        yield number, dict(zip(header.split("\t"), line.split("\t"), strict=False))


def _items(path: Path) -> Iterator[Item]:
    for number, line in lines_of(path, SOURCE):
        try:
            row: dict[str, Any] = json.loads(line)
            text = f"{row.get('title') or ''} {row['text']}".strip()
            yield Item(text or "(empty)", id=str(row["_id"]))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise BadFile(f"{path}, line {number}: needs JSON with _id and text") from None
