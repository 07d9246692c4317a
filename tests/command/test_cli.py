"""The command `freeret`: what is typed is done, and what cannot be done is one clear line."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cyclopts import App
from PIL import Image
from rich.console import Console
from tqdm.auto import tqdm

from freeret.cli import app
from freeret.cli.options import Columns
from freeret.cli.output import as_trec, this_command
from freeret.embedder import Embedder
from freeret.hits import Hit
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.counting import count_items
from freeret.sources.files import Files
from freeret.store.table import Store
from probes import Backbone, Item, Loading, ProbeReport
from tests.commands import run
from tests.measure.test_report import make_report
from tests.models import TEXT, tokenizer
from tests.stores import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
ROWS = [{"id": f"r{k}", "text": f"{k} of the word", "year": 1990 + k} for k in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def recipe(model: Path) -> Path:
    return Recipe("e5v", "attn[-1]", "none", "mcq").save(model.parent / "recipe.json")


@pytest.fixture(scope="module")
def store(model: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    retriever = FreeRet(Backbone.load(model), Recipe.load(recipe))
    retriever.index(
        [{"id": r["id"], "text": r["text"], "metadata": {"year": r["year"]}} for r in ROWS], folder
    )
    return folder


def own_lines(captured: str) -> list[str]:
    """Lines without the progress bars of the libraries."""
    return [line for line in captured.splitlines() if line.startswith("freeret:")]


def index(*arguments: Any, store: Path, model: Path, recipe: Path) -> int:
    return run("index", *arguments, "--store", store, "--model", model, "--recipe", recipe)


# -------------------------------------------------------------------------------------- index


def test_index_adds_replaces_and_resumes(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    rows = tmp_path / "in" / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "in" / "note.txt").write_text("a note")
    how: dict[str, Any] = {"store": tmp_path / "s", "model": model, "recipe": recipe}
    assert index(tmp_path / "in", **how) == 0
    assert "13 added, 0 replaced, 0 unchanged, 0 skipped" in capsys.readouterr().out
    (tmp_path / "in" / "note.txt").write_text("another note")
    assert index(rows, tmp_path / "in" / "note.txt", **how) == 0
    assert "0 added, 1 replaced, 12 unchanged, 0 skipped" in capsys.readouterr().out
    kept = {i.id: i for i in Store.open(tmp_path / "s").items(["in/note.txt", "r3"])}
    assert kept["in/note.txt"].text == "another note"
    assert kept["r3"].metadata == {"year": 1993}
    assert index((tmp_path / "in").as_uri(), **how) == 0
    assert "0 added, 0 replaced, 13 unchanged, 0 skipped" in capsys.readouterr().out


def test_other_fields_may_be_named(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.csv").write_text("key,body\nx,one\ny,two\n")
    how: dict[str, Any] = {"store": tmp_path / "s", "model": model, "recipe": recipe}
    assert index(tmp_path / "a.csv", **how) == 1
    [line] = own_lines(capsys.readouterr().err)
    assert "fields: key, body. Use --text-field" in line
    assert index(tmp_path / "a.csv", "--text-field", "body", "--id-field", "key", **how) == 0
    assert Store.open(tmp_path / "s").vectors().ids == ["x", "y"]


def test_bad_rows_stop_or_are_skipped(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ['{"id": "a", "text": "fine"}', '{"id": "b", "text": " "}', '{"id": "c"}',
             '{"id": "d", "text": "fine too"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    how: dict[str, Any] = {"store": tmp_path / "s", "model": model, "recipe": recipe}
    assert index(tmp_path / "a.jsonl", **how) == 1
    assert "'b'" in own_lines(capsys.readouterr().err)[0]
    assert index(tmp_path / "a.jsonl", "--skip-bad", **how) == 0
    assert "2 skipped" in capsys.readouterr().out
    assert Store.open(tmp_path / "s").vectors().ids == ["a", "d"]


def test_shards_fill_one_store(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    how: dict[str, Any] = {"store": tmp_path / "s", "model": model, "recipe": recipe}
    for k in (1, 2):
        assert index(tmp_path / "a.jsonl", "--shards", f"{k}/2", **how) == 0
    assert Store.open(tmp_path / "s").geometry() is None
    assert run("fit", tmp_path / "s") == 0
    assert Store.open(tmp_path / "s").geometry() is not None
    assert Store.open(tmp_path / "s").vectors().ids == sorted(row["id"] for row in ROWS)
    assert index(tmp_path / "a.jsonl", "--shards", "3/2", **how) == 1
    assert "write k/n" in own_lines(capsys.readouterr().err)[0]


def test_an_approximate_index_is_built_asked_and_measured(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": f"r{k}", "text": f"{k} of the word"} for k in range(300)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    store = tmp_path / "s"
    how: dict[str, Any] = {"store": store, "model": model, "recipe": recipe}
    assert index(tmp_path / "a.jsonl", **how) == 0
    assert run("info", store, "--measure-recall") == 1
    assert "no index" in own_lines(capsys.readouterr().err)[0]
    assert index(tmp_path / "a.jsonl", "--ann", "pq", **how) == 0
    assert "recall@10 of the approximate index" in capsys.readouterr().out
    assert run("info", store, "--measure-recall") == 0
    out = capsys.readouterr().out
    assert all(f"recall@{n} of the approximate index" in out for n in (10, 100))
    found = []
    for options in ((), ("--ann",), ("--memory", 0)):
        assert run("search", store, "7 of", "--top-n", 3, "--json", *options) == 0
        found.append([json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()])
    assert found[0] == found[1] == found[2]


# ----------------------------------------------------------------------------- search and info


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


def test_scores_that_float32_tells_apart_stay_apart_in_a_run() -> None:
    close = [
        Hit(id, score, score, None, Item("a")) for id, score in (("a", 0.6), ("b", 0.6 - 6e-8))
    ]
    first, second = (line.split()[4] for line in as_trec({"q": close}, "tag"))
    assert first > second


def test_content_is_not_markup(
    tmp_path: Path, model: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Square brackets are text: they neither colour, nor vanish, nor break the table."""
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


# -------------------------------------------------------------------------------------- check


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


# -------------------------------------------------------------------------------- one clear line


def test_every_mistake_is_one_line_and_an_exit_code(
    store: Path, model: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.json").write_text('{"prompt": "e5')
    Recipe("e5v", "attn[40]").save(tmp_path / "deep.json")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "file").write_text("")
    to_store = ("--store", tmp_path / "s", "--model", model)
    mistakes: list[tuple[tuple, str]] = [
        (("search", tmp_path / "none", "q"), "there is no store at"),
        (("info", tmp_path / "none"), "there is no store at"),
        (("answer", tmp_path / "none", "q"), "there is no store at"),
        (("search", store, " "), "nothing to search with"),
        (("search", store, "q", "--model", "nosuch/model"), "cannot load 'nosuch/model'"),
        (("search", store, "q", "--model", tmp_path), "is not a model folder"),
        (("probe", "nosuch"), "there is no model 'nosuch'"),
        (("probe", model, "--out", tmp_path / "file" / "out"), "Not a directory"),
        (("check", tmp_path / "none"), "there is no folder"),
        (("index", tmp_path / "none", *to_store, "--recipe", recipe), "nothing at"),
        (("index", "file:///none", *to_store, "--recipe", recipe), "nothing at file:///none"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "none"), "cannot read"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "cut.json"), "not JSON"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "deep.json"), "4 layers"),
        (("index", tmp_path / "a.txt", "--store", tmp_path / "file", "--model", model,
          "--recipe", recipe), "file"),
    ]  # fmt: skip
    for arguments, said in mistakes:
        assert run(*arguments) == 1, arguments
        captured = capsys.readouterr()
        [line] = own_lines(captured.err)
        assert said in line, arguments
        assert "Traceback" not in captured.err


def test_another_models_store_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TEXT["qwen2"]().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert run("search", store, "q", "--model", tmp_path) == 1
    line = own_lines(capsys.readouterr().err)[0]
    made_with = Store.open(store).identity["backbone"]["model"]
    assert f"{store} was made with {made_with}, you asked for {tmp_path}." in line


def test_a_wrong_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nonsense") != 0
    assert run("search") != 0
    assert run("index", "x", "--top-n", "3") != 0


def commands() -> dict[str, App]:
    """Every command of the app by its name."""
    return {name: app[name] for name in app if not name.startswith("-")}


def settings() -> dict[str, str]:
    """The sentences under the fields of `Loading` that can be typed."""
    written = re.findall(
        r'^    (\w+): .*\n    """([^"]+)"""', inspect.getsource(Loading), re.MULTILINE
    )
    return {name: said for name, said in written if name not in ("images", "videos")}


@pytest.mark.parametrize("command", list(commands()))
def test_help_says_all_of_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentences that were written for each parameter stand in the text that is shown."""
    for one in (app, commands()[command]):
        monkeypatch.setattr(one, "_fallback_console", Console(width=400))
    assert run("--help") == 0
    listed = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"│ {command} ")
    )
    function = commands()[command].default_command
    written = inspect.getdoc(function) or ""
    assert written.splitlines()[0].replace("`", "") in listed
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: freeret {command}" in out
    shown = " ".join(out.split())
    described = dict(re.findall(r"^    (\w+): (.+(?:\n        .+)*)", written, re.MULTILINE))
    hints = get_type_hints(function, include_extras=True)
    names = dict.fromkeys(inspect.signature(function).parameters)
    if names.pop("columns", None) is not None or "columns" in hints:
        fields = get_type_hints(Columns, include_extras=True)
        hints, names = hints | fields, names | dict.fromkeys(fields)
    if names.pop("loading", "absent") != "absent":
        described |= settings()
        names |= dict.fromkeys(settings())
    for name in names:
        notes = getattr(hints.get(name), "__metadata__", ())
        said = described.get(name) or next((note.help for note in notes if note.help), "")
        sentence = " ".join(said.replace("`", "").split())
        assert len(sentence.split()) >= 4, f"{name} is hardly described"
        assert sentence[0].isupper()
        assert sentence[-1] == ".", name
        assert sentence in shown, name
    assert set(described) <= names.keys()
    loads = {
        "probe", "check", "card", "index", "fit", "search", "answer", "estimate", "serve",
        "eval", "ablate", "scenes", "demo", "lens",
    }  # fmt: skip
    assert ("--token-budget" in out) == (command in loads)
    assert "--images" not in out


# ------------------------------------------------------------------------------- before a model


NEVER = ("torch", "transformers", "lancedb")


def imported(*arguments: Any) -> tuple[int, str, set[str]]:
    """Exit code and standard error of a command in a process of its own, and which of the slow
    packages it imported."""
    code = """if True:
        import sys
        from freeret.cli import app, main
        try:
            main(sys.argv[2:])
        finally:
            print(*(set(sys.argv[1].split()) & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, " ".join(NEVER), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *said, packages = done.stderr.splitlines()
    return done.returncode, "\n".join(said), set(packages.split())


@pytest.mark.parametrize("arguments", ["--version", "--help", "index --help", "eval --help"])
def test_help_is_fast(arguments: str) -> None:
    assert imported(*arguments.split()) == (0, "", set())


def test_what_was_typed_is_checked_before_anything_is_imported(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "file").write_text("")
    (tmp_path / "cut.json").write_text('{"prompt": "e5')
    text, new = tmp_path / "a.txt", ("--store", tmp_path / "s")
    mistakes: list[tuple[tuple, str]] = [
        (("index", tmp_path / "none", *new), "there is nothing at"),
        (("index", text, tmp_path / "none", *new), "there is nothing at"),
        (("index", *new), "name at least one file"),
        (("index", "--store", tmp_path), "`freeret fit STORE`"),
        (("index", text, *new, "--num-actors", 2), "--num-actors goes with --engine ray"),
        (("index", text, *new, "--address", "auto"), "--address goes with --engine ray"),
        (("index", text, *new, "--engine", "ray", "--num-actors", 0), "Must be >= 1"),
        (("index", text, *new, "--engine", "spark"), "spark"),
        (("index", text, *new, "--shards", "3/2"), "write k/n"),
        (("index", text, *new, "--dtype", "int8"), "--dtype. Choose from"),
        (("index", text, *new, "--quantize", "3bit"), "--quantize. Choose from"),
        (("search", tmp_path, "q", "--frames", 0), "frames must be a whole number"),
        (("check", "none", "--device", "cpu", "--device-map", "auto"), "give one"),
        (("check", tmp_path / "none"), "there is no folder"),
        (("check", "smolsight", "--quantize", "4bit"), "needs bitsandbytes"),
        (("probe", tmp_path / "none"), "there is no folder"),
        (("demo", "--model", tmp_path / "none"), "there is no folder"),
        (("probe", "smolsight", "--only", "curve"), "did you mean 'curves'?"),
        (("plot", tmp_path / "none.json"), "cannot read"),
        (("plot", tmp_path), "report.json"),
        (("plot", "smolsight", "--width", "wide"), "--width takes a number of inches"),
        (("plot", "smolsight", "smolsight", "--label", "a"), "give 2 different labels"),
        (("index", text, "--store", tmp_path / "file"), "Not a directory"),
        (("index", text, "--store", tmp_path / "file" / "s"), "Not a directory"),
        (("index", text, "--store", "/proc/s"), "cannot write to /proc/s"),
        (("index", text, *new, "--recipe", tmp_path / "none.json"), "cannot read"),
        (("index", text, *new, "--recipe", tmp_path / "cut.json"), "is not JSON"),
        (("search", tmp_path / "none", "q"), "there is no store at"),
        (("search", tmp_path, "q", "--model", "smollm2-135m"), "there is no store at"),
        (("search", tmp_path / "none", "q", "--top-n", 0), "Must be >= 1"),
        (("answer", tmp_path / "none", "q"), "there is no store at"),
        (("info", tmp_path / "none"), "there is no store at"),
        (("delete", tmp_path / "none", "a"), "there is no store at"),
        (("fit", tmp_path / "none"), "there is no store at"),
        (("export", tmp_path / "none", "--to", "npy", "--out", tmp_path / "x"), "no store at"),
        (("estimate", tmp_path / "none"), "there is nothing at"),
        (("estimate", text, "--rerank", 10), "give both --rerank (candidates per query) and"),
        (("search", tmp_path, "q", "--rerank", "5,10"), "--rerank takes one depth"),
        (("probe", "smollm2-135m", "--out", tmp_path / "file" / "out"), "Not a directory"),
        (("demo", "--out", tmp_path / "file"), "Not a directory"),
        (("eval", "nosuch:suite"), "'nosuch:suite' is not a suite"),
        (("eval", f"beir:{tmp_path}"), "cannot read"),
        (("eval", "scenes:1", "--system", "recipe", "--system", "bert"), "no system 'bert'"),
        (("eval", "scenes:1", "--rerank", "ten"), "--rerank takes depths"),
        (("eval", "scenes:1", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("eval", "scenes:1", "--out", tmp_path / "file"), "Not a directory"),
        (("eval", "scenes:1", "--num-actors", 2), "--num-actors goes with --engine ray"),
        (("ablate", f"sts:{tmp_path / 'none'}"), "cannot read"),
        (("ablate", "scenes:1", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("compare", tmp_path / "none.json", tmp_path / "none.json"), "cannot read"),
        (("scenes", "smolsight", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("scenes", "smolsight", "--seeds", 0), "Must be >= 1"),
    ]
    for arguments, said in mistakes:
        code, message, packages = imported(*arguments)
        assert (code, packages) == (1, set()), (arguments, message)
        assert message.startswith("freeret: "), arguments
        assert said in message, arguments
    assert not (tmp_path / "s").exists()


# ------------------------------------------------------------------------------- recipes, stores


@pytest.fixture
def probed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """An empty cache, and a probe that only counts: its report is a made-up one."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def probe(backbone: Backbone, *, seed: int, progress: bool, keep: Path) -> ProbeReport:
        asked.append(backbone.name)
        assert progress, "minutes of work are shown"
        return make_report(fingerprint=backbone.fingerprint(), seed=seed)

    monkeypatch.setattr("freeret.reports.probe", probe)
    return lambda: asked


def test_what_one_command_probes_no_other_probes_again(
    probed: Callable[[], list[str]], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sts.tsv").write_text("score\tsentence1\tsentence2\n1\ta\tb\n2\tc\td\n")
    assert run("probe", model, "--out", tmp_path / "out") == 0
    assert probed() == [str(model)]
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    for k, folder in enumerate((model, moved)):
        store = tmp_path / f"s{k}"
        assert run("index", tmp_path / "a.txt", "--store", store, "--model", folder) == 0
        assert Store.open(store).recipe()["prompt"] == "prompteol", "that of the report"
    assert (
        run("eval", f"sts:{tmp_path / 'sts.tsv'}", "--model", moved, "--out", tmp_path / "e") == 0
    )
    shutil.rmtree(tmp_path / "out")
    assert run("probe", model, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "report.json").is_file()
    assert run("probe", model, "--out", tmp_path / "part", "--only", "synonyms") == 0
    suffixes = {path.suffix for path in (tmp_path / "part").iterdir()}
    assert suffixes == {".html", ".json", ".png", ".svg"}
    assert len(probed()) == 1, "the report is drawn"
    assert run("probe", model, "--out", tmp_path / "out", "--again") == 0
    assert run("probe", model, "--out", tmp_path / "out", "--seed", 1) == 0
    assert len(probed()) == 3


def test_the_papers_recipe_needs_no_probing(
    probed: Callable[[], list[str]], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    how = ("--store", tmp_path / "s", "--model", model)
    assert run("index", tmp_path / "a.txt", *how, "--recipe", "paper") == 0
    assert Store.open(tmp_path / "s").recipe()["prompt"] == "control"
    # The store keeps its recipe, and its backbone is not probed for it.
    assert run("index", tmp_path / "a.txt", *how) == 0
    assert probed() == []


# ------------------------------------------------------------------------------- Ctrl-C


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_an_interrupted_index_says_how_many_items_are_stored(
    model: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    store = tmp_path / "s"
    assert index(tmp_path / "a.txt", store=store, model=model, recipe=recipe) == 0
    monkeypatch.setattr(Embedder, "encode_rows", stop)
    for target, count in ((store, "1 item is stored"), (tmp_path / "new", "0 items are stored")):
        assert index(tmp_path / "b.txt", store=target, model=model, recipe=recipe) == 130
        err = capsys.readouterr().err
        assert f"freeret: interrupted; {count}; run the same command again to resume\n" in err


def test_an_interrupted_probe_says_that_parts_are_kept(
    probed: Callable[[], list[str]],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("freeret.reports.probe", stop)
    assert run("probe", model, "--out", tmp_path / "out") == 130
    err = capsys.readouterr().err
    assert "interrupted; the parts that were finished are kept; run the same command again" in err


def test_the_program_is_called_as_it_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "a venv" / "bin" / "freeret"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert this_command() == "'a venv/bin/freeret'"
    monkeypatch.chdir("/usr")
    assert this_command() == f"'{script}'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert this_command() == "freeret"
    monkeypatch.setattr(sys, "argv", ["/somewhere/freeret/__main__.py"])
    assert this_command() == f"{sys.executable} -m freeret"


def test_a_store_of_another_model_is_refused_before_probing(
    probed: Callable[[], list[str]],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("a")
    TEXT["qwen2"]().save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    assert run("index", tmp_path / "a.txt", "--store", store, "--model", tmp_path / "other") == 1
    assert f"you asked for {tmp_path / 'other'}" in own_lines(capsys.readouterr().err)[0]
    assert probed() == []


def test_a_first_run_that_fails_leaves_no_store(
    model: Path,
    recipe: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.txt").write_text("b")
    how: dict[str, Any] = {"store": tmp_path / "s", "model": model, "recipe": recipe}
    assert index(tmp_path / "a.png", tmp_path / "b.txt", **how) == 1
    line = own_lines(capsys.readouterr().err)[0]
    assert "reads text only" in line
    assert "smolsight" in line, "it names a model that reads pictures"
    assert not (tmp_path / "s").exists()
    # A store that was there before, and what was committed, stay.
    how["store"] = shutil.copytree(store, tmp_path / "kept")
    assert index(tmp_path / "a.png", **how) == 1
    assert len(Store.open(tmp_path / "kept")) == len(ROWS)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("")
    how["store"] = tmp_path / "here"
    assert index(tmp_path / "a.png", **how) == 1
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["mine.txt"]


def test_the_bar_counts_what_is_committed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Items from tables and files, a commit each: the total is known from the start, and the count
    never runs ahead of the store."""
    monkeypatch.setattr("freeret.store.indexing.COMMIT_BYTES", 1)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(
        "\n".join(json.dumps(row) for row in ROWS[:6]) + "\n\n"
    )
    (tmp_path / "in" / "b.csv").write_text('id,text\nx,"one\ntwo"\ny,three\n')
    pq.write_table(pa.table({"id": ["p"], "text": ["four"]}), tmp_path / "in" / "c.parquet")
    (tmp_path / "in" / "d.txt").write_text("five")
    backbone = Backbone.load(model, token_budget=1)  # a block of rows for every item
    retriever = FreeRet(backbone, Recipe.paper(), progress=True)
    seen: list[tuple[int, int, int]] = []
    update = tqdm.update

    def watched(bar: tqdm, n: float = 1) -> None:
        update(bar, n)
        if bar.desc == "indexing":
            seen.append((bar.n, bar.total, len(Store.open(tmp_path / "s"))))

    monkeypatch.setattr(tqdm, "update", watched)
    retriever.index(Files([tmp_path / "in"]), tmp_path / "s")
    assert seen[0] == (0, 10, 0)
    assert seen[-1] == (10, 10, 10)
    assert {(n, 10, n) for n in range(11)} == set(seen)
    assert count_items(["a", "b"]) == 2
    assert count_items(iter(["a", "b"])) is None
    assert count_items(Files([(tmp_path / "in" / "b.csv").as_uri()]).listing()) is None


# --------------------------------------------------------------------------------- as a process


def spawn(*arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "freeret", *map(str, arguments)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_json_is_all_that_goes_to_stdout(store: Path) -> None:
    """Bars and warnings go to stderr, so that the output can be piped."""
    done = spawn("search", store, "the word", "--top-n", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert [set(json.loads(line)) >= {"id", "score"} for line in done.stdout.splitlines()] == [
        True,
        True,
    ]


def test_a_mistake_is_no_traceback() -> None:
    done = spawn("check", "nosuch/model")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("freeret: cannot load 'nosuch/model'")
    assert len(done.stderr.splitlines()) == 1
