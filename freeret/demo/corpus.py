"""The demo's built-in corpus of texts, and the file of its hits."""

import csv
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Run
from probes import Item

TOP = 3


def built_in_corpus() -> Dataset:
    """180 short passages on mixed subjects and 60 questions, written for this project. Exactly one
    passage answers each question."""
    passages, questions = rows_of("passages.jsonl"), rows_of("questions.jsonl")
    return Dataset(
        name="demo",
        queries=[Item(row["question"], id=row["id"]) for row in questions],
        documents=[Item(row["text"], id=row["id"]) for row in passages],
        judgements={row["id"]: {row["relevant"][0]: 1} for row in questions},
    )


def write_hits(path: Path, corpus: Dataset, runs: Mapping[str, Run]) -> None:
    """Write a row per question: the passage that answers it, and each method's first TOP hits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", *runs])
        for query in corpus.queries:
            hits = [" ".join(list(run[query.id or ""])[:TOP]) for run in runs.values()]
            writer.writerow([query.text, *corpus.judgements[query.id or ""], *hits])


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the demo."""
    text = (files("freeret.demo") / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
