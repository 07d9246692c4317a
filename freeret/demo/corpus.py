"""The demo's built-in corpus of texts, and the methods that the recipe is compared with on it."""

import csv
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Run
from freeret.evaluate.systems.registry import BM25, PromptedSystem
from freeret.recipe import Recipe
from probes import Backbone, Item


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


def bm25_run(corpus: Dataset) -> Run:
    """Rank passages by the words that they share with the question."""
    return BM25().run(corpus)


def output_run(backbone: Backbone, corpus: Dataset) -> Run:
    """Rank passages with the same model read at its output: the E5-V extraction."""
    return PromptedSystem.of("e5v", backbone, Recipe.e5v()).run(corpus, progress=True)


def write_hits(path: Path, corpus: Dataset, runs: Mapping[str, Run], top: int = 3) -> None:
    """Write a row per question: the passage that answers it, and the first hits of each method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", *runs])
        for query in corpus.queries:
            hits = [" ".join(list(run[query.id or ""])[:top]) for run in runs.values()]
            writer.writerow([query.text, *corpus.judgements[query.id or ""], *hits])


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file of the demo."""
    text = (files("freeret.demo") / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
