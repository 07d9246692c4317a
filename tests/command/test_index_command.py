"""`freeret index`: files become items of a store, once each."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tqdm.auto import tqdm

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.opening import Opening
from freeret.sources.counting import count_items
from freeret.sources.files import Files
from freeret.store.table import Store
from probes import Backbone
from probes.errors import BadSetting
from tests.command.conftest import ROWS
from tests.commands import index, own_lines, run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


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


def test_columns_of_a_table_can_be_named(
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


def test_an_approximate_index_is_built_searched_and_measured(
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


def test_a_better_model_is_named_only_for_a_new_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store refuses another model than the one that made it."""

    def load(opening: Opening) -> None:
        raise BadSetting(f"{opening.model} is asked for")

    monkeypatch.setattr(Opening, "load", load)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Store.create(tmp_path / "old", {"backbone": {"model": "smolsight"}}, 4)
    for store, named in (("new", True), ("old", False)):
        assert run("index", tmp_path / "a.png", "--store", tmp_path / store) == 1
        written = capsys.readouterr().err
        assert "smolsight is asked for" in written
        assert ("--model names a better one" in written) == named


def test_the_bar_counts_what_is_committed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each item, from tables and files, is a commit: the bar knows the total from the start, and
    never counts an item that is not stored yet."""
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
