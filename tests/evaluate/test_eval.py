"""Systems under one interface, runs that go on where they stopped, comparisons, ablations."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from freeret.evaluate.ablation.file import Ablations, ablate_all, mean_regret, regrets, worst_regret
from freeret.evaluate.ablation.measure import Ablation, Ablator, Point
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Unfinished
from freeret.evaluate.metrics import score_run
from freeret.evaluate.plots import draw_ablation, draw_regrets, draw_systems
from freeret.evaluate.results.file import Result, compare
from freeret.evaluate.run import evaluate
from freeret.evaluate.stage2 import judge_run, rerank_run
from freeret.evaluate.systems.registry import (
    BM25,
    Pooled,
    PromptedSystem,
    SentenceTransformers,
    system,
)
from freeret.hits import Hits
from freeret.preflight import SYSTEMS
from freeret.recipe import LEXICAL, Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from probes import Backbone, Item, late_sites
from probes.errors import BadFile, BadSetting, Mismatch
from probes.measure.diagnostic.hybrid import LEXICAL_WEIGHTS
from probes.measure.fusion import lead
from probes.prompts import NAMED
from probes.stats import Interval
from tests.commands import own_lines, run
from tests.stores import save_tiny

Tiny = Callable[[str], Backbone]
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


# ------------------------------------------------------------------------------------- systems


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_finds_what_was_asked_for(name: str, tiny: Tiny) -> None:
    """Queries are documents word for word; the lowest vectors can do is to find them."""
    found = system(name, lambda: tiny("llama"), lambda: RECIPE)
    ranking = found.run(dataset())
    assert {q: next(iter(row)) for q, row in ranking.items()} == {
        f"q{i}": f"d{i}" for i in range(6)
    }
    assert all(len(row) == 12 for row in ranking.values())
    assert found.run(pairs()).keys() == {f"q{i}" for i in range(8)}
    json.dumps(found.identity())


def test_systems_differ_and_say_so(tiny: Tiny) -> None:
    built = [system(name, lambda: tiny("llama"), lambda: RECIPE) for name in SYSTEMS]
    assert [one.name for one in built] == list(SYSTEMS)
    assert len({json.dumps(one.identity(), sort_keys=True) for one in built}) == len(SYSTEMS)


def test_a_recipe_ranks_as_the_retriever_does(tiny: Tiny, tmp_path: Path) -> None:
    """Geometry, prompt and ties are those of `FreeRet.search`."""
    recipe = Recipe("prompteol", "mlp[-2]", "whiten", None, None)
    small = dataset(documents=20)
    retriever = FreeRet(tiny("llama"), recipe)
    retriever.index(small.documents, tmp_path / "store")
    ranking = PromptedSystem.of("recipe", tiny("llama"), recipe).run(small)
    for query in small.queries:
        hits = retriever.search(query, top_n=20)
        own = ranking[query.id or ""]
        assert list(own) == [hit.id for hit in hits]
        np.testing.assert_allclose(list(own.values()), [hit.score for hit in hits], atol=1e-5)


def test_the_task_of_the_dataset_is_the_task_prior(tiny: Tiny) -> None:
    system = PromptedSystem.of("paper", tiny("llama"), Recipe.paper())
    asked = [system.run(dataset(task=task)) for task in ("same meaning", "question")]
    assert asked[0] != asked[1]
    fixed = PromptedSystem.of("e5v", tiny("llama"), Recipe.e5v())
    asked = [fixed.run(dataset(task=task)) for task in ("same meaning", "question")]
    assert asked[0] == asked[1]


def hidden(backbone: Backbone, text: str) -> torch.Tensor:
    """All final states of one text alone, without a chat template."""
    batch = backbone.encode([text])
    with torch.no_grad():
        return backbone.model(**batch.inputs, output_hidden_states=True).hidden_states[-1][0]


def test_pooling_is_over_the_right_positions(tiny: Tiny) -> None:
    backbone = tiny("llama")
    texts = ["the word", "one of the image " * 4, "Yes"]
    items = [Item(text) for text in texts]
    for name, take in {"mean": lambda s: s.mean(0), "last": lambda s: s[-1]}.items():
        expected = torch.stack([take(hidden(backbone, text)) for text in texts])
        torch.testing.assert_close(
            Pooled(name, backbone).encode(items), expected, atol=1e-5, rtol=0
        )  # type: ignore[arg-type]
    found = Pooled("echo", backbone).encode(items)
    for text, vector in zip(texts, found, strict=True):
        whole = f"Rewrite the sentence: {text}, rewritten sentence: {text}"
        second = len(backbone.encoder.plain.tokenize(f" {text}"))
        expected = hidden(backbone, whole)[-second:].mean(0)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


def test_pooling_reads_the_whole_row_though_rows_share_a_beginning(tiny: Tiny) -> None:
    backbone = tiny("llama")
    texts = [f"one of the image and the word of the image {end}" for end in ("Yes", "No")]
    expected = torch.stack([hidden(backbone, text).mean(0) for text in texts])
    found = Pooled("mean", backbone).encode([Item(text) for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def searched(backbone: Backbone, recipe: Recipe, data: Dataset, folder: Path) -> list[Hits]:
    """The hits of a store of the documents, all of them, for each query."""
    retriever = FreeRet(backbone, recipe)
    retriever.index(data.documents, folder)
    return retriever.search_many(data.queries, len(data.documents))


@pytest.mark.parametrize("candidates", [100, 2])
def test_hybrid_is_that_of_a_store(
    candidates: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most documents are the candidates of neither leg."""
    for module in ("freeret.search.corpus", "freeret.evaluate.systems.words"):
        monkeypatch.setattr(f"{module}.CANDIDATES", candidates)
    one = system("hybrid", lambda: tiny("llama"), lambda: RECIPE)
    assert one.recipe is not None
    assert one.recipe.lexical == LEXICAL
    data = dataset()
    run = one.run(data)
    hits = searched(tiny("llama"), one.recipe, data, tmp_path / "s")
    for query, expected in zip(data.queries, hits, strict=True):
        found = run[query.id or ""]
        assert list(found) == [hit.id for hit in expected]
        np.testing.assert_allclose(list(found.values()), [h.score for h in expected], atol=1e-4)


def test_bm25_is_the_lexical_leg_of_a_store(tiny: Tiny, tmp_path: Path) -> None:
    data = dataset()
    run = BM25().run(data)
    hits = searched(tiny("llama"), RECIPE.hybrid(), data, tmp_path / "s")
    for query, expected in zip(data.queries, hits, strict=True):
        scores = {hit.id: hit.legs.bm25 for hit in expected if hit.legs}
        assert run[query.id or ""] == pytest.approx(scores, abs=1e-5)
        assert max(scores.values()) > 0


def test_bm25_of_words_that_no_document_has() -> None:
    small = dataset(queries=1)
    unknown = Dataset("x", [Item("zebra", id="q0")], small.documents, {"q0": {"d0": 1}})
    assert len(BM25().run(unknown)["q0"]) == 12


def test_what_a_system_cannot_read_is_said(tiny: Tiny) -> None:
    picture = Item(images=[Image.new("RGB", (8, 8))], id="p")
    seen = Dataset("seen", [Item("a", id="q")], [picture], {"q": {"p": 1}})
    with pytest.raises(BadSetting, match="BM25 reads text, and item 'p' holds image"):
        BM25().run(seen)
    with pytest.raises(BadSetting, match="Echo repeats text, and item 'p'"):
        Pooled("echo", tiny("qwen2.5-vl")).run(seen)
    with pytest.raises(BadSetting, match="no system 'nonsense'"):
        system("nonsense", lambda: tiny("llama"), Recipe.paper)


@pytest.mark.filterwarnings("ignore")
def test_a_sentence_transformers_model_by_name(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Normalize

    model = SentenceTransformer(
        modules=[BoW(vocab=[*WORDS, *(f"number{i:02d}" for i in range(12))]), Normalize()]
    )
    model.save(str(tmp_path / "words"))
    found = SentenceTransformers(str(tmp_path / "words"))
    assert found.name == "st-words"
    small = dataset()
    texts = [d.text for d in small.documents]
    expected = model.encode(texts[:6]) @ model.encode(texts).T
    own = found.run(small)
    for row, ranking in zip(expected, own.values(), strict=True):
        np.testing.assert_allclose([ranking[f"d{i}"] for i in range(12)], row, atol=1e-5)
    with pytest.raises(BadSetting, match="no model"):
        SentenceTransformers(str(tmp_path / "none")).run(small)


def colour(name: str) -> Image.Image:
    return Image.new("RGB", (48, 48), name)


COLOURS = ["red", "green", "blue", "white", "black", "teal"]
ACROSS: dict[str, list[Item]] = {
    "text": [Item(c, id=f"t{i}") for i, c in enumerate(COLOURS)],
    "image": [Item(images=[colour(c)], id=f"p{i}") for i, c in enumerate(COLOURS)],
    "image+text": [Item("a", images=[colour(c)], id=f"b{i}") for i, c in enumerate(COLOURS)],
    "video": [Item(videos=[[colour(c)] * 2], id=f"v{i}") for i, c in enumerate(COLOURS)],
}


@pytest.mark.parametrize("asked", ACROSS)
@pytest.mark.parametrize("stored", ["text", "image"])
def test_kinds_that_a_pool_does_not_hold_are_centred_as_the_retriever_does(
    asked: str, stored: str, tiny: Tiny, tmp_path: Path
) -> None:
    """And no query knows of the others: alone it is ranked alike. None of them finds itself."""
    backbone, recipe = tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None)
    queries, documents = ACROSS[asked], ACROSS[stored]
    retriever = FreeRet(backbone, recipe)
    retriever.index(documents, tmp_path / "store")
    judged = {q.id or "": {documents[0].id or "": 1} for q in queries}
    evaluated = PromptedSystem.of("recipe", backbone, recipe)
    ranking = evaluated.run(Dataset("across", queries, documents, judged))
    alone = evaluated.run(Dataset("alone", queries[:1], documents, judged))
    found = retriever.search_many(queries, top_n=6)
    for query, hits in zip(queries, found, strict=True):
        scores = {hit.id: hit.score for hit in hits if hit.id != query.id}
        assert ranking[query.id or ""] == pytest.approx(scores, abs=1e-5)
    assert alone[queries[0].id or ""] == pytest.approx(ranking[queries[0].id or ""], abs=1e-5)


# -------------------------------------------------------------------------------------- stage 2


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


# ------------------------------------------------------------------------------------------ runs


def without_timings(file: Path) -> str:
    data = json.loads(file.read_text())
    assert data.pop("timings")
    return json.dumps(data)


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


def test_the_run_file_says_what_the_json_says(tiny: Tiny, tmp_path: Path) -> None:
    """trec_eval on the file finds the same figures, reranked or not."""
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


def test_a_file_that_is_no_result(tmp_path: Path) -> None:
    for text, said in [("{}", "format 1"), ('{"format": 1}', "not a whole result"), ("{", "JSON")]:
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(BadFile, match=said):
            Result.load(tmp_path / "x.json")


# ----------------------------------------------------------------------------------- comparisons


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
    """A file in which queries were renamed has the digest of the other, and other pairs."""
    file = evaluate([dataset], BM25(), tmp_path / "a")[0]
    a, b = Result.load(file), Result.load(file)
    for measured in b.datasets["small"].metrics.values():
        measured.per_query = {f"other {id}": v for id, v in measured.per_query.items()}
    with pytest.raises(Mismatch, match="other queries"):
        compare(a, b)


# ------------------------------------------------------------------------------------- ablations


# With a hundred texts the project's own sentences are not needed.
ABLATED: list[Any] = [lambda: dataset(documents=100), lambda: pairs(100)]
ASKED = ["control, no task", "no prior"]


@pytest.fixture(scope="module")
def ablations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ablations, Path]:
    from tests.conftest import load_tiny

    file = tmp_path_factory.mktemp("ablate") / "ablation.json"
    ablator = Ablator(load_tiny("llama"), RECIPE, ASKED, [3, 5])
    found = ablate_all(ablator, ABLATED, file)
    return found, file


def test_every_part_is_in_the_table(ablations: tuple[Ablations, Path]) -> None:
    rows = ablations[0].datasets["small"].rows
    parts = {part: [r.label for r in rows if r.part == part] for part in {r.part for r in rows}}
    assert parts["site"] == late_sites(4), "this backbone has four layers"
    assert parts["prior"] == ASKED
    assert parts["choice"] == ["E5-V extraction", "FreeRet-embed", "recipe"]
    assert parts["geometry"][:3] == ["none", "centre", "whiten"]
    frames = parts["frame"]
    for name in ("mcq", "mcq_swapped", "yes_no", "true_false", "right_wrong", "mcq, calibrated",
                 "mcq, options last", "mcq, both orders", "recipe", "stage 1 alone"):  # fmt: skip
        assert f"{name}, top 3" in frames
        assert f"{name}, top 5" in frames
    assert not [r for r in ablations[0].datasets["pairs"].rows if r.part == "frame"]
    assert parts["lexical"] == ["recipe, 0", *(f"recipe, {weight:g}" for weight in LEXICAL_WEIGHTS)]
    assert "lexical" not in {row.part for row in ablations[0].datasets["pairs"].rows}
    prompts, hybrid = 3 + len(ASKED), len(LEXICAL_WEIGHTS)
    assert len(ablations[0].datasets["small"].grid) == prompts * 3 * (9 + hybrid)
    assert len(ablations[0].datasets["pairs"].grid) == prompts * 3 * 9


def test_one_pass_over_all_sites_is_each_site_by_itself(
    ablations: tuple[Ablations, Path], tiny: Tiny
) -> None:
    for name, data in {"small": ABLATED[0](), "pairs": ABLATED[1]()}.items():
        grid = {(p.prompt, p.site, p.geometry): p.value for p in ablations[0].datasets[name].grid}
        for prompt, site, kind in [("control", "attn[-1]", "none"), ("e5v", "norm", "whiten"),
                                   ("prompteol", "mlp[-2]", "centre")]:  # fmt: skip
            alone = PromptedSystem("alone", tiny("llama"), [prompt], site, kind)  # type: ignore[arg-type]
            expected = score_run(data, alone.run(data), data.metrics[0]).interval().mean
            assert grid[prompt, site, kind] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2.5-vl"])
def test_the_grid_holds_what_a_recipe_with_words_reaches(
    kind: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Of texts, and of pictures, which the lexical leg finds by the words read in them."""
    backbone, data = tiny(kind), apart(pictures=kind == "qwen2.5-vl")
    recipe = dataclasses.replace(RECIPE, frame=None, lexical=0.5)
    found = Ablator(backbone, recipe, []).measure(data, Scratch(tmp_path, "this"))
    grid = {(p.prompt, p.site, p.geometry, p.lexical): p.value for p in found.grid}
    for prompt, geometry, weight in [
        ("prompteol", "centre", 0.5), ("e5v", "whiten", 1.0), ("control", "none", 0.05),
        ("control", "none", 0.0),
    ]:  # fmt: skip
        as_this = dataclasses.replace(recipe, prompt=prompt, geometry=geometry, lexical=weight)
        alone = PromptedSystem.of("alone", backbone, as_this).run(data)
        expected = score_run(data, alone, data.metrics[0]).interval().mean
        assert grid[prompt, "attn[-1]", geometry, weight] == pytest.approx(expected, abs=1e-6)
    chosen = next(row for row in found.rows if (row.part, row.name) == ("choice", "recipe"))
    assert chosen.interval[0] == grid["prompteol", "attn[-1]", "centre", 0.5]
    assert chosen.interval[0] != grid["prompteol", "attn[-1]", "centre", 0.0]


def apart(*, pictures: bool) -> Dataset:
    """Queries whose answers share no word with them, so that words change their places."""
    documents = [Item(words(i), id=f"d{i}") for i in range(20)]
    if pictures:
        colours = [(13 * i % 256, 29 * i % 256, 71 * i % 256) for i in range(20)]
        drawn = [Image.new("RGB", (32, 32), colour) for colour in colours]
        documents = [Item(images=[picture], id=f"d{i}") for i, picture in enumerate(drawn)]
    return Dataset(
        name="apart",
        queries=[Item(words(3 * i + 1), id=f"q{i}") for i in range(8)],
        documents=documents,
        judgements={f"q{i}": {f"d{2 * i}": 1} for i in range(8)},
        metrics=("RR",),
    )


def test_a_row_is_compared_with_the_papers_choice(ablations: tuple[Ablations, Path]) -> None:
    rows = {(r.part, r.name): r for r in ablations[0].datasets["pairs"].rows}
    paper = rows["choice", "FreeRet-embed"]
    assert paper.difference == (0, 0, 0)
    assert rows["site", "attn[-1]"].interval == paper.interval
    e5v = rows["choice", "E5-V extraction"]
    assert e5v.difference[0] == pytest.approx(e5v.interval[0] - paper.interval[0])


def test_calibration_moves_the_threshold_and_not_the_order(
    ablations: tuple[Ablations, Path],
) -> None:
    rows = {r.label: r for r in ablations[0].datasets["small"].rows}
    plain, calibrated = rows["mcq, top 5"], rows["mcq, calibrated, top 5"]
    assert plain.interval == calibrated.interval
    assert plain.auc == calibrated.auc


def test_regret_is_best_minus_chosen(ablations: tuple[Ablations, Path]) -> None:
    found = {(r.dataset, r.part): r for r in regrets(ablations[0])}
    grid = ablations[0].datasets["pairs"].grid
    at = {p.site: p.value for p in grid if (p.prompt, p.geometry) == ("prompteol", "centre")}
    settings = {p: p.value for p in grid if p.site == "attn[-1]" and p.prompt in NAMED}
    site = found["pairs", "site"]
    assert (site.chosen, site.value) == ("attn[-1]", at["attn[-1]"])
    assert (site.best_value, site.worst_value) == (max(at.values()), min(at.values()))
    assert at[site.best] == site.best_value
    assert site.regret == site.best_value - site.value >= 0
    assert found["pairs", "setting"].best_value == max(settings.values())
    assert found["pairs", "setting"].worst_value == min(settings.values())
    prompts = [v for p, v in settings.items() if p.geometry == "centre"]
    geometries = [v for p, v in settings.items() if p.prompt == "prompteol"]
    assert found["pairs", "prompt"].best_value == max(prompts)
    assert found["pairs", "geometry"].worst_value == min(geometries)
    assert found["pairs", "lexical"].regret == 0, "pairs are compared by vectors alone"
    assert found["small", "frame"].chosen.startswith("recipe, top")
    sites = [r.regret for r in regrets(ablations[0]) if r.part == "site"]
    assert mean_regret(regrets(ablations[0]), "site") == pytest.approx(np.mean(sites))
    assert worst_regret(regrets(ablations[0]), "site") == max(sites)
    other = regrets(ablations[0], dataclasses.replace(RECIPE, site="norm"))
    assert next(r.value for r in other if (r.dataset, r.part) == ("pairs", "site")) == at["norm"]


def test_an_ablation_is_read_as_it_was_written_and_not_made_again(
    ablations: tuple[Ablations, Path], tiny: Tiny
) -> None:
    found, file = ablations
    assert Ablations.load(file) == found
    before = file.stat().st_mtime_ns
    again = ablate_all(Ablator(tiny("llama"), RECIPE, ASKED, [3, 5]), ABLATED, file)
    assert (again, file.stat().st_mtime_ns) == (found, before)
    with pytest.raises(Mismatch, match=r"ablation\.json"):
        ablate_all(Ablator(tiny("llama"), RECIPE, depths=[3, 5]), ABLATED, file)
    (file.parent / "cut.json").write_text(file.read_text()[:900])
    with pytest.raises(BadFile, match="JSON"):
        Ablations.load(file.parent / "cut.json")


def test_a_judge_that_is_no_frame_is_measured_beside_the_frames(tiny: Tiny, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, frame="likelihood", fusion=None, lexical=0.5)
    ablator = Ablator(tiny("llama"), recipe, [], [3])
    data = apart(pictures=False)
    rows = ablator.measure(data, Scratch(tmp_path, "this")).rows
    values = {row.label: row.interval[0] for row in rows if row.part == "frame"}
    first = PromptedSystem.of("recipe", tiny("llama"), recipe).run(data)
    judged = judge_run(data, first, Reranker(tiny("llama"), "likelihood"), 3)
    expected = score_run(data, rerank_run(first, judged, 3, None), data.metrics[0]).value
    assert values["recipe, top 3"] == values["likelihood, top 3"] == pytest.approx(expected)
    assert values["stage 1 alone, top 3"] == pytest.approx(score_run(data, first, "RR").value)


def test_only_the_prompts_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    ablator = Ablator(tiny("llama"), RECIPE, prompts=[])
    found = ablator.measure(dataset(documents=100), Scratch(tmp_path, "this"))
    assert {point.prompt for point in found.grid} == {"control", "e5v", "prompteol"}


def test_regret_counts_the_words_of_the_recipe() -> None:
    """Chosen among the weights of the recipe's site, beside prompts and geometries there."""
    recipe = Recipe("topic", "attn[-1]", "whiten", lexical=0.5)
    points = [
        Point("topic", "attn[-1]", "whiten", 0.4),
        Point("topic", "attn[-1]", "whiten", 0.6, 0.5, (0.5, 0.7)),
        Point("topic", "attn[-1]", "whiten", 0.65, 1.0),
        Point("topic", "attn[-1]", "centre", 0.7, 0.5),
        Point("e5v", "attn[-1]", "whiten", 0.8, 0.5),
        Point("e5v", "attn[-1]", "none", 0.9, 0.1, (0.9, 0.9)),
        Point("control", "attn[-1]", "none", 0.6, 0.1, (0.2, 1.0)),
        Point("control", "attn[-1]", "none", 0.7, 0.2, (0.4, 1.0)),
        Point("no prior", "attn[-1]", "none", 0.95, 0.1),  # which no recipe can choose
        Point("topic", "norm", "whiten", 0.99),
    ]
    one = Ablation("digest", "P@1", 9, 9, "", [], points)
    made = Ablations({"model": "m", "layers": 4}, recipe, [], [], 0, {"one": one}, {})
    found = {r.part: (r.value, r.best_value) for r in regrets(made)}
    assert found == {
        "site": (0.4, 0.99), "setting": (0.6, 0.9), "prompt": (0.6, 0.8), "geometry": (0.6, 0.7),
        "lexical": (0.6, 0.65),
    }  # fmt: skip
    setting = next(r for r in regrets(made) if r.part == "setting")
    assert setting.best == "e5v, none, BM25 0.1"
    # Picked on the one half: 0.9 against 0.7; on the other: two, 0.2 and 0.4, against 0.5.
    assert setting.held_out == pytest.approx((0.2 - 0.2) / 2)


def test_a_figure_has_a_panel_a_part(ablations: tuple[Ablations, Path]) -> None:
    shown = draw_ablation(ablations[0].datasets["small"], title="small")
    titles = [ax.get_title(loc="left") for ax in shown.axes]
    assert len(titles) == 7
    labels = [label.get_text() for label in shown.axes[1].get_yticklabels()]
    assert labels == late_sites(4)


def test_the_choice_is_drawn_between_the_worst_and_the_best(
    ablations: tuple[Ablations, Path],
) -> None:
    found = regrets(ablations[0])
    [ax] = draw_regrets({"tiny": found}, "setting").axes
    own = [r for r in found if r.part == "setting"]
    lines = [np.ravel(line.get_xdata()).tolist() for line in ax.lines]
    assert lines[0::2] == [[r.worst_value, r.best_value] for r in own]
    assert lines[1::2] == [[r.value] for r in own]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        f"{r.dataset}: {r.chosen}" for r in own
    ]


@pytest.mark.parametrize("suites", [1, 3, 5])
def test_a_figure_has_a_panel_a_suite(suites: int) -> None:
    systems = {"one": Interval(0.5, 0.4, 0.6), "two": Interval(0.3, 0.2, 0.4)}
    shown = draw_systems({f"suite {k}": systems for k in range(suites)})
    assert [ax.get_title(loc="left") for ax in shown.axes] == [f"suite {k}" for k in range(suites)]
    assert all(len(ax.get_yticklabels()) == 2 for ax in shown.axes)


# -------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a recipe and a BEIR folder on disk."""
    root = tmp_path_factory.mktemp("place")
    save_tiny(root / "model")
    RECIPE.save(root / "recipe.json")
    for name, count in (("one", 100), ("two", 100)):
        folder = root / name
        (folder / "qrels").mkdir(parents=True)
        rows = [{"_id": f"d{i}", "text": words(i)} for i in range(count)]
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
        rows = [{"_id": f"q{i}", "text": words(i)} for i in range(10)]
        (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(10))
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return root


def arguments(place: Path, out: Path, *more: Any) -> list[Any]:
    return ["eval", f"beir:{place}/one", f"paraphrases:{place}/two", "--model", place / "model",
            "--recipe", place / "recipe.json", "--out", out, *more]  # fmt: skip


def test_eval_and_compare_as_commands(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = ["--system", "recipe", "--system", "bm25", "--rerank", "2,4"]
    assert run(*arguments(place, tmp_path, *systems)) == 0
    said = capsys.readouterr().out
    assert "1.000 [1.000, 1.000]" in said
    assert "mean over" not in said, "two metrics have no mean"
    assert all(f" {metric} " in said for metric in ("nDCG@10", "P@1"))
    names = {"recipe.json", "recipe-top2.json", "recipe-top4.json", "bm25.json"}
    assert {file.name for file in tmp_path.glob("*.json")} == names
    assert run("compare", tmp_path / "recipe.json", tmp_path / "bm25.json") == 0
    assert "+0.000 [+0.000, +0.000]" in capsys.readouterr().out


def test_ablate_as_a_command(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ablate", f"beir:{place}/one", "--model", place / "model", "--recipe",
               place / "recipe.json", "--prompt", "control, no task",
               "--out", tmp_path) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "control, no task" in said
    assert "regret" in said
    assert "AUC" not in said, "nothing was reranked"
    assert {f.name for f in tmp_path.iterdir()} == {
        "ablation.json", "ablation-one.png", "ablation-one.svg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["eval"], "name at least one suite"),
        (["eval", "nonsense:x"], "is not a suite"),
        (["eval", "beir:/nowhere"], "beir-cellar"),
        (["eval", "PLACE", "--system", "nonsense"], "no system 'nonsense'"),
        (["eval", "PLACE", "--system", "bm25", "--rerank", "five"], "--rerank takes depths"),
        (["compare", "none.json", "none.json"], "cannot read"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(
    bad: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*[f"beir:{place}/one" if a == "PLACE" else a for a in bad]) == 1
    lines = own_lines(capsys.readouterr().err)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_killed_evaluation_ends_in_the_same_file(place: Path, tmp_path: Path) -> None:
    """SIGKILL as soon as the first dataset is kept, at every file of it; then the same command."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*arguments(place, whole, "--rerank", "3")) == 0
    command = [sys.executable, "-m", "freeret",
               *map(str, arguments(place, cut, "--rerank", "3"))]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    limit = time.monotonic() + 600
    while not (cut / "recipe.json").exists() and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(Result.load(cut / "recipe.json").datasets) == ["one"], "killed in the middle"
    assert run(*arguments(place, cut, "--rerank", "3")) == 0
    for name in ("recipe.json", "recipe-top3.json"):
        assert without_timings(cut / name) == without_timings(whole / name)
    for name in ("one", "two"):
        left, right = (out / "recipe-top3" / f"{name}.trec" for out in (cut, whole))
        assert left.read_bytes() == right.read_bytes()


def test_an_embedder_is_not_needed_for_bm25(place: Path, tmp_path: Path) -> None:
    """No model is loaded, so none need be there."""
    assert run("eval", f"beir:{place}/one", "--model", "/nowhere", "--system", "bm25",
               "--out", tmp_path) == 0  # fmt: skip
    assert Result.load(tmp_path / "bm25.json").fingerprint is None
