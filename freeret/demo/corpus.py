"""The whole path on a small built-in corpus: probe, choose, ask, compare."""

import csv
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import Run
from freeret.evaluate.systems import BM25, Prompted
from freeret.recipe import Recipe
from probes import Backbone, Item


def built_in_corpus() -> Dataset:
    """180 short passages on mixed subjects and 60 questions, written for this project; exactly one
    passage answers each question."""
    passages, questions = _rows("passages.jsonl"), _rows("questions.jsonl")
    return Dataset(
        name="demo",
        queries=[Item(row["question"], id=row["id"]) for row in questions],
        documents=[Item(row["text"], id=row["id"]) for row in passages],
        judgements={row["id"]: {row["relevant"][0]: 1} for row in questions},
    )


def run_all(backbone: Backbone, recipe: Recipe, corpus: Dataset) -> dict[str, Run]:
    """Stage 1 of the recipe, the E5-V extraction, and BM25."""
    systems = {
        "recipe": Prompted.of("recipe", backbone, recipe),
        "E5-V extraction": Prompted.of("e5v", backbone, Recipe.e5v()),
        "BM25": BM25(),
    }
    return {name: system.run(corpus, progress=True) for name, system in systems.items()}


def write_hits(path: Path, corpus: Dataset, runs: Mapping[str, Run], top: int = 3) -> None:
    """One row per question: the passage that answers it, and the first hits of each method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", *runs])
        for query in corpus.queries:
            hits = [" ".join(list(run[query.id or ""])[:top]) for run in runs.values()]
            writer.writerow([query.text, *corpus.judgements[query.id or ""], *hits])


def _rows(name: str) -> list[dict[str, Any]]:
    text = (files("freeret.demo") / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
