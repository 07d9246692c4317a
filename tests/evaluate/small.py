"""A recipe, a small dataset and small graded pairs, which tests of the evaluation share."""

from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.recipe import Recipe
from probes import Item

WORDS = ["the", "word", "of", "image", "one", "Yes", "No", "means"]
RECIPE = Recipe("prompteol", "attn[-1]", "centre", "mcq", 0.2, reasons=("chosen",))


def words(number: int) -> str:
    return " ".join(WORDS[(number * step) % 8] for step in (1, 3, 5)) + f" number{number:02d}"


def dataset(name: str = "small", queries: int = 6, documents: int = 12, **more: Any) -> Dataset:
    return Dataset(
        name=name,
        queries=[Item(words(i), id=f"q{i}") for i in range(queries)],
        documents=[Item(words(i), id=f"d{i}") for i in range(documents)],
        judgements={f"q{i}": {f"d{i}": 1} for i in range(queries)},
        **more,
    )


def pairs(count: int = 8) -> Dataset:
    grades = {f"q{i}": {f"d{i}": float(i)} for i in range(count)}
    return Dataset(
        name="pairs",
        queries=[Item(words(i), id=f"q{i}") for i in range(count)],
        documents=[Item(words(2 * i), id=f"d{i}") for i in range(count)],
        judgements=grades,
        candidates={q: list(row) for q, row in grades.items()},
        metrics=("Spearman",),
    )
