"""An evaluation survives its data: bad items, datasets that fail, runs that are killed."""

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
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Failure, Unfinished
from freeret.evaluate.journal import MarginFile
from freeret.evaluate.rankings import read_trec, write_trec
from freeret.evaluate.results.file import Result
from freeret.evaluate.results.kept import Kept
from freeret.evaluate.run import evaluate
from freeret.evaluate.skipping import Skipped, work_on_good
from freeret.evaluate.stage2 import judge_run, rerank_run
from freeret.evaluate.systems.registry import BM25, PromptedSystem, SentenceTransformers, system
from freeret.preflight import SYSTEMS
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import Backbone, Item
from probes.errors import BadFile, BadItem, BadSetting
from probes.model.backbone import OutOfMemory
from tests.command.test_cli import own_lines
from tests.commands import run
from tests.evaluate.test_eval import RECIPE, dataset, pairs, words
from tests.stores import save_tiny

Tiny = Callable[[str], Backbone]

# ------------------------------------------------------------------------------------- bad items


def seen(tmp_path: Path, bad: Sequence[str] = (), **more: Any) -> Dataset:
    """Coloured pictures that are asked for by others of the same colour; the bad ones are no
    pictures."""
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
    """q1 scores 0 and stays in the denominator; d2 cannot be found, and moves no mean."""
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
def test_every_system_skips_alike(name: str, tiny: Tiny, tmp_path: Path) -> None:
    one = system(name, lambda: tiny("qwen2.5-vl"), lambda: RECIPE)
    [file] = evaluate([lambda: seen(tmp_path, ["q0", "q5", "d0", "d1"])], one, tmp_path / "out",
                      on_error="skip")  # fmt: skip
    entry = Result.load(file).datasets["seen"]
    assert [one.id for one in entry.skipped] == ["q0", "q5", "d0", "d1"]
    assert len((file.with_suffix("") / "seen.trec").read_text().splitlines()) == 4 * 4


def test_without_bad_items_skipping_changes_nothing(tiny: Tiny, tmp_path: Path) -> None:
    """Up to rounding: batches are cut by measured time."""
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


def test_candidates_that_are_bad(tiny: Tiny, tmp_path: Path) -> None:
    """q3's only candidate is bad: it finds nothing, as if it were bad itself."""
    own = {f"q{i}": [f"d{i}", f"d{(i + 1) % 6}"] for i in range(6)} | {"q3": ["d3"]}
    broken = seen(tmp_path, ["d3"], candidates=own)
    [file] = evaluate([lambda: broken], PromptedSystem.of("recipe", tiny("qwen2.5-vl"), RECIPE),
                      tmp_path, on_error="skip")  # fmt: skip
    ranking = read_trec(file.with_suffix("") / "seen.trec", broken)
    assert ranking is not None
    assert {q: set(row) for q, row in ranking.items()} == {
        q: set(row) - {"d3"} for q, row in own.items()
    }


def test_a_side_of_which_nothing_is_left_is_a_failure(tiny: Tiny, tmp_path: Path) -> None:
    every = [f"d{i}" for i in range(6)]
    with pytest.raises(Unfinished, match=r"seen: no document can be encoded: item 'd0': cannot"):
        evaluate([lambda: seen(tmp_path, every)], PromptedSystem.of("e5v", tiny("qwen2.5-vl"),
                 Recipe.e5v()), tmp_path, on_error="skip")  # fmt: skip


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_good_things_are_worked_on_once(named: bool) -> None:
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
    """Overflows on d1, and has no room for d4."""

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


# -------------------------------------------------------------------------------------- stage 2


class Choosy(Reranker):
    """Cannot judge d1, and overflows on d2 when q2 asks."""

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


# --------------------------------------------------------------------------- datasets that fail


def lost() -> Dataset:
    raise BadFile("there is no lost/test.parquet")


def crowded() -> Dataset:
    return dataset("crowded", queries=2, documents=3)


class Crowded(PromptedSystem):
    def encode(self, items: Sequence[Item], side: Any, task: str, **options: Any) -> Tensor:
        if len(items) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20 GiB")
        return super().encode(items, side, task, **options)


def test_the_others_finish_and_those_that_fail_are_named(tiny: Tiny, tmp_path: Path) -> None:
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
    """Each when its turn comes, and gone when the next one is loaded."""
    import weakref

    alive: list[weakref.ref[Dataset]] = []

    def load(name: str) -> Dataset:
        assert not any(ref() for ref in alive), "the one before is still held"
        found = dataset(name)
        alive.append(weakref.ref(found))
        return found

    evaluate([lambda n=n: load(n) for n in ("a", "b", "c")], BM25(), tmp_path)
    assert len(alive) == 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    save_tiny(root / "model")
    RECIPE.save(root / "recipe.json")
    for name in ("one", "torn", "two"):
        (root / name / "qrels").mkdir(parents=True)
        for file, side in (("corpus", "d"), ("queries", "q")):
            rows = [json.dumps({"_id": f"{side}{i}", "text": words(i)}) for i in range(10)]
            (root / name / f"{file}.jsonl").write_text("\n".join(rows))
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(10))
        (root / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (root / "torn" / "corpus.jsonl").write_text('{"_id": "d0", "te')
    return root


def test_eval_as_a_command_names_what_it_could_not_do(
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


def test_what_is_not_there_is_known_before_anything_is_loaded(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for suite in ("beir:/nowhere", "paraphrases:/nowhere", "sts:/nowhere", "folder:/nowhere",
                  "ir:no-such-set", "mbeir:/nowhere"):  # fmt: skip
        assert run("eval", f"beir:{place}/one", suite, "--system", "bm25", "--out", tmp_path) == 1
        assert len(own_lines(capsys.readouterr().err)) == 1
    assert not list(tmp_path.iterdir())


def test_bad_items_are_printed(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text model that meets pictures, in a folder of one's own."""
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


# ------------------------------------------------------------------------------------- ablations


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


# ------------------------------------------------------------------------- killed while reranking


class Killed(KeyboardInterrupt):
    pass


class Counting(Reranker):
    """Judges until its patience ends."""

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
    """Counts how often it encodes."""

    calls: list[str] = []  # noqa: RUF012

    def encode(self, items: Sequence[Item], side: Any, task: str, **options: Any) -> Tensor:
        self.calls.append(side)
        return super().encode(items, side, task, **options)


def test_a_killed_reranking_goes_on_where_it_stopped(
    counting: Counting, tiny: Tiny, tmp_path: Path
) -> None:
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


def test_a_deeper_depth_uses_what_is_left_of_a_killed_one(
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


def test_margins_of_something_else_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "x.margins"
    MarginFile(file, "this").add_margins("q", {"d": 1.5})
    assert MarginFile(file, "this").margins == {"q": {"d": 1.5}}
    assert MarginFile(file, "that").margins == {}
    assert MarginFile(file, "this").margins == {}, "they were dropped"
    file.write_text("nonsense")
    assert MarginFile(file, "this").margins == {}


def test_a_ranking_that_is_not_the_kept_one_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
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


def test_ids_with_blanks_are_read_back_where_they_can_be_told_apart(tmp_path: Path) -> None:
    odd = Dataset("odd", [Item("a", id="q one")], [Item("b", id="d one"), Item("c", id="d two")],
                  {"q one": {"d one": 1}})  # fmt: skip
    run = {"q one": {"d two": 0.1 + 0.2, "d one": -1e-7}}
    assert read_trec(write_trec(tmp_path / "x", run, "tag"), odd) == run
    same = Dataset("odd", odd.queries, [Item("b", id="d one"), Item("c", id="d_one")],
                   odd.judgements)  # fmt: skip
    assert read_trec(tmp_path / "x", same) is None


# ----------------------------------------------------------- queries that stand in the corpus


def in_corpus() -> Dataset:
    """Each query is the first of two documents of its words, under its id, with a title before."""
    same = [Item(f"A title {words(i)}", id=f"{i}") for i in range(4)]
    others = [Item(words(i), id=f"other{i}") for i in range(4)]
    queries = [Item(words(i), id=f"{i}") for i in range(4)]
    judged = {f"{i}": {f"other{i}": 1, f"{i}": 1} for i in range(4)}
    return Dataset("arguments", queries, [*same, *others], judged)


def test_no_query_finds_itself(tiny: Tiny, tmp_path: Path) -> None:
    data = in_corpus()
    assert data.in_corpus == {"0", "1", "2", "3"}
    for one in (BM25(), PromptedSystem.of("recipe", tiny("llama"), RECIPE)):
        ranking = one.run(data)
        assert all(q not in row and len(row) == 7 for q, row in ranking.items())
        assert {q: next(iter(row)) for q, row in ranking.items()} == {
            f"{i}": f"other{i}" for i in range(4)
        }


@pytest.mark.parametrize("text", ["something else", f"{words(0)} and more", f"x{words(0)}"])
def test_a_number_in_common_is_not_the_same_text(text: str) -> None:
    """Queries and documents may both be numbered from 0."""
    data = Dataset("numbered", [Item(words(0), id="0")], [Item(text, id="0")], {"0": {"0": 1}})
    assert not data.in_corpus
    assert list(BM25().run(data)["0"]) == ["0"]
    seen = Item("same", images=[Image.new("RGB", (4, 4))], id="0")
    other = Item("same", images=[Image.new("RGB", (4, 4), "red")], id="0")
    assert not Dataset("x", [seen], [other], {"0": {"0": 1}}).in_corpus
    assert Dataset("x", [seen], [seen], {"0": {"0": 1}}).in_corpus


def test_candidates_and_digests_know_of_it() -> None:
    data = in_corpus()
    own = {q.id or "": [q.id or "", f"other{q.id}"] for q in data.queries}
    few = Dataset("few", data.queries, data.documents, data.judgements, own)
    assert [list(row) for row in BM25().run(few).values()] == [[f"other{i}"] for i in range(4)]
    plain = Dataset("plain", data.queries, data.documents[4:], data.judgements)
    assert not plain.in_corpus


def beir(root: Path) -> Path:
    """As ArguAna is published: the query is in the corpus under its own id."""
    (root / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"a{i}", "title": "energy house", "text": words(i)} for i in range(5)]
    corpus += [{"_id": f"b{i}", "title": "", "text": f"{words(i)} one"} for i in range(5)]
    queries = [{"_id": f"a{i}", "text": words(i)} for i in range(5)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"a{i}\tb{i}\t1\n" for i in range(5))
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return root


def test_the_published_layout_in_which_queries_are_documents(place: Path, tmp_path: Path) -> None:
    folder = beir(tmp_path / "arguana")
    assert run(
        "eval", f"beir:{folder}", "--system", "bm25", "--system", "recipe", "--model",
        place / "model", "--recipe", place / "recipe.json", "--out", tmp_path / "out",
    ) == 0  # fmt: skip
    for name in ("bm25", "recipe"):
        entry = Result.load(tmp_path / "out" / f"{name}.json").datasets["arguana"]
        assert entry.metrics["P@1"].per_query == {f"a{i}": 1.0 for i in range(5)}


@pytest.mark.filterwarnings("ignore")
def test_other_libraries_and_the_ablation_go_by_the_same_rule(tiny: Tiny, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Normalize

    vocabulary = sorted({word for i in range(4) for word in words(i).split()})
    SentenceTransformer(modules=[BoW(vocab=vocabulary), Normalize()]).save(str(tmp_path / "words"))
    data = in_corpus()
    ranking = SentenceTransformers(str(tmp_path / "words")).run(data)
    assert all(q not in row for q, row in ranking.items())
    found = Ablator(tiny("llama"), RECIPE, []).measure(data, Scratch(tmp_path, "this"))
    assert {p.value for p in found.grid if p.geometry == "none"} == {1.0}


def _columns(file: Path) -> list[list[str]]:
    """Query, document, rank and score of each line of a TREC file."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return [[line[k] for line in lines] for k in (0, 2, 3, 4)]
