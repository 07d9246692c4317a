"""`freeret search`, `answer`, `info` and `check`: their output."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from freeret.cli.output import as_trec
from freeret.hits import Hit
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from tests.command.conftest import ROWS
from tests.commands import index, run, spawn

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_search_prints_a_table(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", store, "the word", "--top-n", 3) == 0
    out = capsys.readouterr().out
    shown = [row["id"] for row in ROWS if f" {row['id']} " in out]
    hits = FreeRet.load(store).search("the word", top_n=3)
    assert sorted(shown) == sorted(hit.id for hit in hits)


@pytest.mark.parametrize("rerank", [0, 2])
def test_search_prints_json(rerank: int, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("search", store, "7 of", "--top-n", 4, "--rerank", rerank, "--json")
    assert run(*arguments) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = FreeRet.load(store).search("7 of", top_n=4, rerank=rerank)
    assert [f["id"] for f in found] == [h.id for h in expected]
    assert [f["score"] for f in found] == pytest.approx([h.score for h in expected])
    assert [f["stage2_score"] is None for f in found] == [False] * rerank + [True] * (4 - rerank)
    assert found[0]["text"] == expected[0].item.text
    assert found[0]["metadata"] == expected[0].item.metadata


def test_hybrid_search_says_which_leg_found_a_hit(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("search", store, "the words 7", "--json", "--hybrid") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = FreeRet.load(store).search("the words 7", top_n=10, lexical="on")
    assert [hit["legs"] for hit in found] == [asdict(hit.legs) for hit in expected if hit.legs]
    assert {hit["id"] for hit in found if hit["legs"]["bm25_rank"] == 1} == {"r7"}
    assert run("search", store, "the words 7", "--hybrid") == 0
    assert "(rank 1)" in capsys.readouterr().out
    assert run("answer", store, "the words 7", "--hybrid", "--top-n", 1) == 0
    assert f"[1] {expected[0].id}" in capsys.readouterr().out
    assert run("search", store, "the words 7", "--json", "--no-hybrid") == 0
    assert all(json.loads(row)["legs"] is None for row in capsys.readouterr().out.splitlines())


def test_search_prints_a_trec_run(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("search", store, "7 of", "--trec", "tag", "--top-n", 50) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[3] for line in lines] == [str(n) for n in range(1, 13)]
    assert {(line[0], line[1], line[5]) for line in lines} == {("q", "Q0", "tag")}
    assert [line[2] for line in lines] == [h.id for h in FreeRet.load(store).search("7 of")]
    scores = [float(line[4]) for line in lines]
    assert scores == sorted(scores, reverse=True)


def test_a_trec_run_keeps_all_digits_of_float32() -> None:
    close = [
        Hit(id, score, score, None, Item("a")) for id, score in (("a", 0.6), ("b", 0.6 - 6e-8))
    ]
    first, second = (line.split()[4] for line in as_trec({"q": close}, "tag"))
    assert first > second


def test_content_is_not_markup(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets in content are printed as they are; rich does not read them as markup."""
    texts = ["open [red] only", "close [/b] only", "[link=x]y[/link]", "\\[a]"]
    folder = tmp_path / "[red]s"
    FreeRet(Backbone.load(model), Recipe.load(recipe)).index(texts, folder)
    assert run("search", folder, "what is [/i]?") == 0
    out = capsys.readouterr().out
    assert "what is [/i]?" in out
    assert all(text in out for text in texts)
    assert run("info", folder) == 0
    assert "[red]s" in capsys.readouterr().out.replace("\n", "")
    (tmp_path / "a.txt").write_text("a")
    assert index(tmp_path / "a.txt", store=folder, model=model, recipe=recipe) == 0
    assert "[red]s: 1 added" in capsys.readouterr().out.replace("\n", "")


def test_info_says_what_made_the_store(
    store: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert run("info", store) == 0
    out = capsys.readouterr().out
    for fact in ("12", "64", str(model), "LlamaForCausalLM", "e5v, attn[-1]", "mcq", "torch"):
        assert fact in out


def test_info_of_an_empty_store(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FreeRet(Backbone.load(model), Recipe.load(recipe)).index([], tmp_path / "s")
    assert run("info", tmp_path / "s") == 0
    assert run("search", tmp_path / "s", "the word", "--json") == 0
    assert "{" not in capsys.readouterr().out


def test_answer_names_its_sources(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("answer", store, "7 of", "--top-n", 2) == 0
    out = capsys.readouterr().out
    for number, hit in enumerate(FreeRet.load(store).search("7 of", top_n=2), start=1):
        assert f"[{number}] {hit.id}: {hit.item.text}" in out


def test_a_moved_model_is_named(
    store: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "moved").symlink_to(model)
    assert run("search", store, "the word", "--json", "--model", tmp_path / "moved") == 0
    assert len(capsys.readouterr().out.splitlines()) == 10


def test_check_shows_a_table(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run("check", model) == 0
    out = capsys.readouterr().out
    assert "attn[l] enters" in out
    assert "model.layers.l.post_attention_layernorm" in out
    assert "tokens/s on cpu, float32" in out
    assert "labels of right_wrong" in out
    assert "FAILED" not in out


def test_json_is_all_that_goes_to_stdout(store: Path) -> None:
    """Bars and warnings go to stderr, so that the output can be piped."""
    done = spawn("search", store, "the word", "--top-n", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert [set(json.loads(line)) >= {"id", "score"} for line in done.stdout.splitlines()] == [
        True,
        True,
    ]
