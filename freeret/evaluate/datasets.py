"""Retrieval datasets behind one small interface."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

from probes import Item
from probes.errors import BadFile


@dataclass(frozen=True)
class Dataset:
    """Queries, one pool of documents, and graded judgements: query id -> document id -> grade."""

    name: str
    queries: list[Item]
    documents: list[Item]
    judgements: dict[str, dict[str, int]]


def load_beir(folder: str | Path, split: str = "test") -> Dataset:
    """A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/<split>.tsv.

    Queries without a judgement are left out. Raises BadFile, naming what is missing.
    """
    root = Path(folder)
    judgements: dict[str, dict[str, int]] = {}
    for line, row in enumerate(_tsv(root / "qrels" / f"{split}.tsv"), start=2):
        try:
            judgements.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        except (KeyError, TypeError, ValueError):
            raise BadFile(
                f"{root}/qrels/{split}.tsv, line {line}: needs query-id, corpus-id, score"
            ) from None
    queries = [item for item in _items(root / "queries.jsonl") if item.id in judgements]
    return Dataset(root.name, queries, _items(root / "corpus.jsonl"), judgements)


def _tsv(path: Path) -> list[dict[str, str]]:
    with _opened(path) as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _items(path: Path) -> list[Item]:
    items = []
    with _opened(path) as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                text = f"{row.get('title', '')} {row['text']}".strip()
                items.append(Item(text or "(empty)", id=str(row["_id"])))
            except (KeyError, ValueError, AttributeError):
                raise BadFile(f"{path}, line {number}: needs JSON with _id and text") from None
    return items


def _opened(path: Path):
    try:
        return path.open(encoding="utf-8", newline="")
    except OSError as error:
        raise BadFile(
            f"cannot read {path} ({error.strerror}); a BEIR folder holds corpus.jsonl, "
            "queries.jsonl and qrels/test.tsv"
        ) from None
