"""The whole path on a small built-in corpus: probe, choose, index, ask, compare."""

import csv
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import torch

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from probes import Backbone, Geometry
from probes.stats import Interval, mean_interval


@dataclass(frozen=True)
class Corpus:
    """Passages and questions, each question answered by exactly one passage."""

    ids: list[str]
    passages: list[str]
    questions: list[str]
    answers: list[int]
    """Index of the passage that answers each question."""


@dataclass(frozen=True)
class Run:
    """One method's hits: best passages first, as indices `[questions, passages]`."""

    name: str
    order: np.ndarray

    def precision(self, corpus: Corpus) -> Interval:
        """Precision@1 over questions."""
        return mean_interval(self.order[:, 0] == np.array(corpus.answers))


def built_in_corpus() -> Corpus:
    """180 short passages on mixed subjects and 60 questions, written for this project."""
    passages, questions = _rows("demo_corpus.jsonl"), _rows("demo_questions.jsonl")
    ids = [row["id"] for row in passages]
    return Corpus(
        ids,
        [row["text"] for row in passages],
        [row["question"] for row in questions],
        [ids.index(row["relevant"][0]) for row in questions],
    )


def run_embedding(name: str, backbone: Backbone, recipe: Recipe, corpus: Corpus) -> Run:
    """Stage 1 of a recipe over the whole corpus."""
    embedder = Embedder.from_recipe(backbone, recipe)
    documents = embedder.encode_document(corpus.passages, progress=True)
    queries = embedder.encode_query(corpus.questions, progress=True)
    geometry = Geometry.fit(recipe.geometry, {"text": documents})
    text = ["text"]
    scores = (
        geometry.map(queries, text * len(queries), "query")
        @ geometry.map(documents, text * len(documents), "document").T
    )
    return Run(name, torch.argsort(scores, dim=1, descending=True, stable=True).numpy())


def run_bm25(corpus: Corpus) -> Run:
    """BM25 over words, English stopwords left out."""
    tokens = bm25s.tokenize(corpus.passages, stopwords="en", show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    asked = bm25s.tokenize(corpus.questions, stopwords="en", return_ids=False, show_progress=False)
    scores = np.stack([index.get_scores(list(map(str, words))) for words in asked])
    return Run("BM25", np.argsort(-scores, axis=1, kind="stable"))


def write_hits(path: Path, corpus: Corpus, runs: list[Run], top: int = 3) -> None:
    """One row a question: the passage that answers it, and the first hits of each method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer", *(run.name for run in runs)])
        for row, question in enumerate(corpus.questions):
            hits = [" ".join(corpus.ids[i] for i in run.order[row, :top]) for run in runs]
            writer.writerow([question, corpus.ids[corpus.answers[row]], *hits])


def _rows(name: str) -> list[dict[str, Any]]:
    text = (files("freeret") / "data" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
