"""Killed evaluations and ablations resume where they stopped, with the same result."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from freeret.evaluate.ablation.file import ablate_all
from freeret.evaluate.ablation.measure import Ablator
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.journal import MarginFile
from freeret.evaluate.rankings import read_trec, write_trec
from freeret.evaluate.results.file import Result
from freeret.evaluate.results.kept import Kept
from freeret.evaluate.run import evaluate
from freeret.evaluate.systems.registry import PromptedSystem
from freeret.reranker import Reranker
from probes import Backbone, Item
from tests.evaluate.small import RECIPE, dataset

Tiny = Callable[[str], Backbone]


def test_a_killed_ablation_resumes_after_its_finished_prompts(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from freeret.evaluate.ablation import measure

    encoded: list[str] = []
    encode = measure.prompted_states
    allowed = ["control"]

    def counting(backbone: Backbone, prompt: Any, *more: Any, **options: Any) -> Tensor:
        name = prompt.name.split("(")[0]
        if name not in allowed:
            raise Killed
        encoded.append(name)
        return encode(backbone, prompt, *more, **options)

    monkeypatch.setattr(measure, "prompted_states", counting)
    ablator = Ablator(tiny("llama"), RECIPE, [], [3])
    small, cut, whole = (lambda: dataset(documents=100)), tmp_path / "cut", tmp_path / "whole"
    with pytest.raises(Killed):
        ablate_all(ablator, [small], cut / "ablation.json")
    assert (cut / "ablation" / "small" / "grid.jsonl").is_file()
    encoded.clear()
    allowed += ["e5v", "prompteol"]
    resumed = ablate_all(ablator, [small], cut / "ablation.json")
    assert "control" not in encoded
    assert resumed.timings["small"]["resumed"] is True
    assert not (cut / "ablation").exists()
    assert ablate_all(ablator, [small], whole / "ablation.json").datasets == resumed.datasets


class Killed(KeyboardInterrupt):
    pass


class Counting(Reranker):
    """Is killed after `patience` pairs; notes every pair in `asked`."""

    asked: list[tuple[str, str]]
    patience: int = 10**6

    def margins(self, pairs: Any, **options: Any) -> np.ndarray:
        self.asked += [(query.id, document.id) for query, document in pairs]
        if len(self.asked) > self.patience:
            raise Killed
        return super().margins(pairs, **options)


@pytest.fixture
def counting(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Counting:
    judge = Counting(tiny("llama"), "mcq")
    judge.asked = []
    monkeypatch.setattr("freeret.evaluate.run._reranker", lambda _: judge)
    return judge


class Once(PromptedSystem):
    """Notes the side of every call of `encode`."""

    calls: list[str] = []  # noqa: RUF012

    def encode(self, items: Sequence[Item], side: Any, task: str, **options: Any) -> Tensor:
        self.calls.append(side)
        return super().encode(items, side, task, **options)


def test_a_killed_reranking_resumes(counting: Counting, tiny: Tiny, tmp_path: Path) -> None:
    one = Once.of("recipe", tiny("llama"), RECIPE)
    evaluate([dataset], one, tmp_path / "whole", rerank=[2, 4])
    assert len(counting.asked) == 24
    Once.calls.clear()
    counting.asked, counting.patience = [], 15
    with pytest.raises(Killed):
        evaluate([dataset], one, tmp_path / "cut", rerank=[2, 4])
    file = tmp_path / "cut" / "recipe" / "small.margins"
    kept = MarginFile(file, json.loads(file.read_text().splitlines()[0])["identity"])
    assert [len(row) for row in kept.margins.values()] == [4, 4, 4]
    assert kept.seconds > 0
    with file.open("a") as torn:
        torn.write('{"query": "q3", "margins": {"d0": 0.')
    assert set(Once.calls) == {"query", "document"}
    Once.calls.clear()
    counting.asked, counting.patience = [], 10**6
    evaluate([dataset], one, tmp_path / "cut", rerank=[2, 4])
    assert Once.calls == [], "the ranking of stage 1 is there"
    assert {query for query, _ in counting.asked} == {"q3", "q4", "q5"}
    assert not file.exists()
    for name in ("recipe", "recipe-top2", "recipe-top4"):
        left, right = (
            json.loads((tmp_path / out / f"{name}.json").read_text()) for out in ("cut", "whole")
        )
        timing, whole = left.pop("timings")["small"], right.pop("timings")["small"]
        assert "resumed" not in whole
        if name != "recipe":
            assert timing["resumed"] is True
            assert timing["seconds"] >= round(kept.seconds, 2), "the killed call counts"
            assert timing["shared_by_depths"] == whole["shared_by_depths"] == [2, 4]
        assert left == right
        trecs = [(tmp_path / out / name / "small.trec").read_bytes() for out in ("cut", "whole")]
        assert trecs[0] == trecs[1]


def test_a_deeper_reranking_uses_the_margins_of_a_killed_one(
    counting: Counting, tiny: Tiny, tmp_path: Path
) -> None:
    one = PromptedSystem.of("recipe", tiny("llama"), RECIPE)
    counting.patience = 7
    with pytest.raises(Killed):
        evaluate([dataset], one, tmp_path, rerank=[3])
    counting.asked, counting.patience = [], 10**6
    evaluate([dataset], one, tmp_path, rerank=[5])
    first = Kept.open(tmp_path / "recipe.json", Result.load(tmp_path / "recipe.json"))
    ranking = first.ranking(dataset())
    assert ranking is not None
    asked = {q: [d for query, d in counting.asked if query == q] for q in ranking}
    assert [len(row) for row in asked.values()] == [2, 2, 5, 5, 5, 5]
    assert asked["q0"] == list(ranking["q0"])[3:5]


def test_margins_of_another_identity_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "x.margins"
    MarginFile(file, "this").add_margins("q", {"d": 1.5})
    assert MarginFile(file, "this").margins == {"q": {"d": 1.5}}
    assert MarginFile(file, "that").margins == {}
    assert MarginFile(file, "this").margins == {}, "they were dropped"
    file.write_text("nonsense")
    assert MarginFile(file, "this").margins == {}


def test_a_changed_ranking_file_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
    small, one = dataset(metrics=("nDCG@10",)), Once.of("recipe", tiny("llama"), RECIPE)
    evaluate([lambda: small], one, tmp_path)
    file = tmp_path / "recipe" / "small.trec"
    right = file.read_text()
    kept = Kept.open(tmp_path / "recipe.json", Result.load(tmp_path / "recipe.json"))
    assert kept.ranking(small) == one.run(small)
    for wrong in ("", right[:300], right.replace(" d0 ", " d1 "), right.replace(" d0 ", " lost ")):
        file.write_text(wrong)
        assert kept.ranking(small) is None
    file.unlink()
    Once.calls.clear()
    evaluate([lambda: small], one, tmp_path, rerank=[2])
    assert Once.calls, "stage 1 once more"
    assert file.read_text() == right


def test_ids_with_spaces_are_read_back_where_they_are_unambiguous(tmp_path: Path) -> None:
    odd = Dataset("odd", [Item("a", id="q one")], [Item("b", id="d one"), Item("c", id="d two")],
                  {"q one": {"d one": 1}})  # fmt: skip
    run = {"q one": {"d two": 0.1 + 0.2, "d one": -1e-7}}
    assert read_trec(write_trec(tmp_path / "x", run, "tag"), odd) == run
    same = Dataset("odd", odd.queries, [Item("b", id="d one"), Item("c", id="d_one")],
                   odd.judgements)  # fmt: skip
    assert read_trec(tmp_path / "x", same) is None
