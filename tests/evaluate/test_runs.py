"""Runs over datasets: result files, reranked runs, and comparisons of two runs."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Unfinished
from freeret.evaluate.results.file import Result, compare
from freeret.evaluate.run import evaluate
from freeret.evaluate.stage2 import judge_run, rerank_run
from freeret.evaluate.systems.registry import (
    BM25,
    PromptedSystem,
)
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from probes import Backbone
from probes.errors import BadFile, Mismatch
from probes.measure.fusion import lead
from tests.evaluate.small import RECIPE, dataset, pairs

Tiny = Callable[[str], Backbone]


@pytest.mark.parametrize("frame", ["mcq", "likelihood"])
def test_reranking_is_that_of_the_retriever(frame: str, tiny: Tiny, tmp_path: Path) -> None:
    """Also where a cascade leaves half of the queries to stage 1."""
    small, recipe = dataset(documents=20), dataclasses.replace(RECIPE, frame=frame)
    first = PromptedSystem.of("recipe", tiny("llama"), recipe).run(small)
    cascade = float(np.median([lead(list(scores.values())) for scores in first.values()]))
    recipe = dataclasses.replace(recipe, cascade=cascade)
    retriever = FreeRet(tiny("llama"), recipe)
    retriever.index(small.documents, tmp_path / "store")
    reranker = Reranker.from_recipe(tiny("llama"), recipe)
    margins = judge_run(small, first, reranker, 5, cascade=cascade)
    assert sum(map(bool, margins.values())) == len(small.queries) / 2
    second = rerank_run(first, margins, 5, recipe.fusion)
    for query in small.queries:
        hits = retriever.search(query, top_n=20, rerank=5)
        assert list(second[query.id or ""]) == [hit.id for hit in hits]


def test_stage_2_orders_the_first_and_leaves_the_rest() -> None:
    first = {"q": {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.6}, "none": {}}
    margins = {"q": {"a": -40.0, "b": 50.0, "c": 60.0}}
    second = rerank_run(first, margins, 3)
    assert list(second["q"]) == ["c", "b", "a", "d"], "60 and 50 are told apart: no saturation"
    values = list(second["q"].values())
    assert values == sorted(values, reverse=True)
    assert second["q"]["a"] == pytest.approx(second["q"]["d"] + 1), "just above the rest"
    mixed = rerank_run(first, {"q": {"a": 1.0, "b": -2.0, "c": 0.5}}, 3, 0.5)
    assert min(mixed["q"][id] for id in "abc") == pytest.approx(1.6)
    assert list(rerank_run(first, margins, 1)["q"]) == ["a", "b", "c", "d"]
    assert second["none"] == {}
    tied = rerank_run(first, {"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, 3)
    assert list(tied["q"]) == ["c", "a", "b", "d"]


def test_a_run_writes_everything(tiny: Tiny, tmp_path: Path) -> None:
    recipe = PromptedSystem.of("recipe", tiny("llama"), RECIPE)
    files = evaluate([dataset, pairs], recipe, tmp_path, rerank=[3, 5])
    assert [f.name for f in files] == ["recipe.json", "recipe-top3.json", "recipe-top5.json"]
    result = Result.load(files[0])
    assert list(result.datasets) == ["small", "pairs"]
    assert result.fingerprint == tiny("llama").fingerprint()
    assert result.system["recipe"]["geometry"] == "centre"
    assert result.stage2 is None
    entry = result.datasets["small"]
    assert (entry.queries, entry.documents, entry.digest) == (6, 12, dataset().digest())
    assert entry.metrics["P@1"].per_query == {f"q{i}": 1.0 for i in range(6)}
    assert entry.metrics["P@1"].interval == (1, 1, 1)
    assert result.datasets["pairs"].grades == {f"q{i}": float(i) for i in range(8)}
    spearman = result.datasets["pairs"].metrics["Spearman"].interval
    assert -1 <= spearman[0] <= 1
    assert result.means == {}, "no mean over different metrics"
    assert set(result.timings) == {"small", "pairs"}
    assert result.timings["small"]["hardware"]["cores"] >= 1
    again = Result.load(files[1])
    assert again.stage2 is not None
    assert (again.stage2["depth"], again.stage2["frame"], again.stage2["fusion"]) == (3, "mcq", 0.2)
    assert again.stage2["first_stage"]["run"] == "recipe"
    assert again.datasets["pairs"] == result.datasets["pairs"], "pairs have nothing to order"
    lines = (tmp_path / "recipe" / "small.trec").read_text().splitlines()
    assert lines[0].split()[:4] == ["q0", "Q0", "d0", "1"]
    assert len(lines) == 6 * 12


def test_a_result_holds_the_prompts_of_both_stages(tiny: Tiny, tmp_path: Path) -> None:
    paper = PromptedSystem.of("paper", tiny("llama"), Recipe.paper())
    first, second = evaluate([lambda: dataset(task="question")], paper, tmp_path, rerank=[3])
    result = Result.load(first)
    assert set(result.datasets["small"].prompts) == {"query", "document"}
    [asked] = result.datasets["small"].prompts["query"]["text"]
    assert "Find the passage that answers the question" in asked
    [settings] = result.system["prompts"]
    assert settings["text"][0].startswith("{task of the dataset} Say what the input means")
    reranked = Result.load(second)
    [judged] = reranked.datasets["small"].prompts["pair"]["text → text"]
    assert "Query: {text}" in judged
    assert "Candidate: {text}" in judged
    assert "why_not_reranked" not in reranked.system["recipe"]


def test_the_trec_file_has_the_scores_of_the_json(tiny: Tiny, tmp_path: Path) -> None:
    """trec_eval computes the same figures from it, with and without reranking."""
    import ir_measures

    small = dataset(metrics=("nDCG@10", "P@1"))
    files = evaluate([lambda: small], PromptedSystem.of("paper", tiny("llama"), Recipe.paper()),
                     tmp_path, rerank=[5])  # fmt: skip
    for file in files:
        told = list(ir_measures.read_trec_run(str(file.with_suffix("") / "small.trec")))
        own = Result.load(file).datasets["small"].metrics
        for metric, measured in own.items():
            measure = ir_measures.parse_measure(metric)
            theirs = ir_measures.iter_calc([measure], small.judgements, told)
            assert {m.query_id: m.value for m in theirs} == measured.per_query


def test_a_finished_dataset_is_not_measured_again(tiny: Tiny, tmp_path: Path) -> None:
    class Counting:
        name, backbone, recipe = "counting", None, None
        runs = 0

        def run(self, dataset: Dataset, **_: Any) -> dict:
            self.runs += 1
            return BM25().run(dataset)

        def identity(self) -> dict:
            return {}

        def prompts_for(self, dataset: Dataset) -> dict:
            return BM25().prompts_for(dataset)

    counting = Counting()
    file = evaluate([dataset], counting, tmp_path)[0]
    first = file.read_bytes()
    evaluate([dataset], counting, tmp_path)
    assert (counting.runs, file.read_bytes()) == (1, first)
    evaluate([dataset, lambda: dataset("other")], counting, tmp_path)
    assert counting.runs == 2
    evaluate([lambda: dataset(documents=11)], counting, tmp_path)
    assert counting.runs == 3, "changed data is measured again"
    assert Result.load(file).datasets["small"].documents == 11
    with pytest.raises(Unfinished, match="two datasets are called 'small'"):
        evaluate([dataset, dataset], counting, tmp_path / "x")


def test_another_backbone_or_recipe_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    evaluate([dataset], PromptedSystem.of("recipe", tiny("llama"), RECIPE), tmp_path)
    other = Recipe("prompteol", "attn[-2]", "centre", "mcq", 0.2)
    said = r"recipe\.json was made with other settings: .*site attn\[3\], now attn\[2\]"
    with pytest.raises(Mismatch, match=said):
        evaluate([dataset], PromptedSystem.of("recipe", tiny("llama"), other), tmp_path)
    with pytest.raises(Mismatch, match=r"was made with \S+, you asked for \S+\. Give"):
        evaluate([dataset], PromptedSystem.of("recipe", tiny("qwen2"), RECIPE), tmp_path)
    with pytest.raises(Mismatch, match="other settings: seed 0, now 1"):
        evaluate([dataset], PromptedSystem.of("recipe", tiny("llama"), RECIPE), tmp_path, seed=1)


def test_a_backbone_that_cannot_rerank_is_not_reranked(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe("prompteol", "attn[-1]", "none", None, why_not_reranked="AUC at chance")
    files = evaluate(
        [dataset], PromptedSystem.of("recipe", tiny("llama"), recipe), tmp_path, rerank=[5]
    )
    assert [file.name for file in files] == ["recipe.json"]
    assert "AUC at chance" in caplog.text


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    for text, said in [("{}", "format 1"), ('{"format": 1}', "not a whole result"), ("{", "JSON")]:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(BadFile, match=said):
            Result.load(tmp_path / "x.json")


def test_two_runs_are_compared_query_by_query(tiny: Tiny, tmp_path: Path) -> None:
    loaders = [dataset, pairs, lambda: dataset("other")]
    a = evaluate(loaders, PromptedSystem.of("recipe", tiny("llama"), RECIPE), tmp_path)[0]
    b = evaluate(loaders, BM25(), tmp_path)[0]
    one, other = Result.load(a), Result.load(b)
    rows = compare(one, other)
    assert [(row.dataset, row.metric) for row in rows] == [
        ("small", "P@1"), ("pairs", "Spearman"), ("other", "P@1"), ("mean", "P@1"),
    ]  # fmt: skip
    assert rows[0].difference.mean == 0.0, "both find everything"
    gap = one.datasets["pairs"].metrics["Spearman"].interval[0]
    gap -= other.datasets["pairs"].metrics["Spearman"].interval[0]
    assert rows[1].difference.mean == pytest.approx(gap)
    assert rows[3].difference.mean == 0.0
    assert rows[3].queries == 12
    assert compare(other, one)[1].difference.mean == pytest.approx(-gap)


@pytest.mark.parametrize(
    "other",
    [
        lambda: dataset(queries=5),
        lambda: dataset(documents=11),
        lambda: dataset(task="question"),
        lambda: dataset("another name"),
    ],
)
def test_other_queries_are_refused(other: Any, tmp_path: Path) -> None:
    a = Result.load(evaluate([dataset], BM25(), tmp_path / "a")[0])
    b = Result.load(evaluate([other], BM25(), tmp_path / "b")[0])
    with pytest.raises(Mismatch, match=r"other queries|no dataset in common"):
        compare(a, b)


def test_the_same_dataset_with_other_queries_is_refused(tmp_path: Path) -> None:
    """Renamed queries are noticed even where the digests agree."""
    file = evaluate([dataset], BM25(), tmp_path / "a")[0]
    a, b = Result.load(file), Result.load(file)
    for measured in b.datasets["small"].metrics.values():
        measured.per_query = {f"other {id}": v for id, v in measured.per_query.items()}
    with pytest.raises(Mismatch, match="other queries"):
        compare(a, b)
