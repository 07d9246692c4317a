"""Datasets that fail are named, and the others are evaluated."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Failure, Unfinished
from freeret.evaluate.results.file import Result
from freeret.evaluate.run import evaluate
from freeret.evaluate.systems.registry import BM25, PromptedSystem
from probes import Backbone, Item
from probes.errors import BadFile
from tests.commands import own_lines, run
from tests.evaluate.small import RECIPE, dataset

Tiny = Callable[[str], Backbone]


def lost() -> Dataset:
    raise BadFile("there is no lost/test.parquet")


def crowded() -> Dataset:
    return dataset("crowded", queries=2, documents=3)


class Crowded(PromptedSystem):
    def encode(self, items: Sequence[Item], side: Any, task: str, **options: Any) -> Tensor:
        if len(items) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        return super().encode(items, side, task, **options)


def test_a_failed_dataset_is_named_and_the_others_are_evaluated(tiny: Tiny, tmp_path: Path) -> None:
    one = Crowded.of("recipe", tiny("llama"), RECIPE)
    with pytest.raises(Unfinished) as caught:
        evaluate([lost, crowded, dataset], one, tmp_path)
    assert caught.value.failures == [
        Failure("", "there is no lost/test.parquet"),
        Failure("crowded", "CUDA out of memory. Tried to allocate 20 GiB"),
    ]
    assert str(caught.value).splitlines() == [
        "could not evaluate 2 datasets:",
        "  there is no lost/test.parquet",
        "  crowded: CUDA out of memory. Tried to allocate 20 GiB",
    ]
    assert caught.value.files == [tmp_path / "recipe.json"]
    assert list(Result.load(tmp_path / "recipe.json").datasets) == ["small"]
    with pytest.raises(Unfinished) as caught:
        evaluate([lost], one, tmp_path / "none")
    assert caught.value.files == []


def test_datasets_are_loaded_one_by_one(tmp_path: Path) -> None:
    """A dataset is freed before the next one is loaded."""
    import weakref

    alive: list[weakref.ref[Dataset]] = []

    def load(name: str) -> Dataset:
        assert not any(ref() for ref in alive), "the one before is still held"
        found = dataset(name)
        alive.append(weakref.ref(found))
        return found

    evaluate([lambda n=n: load(n) for n in ("a", "b", "c")], BM25(), tmp_path)
    assert len(alive) == 3


def test_the_eval_command_names_failed_suites(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suites = [f"beir:{place}/{name}" for name in ("one", "torn", "two")]
    assert run(
        "eval", *suites, "--system", "bm25", "--system", "recipe", "--model", place / "model",
        "--recipe", place / "recipe.json", "--out", tmp_path,
    ) == 1  # fmt: skip
    said = capsys.readouterr()
    [line] = own_lines(said.err)
    assert f"could not evaluate {place}/torn/corpus.jsonl, line 1: needs JSON" in line
    assert "mean over" in said.out
    for name in ("bm25", "recipe"):
        assert list(Result.load(tmp_path / f"{name}.json").datasets) == ["one", "two"]


def test_missing_suites_are_reported_before_a_model_is_loaded(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suite in ("beir:/nowhere", "paraphrases:/nowhere", "sts:/nowhere", "folder:/nowhere",
                  "ir:no-such-set", "mbeir:/nowhere"):  # fmt: skip
        assert run("eval", f"beir:{place}/one", suite, "--system", "bm25", "--out", tmp_path) == 1
        assert len(own_lines(capsys.readouterr().err)) == 1
    assert not list(tmp_path.iterdir())
