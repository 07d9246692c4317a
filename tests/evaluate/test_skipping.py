"""Bad items and bad pairs are left out, counted and listed; without `skip` they are errors."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from freeret.evaluate.ablation.file import Ablations, ablate_all
from freeret.evaluate.ablation.measure import Ablator
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Unfinished
from freeret.evaluate.rankings import read_trec
from freeret.evaluate.results.file import Result
from freeret.evaluate.run import evaluate
from freeret.evaluate.skipping import Skipped, work_on_good
from freeret.evaluate.stage2 import judge_run, rerank_run
from freeret.evaluate.systems.registry import PromptedSystem, system
from freeret.preflight import SYSTEMS
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import Backbone, Item
from probes.errors import BadItem, BadSetting
from probes.model.backbone import OutOfMemory
from tests.commands import own_lines, run
from tests.evaluate.small import RECIPE, dataset, pairs, words

Tiny = Callable[[str], Backbone]


def seen(tmp_path: Path, bad: Sequence[str] = (), **more: Any) -> Dataset:
    """Queries and documents are pictures of six colours; files named in `bad` are no pictures."""
    colours = ["red", "green", "blue", "white", "black", "teal"]
    items = []
    for side in "qd":
        for number, colour in enumerate(colours):
            file = tmp_path / f"{side}{number}.png"
            if file.stem in bad:
                file.write_bytes(b"no picture")
            else:
                Image.new("RGB", (16, 16), colour).save(file)
            items.append(Item(images=[file], id=file.stem))
    judged = {f"q{i}": {f"d{i}": 1} for i in range(6)}
    return Dataset("seen", items[:6], items[6:], judged, **more)


def test_bad_items_are_left_out_counted_and_listed(tiny: Tiny, tmp_path: Path) -> None:
    """A bad query scores 0 and counts in the mean. A bad document is never found, and does not
    change the geometry."""
    recipe = PromptedSystem.of("recipe", tiny("qwen2.5-vl"), RECIPE)
    broken = seen(tmp_path, ["q1", "d2"])
    with pytest.raises(Unfinished, match=r"could not evaluate seen: item 'q1': cannot read the im"
                       r".*; leave bad items out with --skip-bad"):  # fmt: skip
        evaluate([lambda: broken], recipe, tmp_path / "raise")
    [file, second] = evaluate([lambda: broken], recipe, tmp_path / "skip", rerank=[3],
                              on_error="skip")  # fmt: skip
    entry = Result.load(file).datasets["seen"]
    assert [(one.side, one.id) for one in entry.skipped] == [("query", "q1"), ("document", "d2")]
    assert all("cannot read the image" in one.reason for one in entry.skipped)
    assert (entry.queries, entry.documents) == (6, 6)
    values = entry.metrics["P@1"].per_query
    assert values["q1"] == values["q2"] == 0.0
    assert entry.metrics["P@1"].interval[0] == sum(values.values()) / 6
    assert Result.load(second).datasets["seen"].skipped == entry.skipped
    whole = seen(tmp_path, ["q1", "d2"])
    good = whole.only([q for q in whole.queries if q.id != "q1"],
                      [d for d in whole.documents if d.id != "d2"])  # fmt: skip
    expected = recipe.run(good)
    ranking = read_trec(tmp_path / "skip" / "recipe" / "seen.trec", broken)
    assert ranking is not None
    assert ranking.pop("q1") == {}
    for query, row in expected.items():
        assert ranking[query] == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in ("bm25", "echo")])
def test_every_system_skips_the_same_items(name: str, tiny: Tiny, tmp_path: Path) -> None:
    one = system(name, lambda: tiny("qwen2.5-vl"), lambda: RECIPE)
    [file] = evaluate([lambda: seen(tmp_path, ["q0", "q5", "d0", "d1"])], one, tmp_path / "out",
                      on_error="skip")  # fmt: skip
    entry = Result.load(file).datasets["seen"]
    assert [one.id for one in entry.skipped] == ["q0", "q5", "d0", "d1"]
    assert len((file.with_suffix("") / "seen.trec").read_text().splitlines()) == 4 * 4


def test_without_bad_items_skipping_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """Up to rounding, which depends on how batches are cut."""
    recipe = PromptedSystem.of("recipe", tiny("llama"), RECIPE)
    for on_error in ("raise", "skip"):
        evaluate([dataset, pairs], recipe, tmp_path / on_error, rerank=[3], on_error=on_error)
    for file in (tmp_path / "raise").rglob("*.trec"):
        other = tmp_path / "skip" / file.relative_to(tmp_path / "raise")
        *wanted, wanted_scores = _columns(file)
        *found, scores = _columns(other)
        assert found == wanted
        assert [float(s) for s in scores] == pytest.approx(
            [float(s) for s in wanted_scores], abs=1e-5
        )
    with pytest.raises(BadSetting, match="on_error must be"):
        evaluate([dataset], recipe, tmp_path, on_error="ignore")


def test_a_query_without_good_candidates_finds_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """The only candidate of q3 is bad, so that its ranking is empty."""
    own = {f"q{i}": [f"d{i}", f"d{(i + 1) % 6}"] for i in range(6)} | {"q3": ["d3"]}
    broken = seen(tmp_path, ["d3"], candidates=own)
    [file] = evaluate([lambda: broken], PromptedSystem.of("recipe", tiny("qwen2.5-vl"), RECIPE),
                      tmp_path, on_error="skip")  # fmt: skip
    ranking = read_trec(file.with_suffix("") / "seen.trec", broken)
    assert ranking is not None
    assert {q: set(row) for q, row in ranking.items()} == {
        q: set(row) - {"d3"} for q, row in own.items()
    }


def test_a_dataset_without_good_documents_is_a_failure(tiny: Tiny, tmp_path: Path) -> None:
    every = [f"d{i}" for i in range(6)]
    with pytest.raises(Unfinished, match=r"seen: no document can be encoded: item 'd0': cannot"):
        evaluate([lambda: seen(tmp_path, every)], PromptedSystem.of("e5v", tiny("qwen2.5-vl"),
                 Recipe.e5v()), tmp_path, on_error="skip")  # fmt: skip


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_good_items_are_processed_once_around_bad_ones(named: bool) -> None:
    bad, done = {"t0", "t41", "t42", "t99"}, []

    def work(things: Sequence[str]) -> list[str]:
        for thing in things:
            if thing in bad:
                raise BadItem(f"{thing} is bad", thing if named else None)
        done.extend(things)
        return list(things)

    things = [f"t{i}" for i in range(100)]
    found, wrong = work_on_good(work, things, things)
    good = [thing for thing in things if thing not in bad]
    assert [thing for part in found for thing in part] == good == done
    assert wrong == {i: f"t{i} is bad" for i in (0, 41, 42, 99)}
    assert work_on_good(work, [], []) == ([[]], {})
    with pytest.raises(BadSetting):
        work_on_good(lambda _: (_ for _ in ()).throw(BadSetting("no")), things, things)


class Strange(PromptedSystem):
    """The vector of d1 overflows, and d4 runs out of memory."""

    def encode(self, items: Sequence[Item], side: Any, task: str, **options: Any) -> Tensor:
        if any(item.id == "d4" for item in items):
            raise OutOfMemory("no room")
        vectors = super().encode(items, side, task, **options)
        for place, item in enumerate(items):
            if item.id == "d1":
                vectors[place, 3] = torch.inf
        return vectors


def test_a_vector_that_is_not_finite_names_its_item(tiny: Tiny, tmp_path: Path) -> None:
    strange = Strange.of("recipe", tiny("llama"), RECIPE)
    few = dataset(documents=4)
    with pytest.raises(BadItem, match=r"item 'd1': its vector is not finite .*another dtype"):
        strange.run(few)
    skipped: list[Skipped] = []
    ranking = strange.run(dataset(), skipped=skipped)
    assert [(one.id, one.reason[:30]) for one in skipped] == [
        ("d4", "no room"), ("d1", "item 'd1': its vector is not f"),
    ]  # fmt: skip
    assert all(len(row) == 10 for row in ranking.values())
    with pytest.raises(Unfinished, match="small: no room"):
        evaluate([dataset], strange, tmp_path)


class Choosy(Reranker):
    """Pairs with d1 are bad, and the margin of (q2, d2) overflows."""

    calls: int = 0

    def margins(self, pairs: Any, **options: Any) -> np.ndarray:
        self.calls += len(pairs)
        if any(document.id == "d1" for _, document in pairs):
            raise BadItem("item 'd1': too long together")
        margins = super().margins(pairs, **options)
        for place, (query, document) in enumerate(pairs):
            if (query.id, document.id) == ("q2", "d2"):
                margins[place] = np.nan
        return margins


def test_pairs_that_cannot_be_judged_stand_below_the_judged(tiny: Tiny) -> None:
    few = dataset(queries=4, documents=5)
    first = PromptedSystem.of("recipe", tiny("llama"), RECIPE).run(few)
    choosy, skipped = Choosy(tiny("llama")), []
    margins = judge_run(few, first, choosy, 4, skipped=skipped, together=2)
    expected = {f"{q} d1" for q, row in first.items() if "d1" in list(row)[:4]}
    expected |= {"q2 d2"} if "d2" in list(first["q2"])[:4] else set()
    assert {one.id for one in skipped} == expected
    assert {one.side for one in skipped} == {"pair"}
    plain = judge_run(few, first, Reranker(tiny("llama")), 4)
    for query, row in margins.items():
        assert row == pytest.approx({d: plain[query][d] for d in row}, abs=1e-5)
        assert len(row) + sum(one.id.startswith(f"{query} ") for one in skipped) == 4
    second = rerank_run(first, margins, 4)
    for query, row in second.items():
        judged = [d for d in list(first[query])[:4] if d in margins[query]]
        others = [d for d in first[query] if d not in judged]
        assert list(row)[len(judged) :] == others, "in stage 1's order"
    with pytest.raises(BadItem, match="too long together"):
        judge_run(few, first, choosy, 4)


def test_a_margin_that_is_not_finite_names_its_pair(tiny: Tiny) -> None:
    few = dataset(queries=3, documents=3)
    run = {"q2": {"d2": 1.0, "d0": 0.5}}
    with pytest.raises(BadItem, match="item 'q2' and item 'd2': their margin is not finite"):
        judge_run(few, run, Choosy(tiny("llama")), 2)


def test_a_run_without_margins_stays_as_it_is() -> None:
    run = {"q": {"a": 0.9, "b": 0.8}}
    assert rerank_run(run, {"q": {}}, 2) == rerank_run(run, {}, 2) == run


def test_bad_items_are_printed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text model evaluates a folder that holds pictures too."""
    mine = tmp_path / "mine"
    (mine / "documents").mkdir(parents=True)
    for number in range(4):
        (mine / "documents" / f"d{number}.txt").write_text(words(number))
    for number in range(6):
        Image.new("RGB", (8, 8)).save(mine / "documents" / f"p{number}.png")
    (mine / "documents" / "empty.txt").write_text(" ")
    rows = [{"id": f"q{i}", "text": words(i), "relevant": [f"d{i}.txt"]} for i in range(4)]
    (mine / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
    how = ["eval", f"folder:{mine}", "--model", place / "model", "--recipe",
           place / "recipe.json", "--out", tmp_path / "out"]  # fmt: skip
    assert run(*how) == 1
    [line] = own_lines(capsys.readouterr().err)
    assert "could not evaluate mine: item 'empty.txt' has no content" in line
    assert run(*how, "--skip-bad") == 0
    said = capsys.readouterr().out
    assert "recipe on mine: skipped 7 documents" in said
    assert "document p0.png: item 'p0.png': this backbone reads text only" in said
    assert "and 2 more" in said
    assert len(Result.load(tmp_path / "out" / "recipe.json").datasets["mine"].skipped) == 7


def test_an_ablation_goes_past_bad_items_and_names_their_dataset(
    tiny: Tiny, tmp_path: Path
) -> None:
    broken = seen(tmp_path, ["q1", "d2"])
    whole = dataset("whole")

    def ablator(skip: bool) -> Ablator:
        return Ablator(tiny("qwen2.5-vl"), RECIPE, [], [3], skip=skip)

    file = tmp_path / "raise" / "ablation.json"
    with pytest.raises(Unfinished, match=r"could not evaluate seen: item 'q1': .*--skip-bad"):
        ablate_all(ablator(skip=False), [lambda: broken, lambda: whole], file)
    assert list(Ablations.load(file).datasets) == ["whole"], "the others are measured"
    found = ablate_all(ablator(skip=True), [lambda: broken], tmp_path / "skip" / "ablation.json")
    ablation = found.datasets["seen"]
    assert [(one.side, one.id) for one in ablation.skipped] == [("query", "q1"), ("document", "d2")]
    recipe = PromptedSystem.of("recipe", tiny("qwen2.5-vl"), RECIPE)
    [result] = evaluate([lambda: broken], recipe, tmp_path / "out", on_error="skip")
    measured = Result.load(result).datasets["seen"].metrics["P@1"].interval[0]
    value = next(r.interval[0] for r in ablation.rows if (r.part, r.name) == ("choice", "recipe"))
    assert value == measured


def _columns(file: Path) -> list[list[str]]:
    """Query, document, rank and score of each line of a TREC file."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [[line[k] for line in lines] for k in (0, 2, 3, 4)]
