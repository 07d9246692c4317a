"""Files and columns with mistakes are named, before a model is loaded where that can be."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from freeret.retriever import FreeRet
from freeret.sources.columns import check_columns
from freeret.sources.files import Files
from probes import Backbone
from probes.errors import BadSetting
from tests.commands import own_lines, run
from tests.store.records import PLAIN

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_an_empty_file_is_named_before_a_model_is_loaded(
    tmp_path: Path, recipe: Path, unloaded: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.txt").write_text("good")
    (tmp_path / "in" / "empty.txt").write_text("")
    for command in (("index", tmp_path / "in", "--store", tmp_path / "s", "--recipe", recipe),
                    ("estimate", tmp_path / "in")):  # fmt: skip
        assert run(*command) == 1
        [line] = own_lines(capsys.readouterr().err)
        assert line == "freeret: 'in/empty.txt' is empty; --skip-bad goes on without it"
    assert unloaded() == 0


def test_skipped_items_are_logged_as_a_sentence(
    model: Path, tmp_path: Path, recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.txt").write_text(" ")
    (tmp_path / "b.txt").write_text("b")
    how = ("--store", tmp_path / "s", "--model", model, "--recipe", recipe, "--skip-bad")
    assert run("index", tmp_path / "a.txt", tmp_path / "b.txt", *how) == 0
    [message] = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert message.startswith("skipped: item '")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_column_that_no_table_has_is_named_before_a_model_is_loaded(
    name: str, tmp_path: Path, recipe: Path, unloaded: Callable,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    rows = [{"id": "x", "text": "a", "image": "x.png"}, {"id": "y", "text": "b", "image": ""}]
    path = tmp_path / name
    if name.endswith(".parquet"):
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".csv"):
        path.write_text("id,text,image\nx,a,x.png\ny,b,\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    how = ("--store", tmp_path / "s", "--recipe", recipe, "--skip-bad")
    assert run("index", path, *how, "--image-field", "imge") == 1
    [line] = own_lines(capsys.readouterr().err)
    assert line == "freeret: no table has a column 'imge'; columns: id, text, image"
    assert run("index", path, *how[:-1], "--text-field", "body", "--skip-bad") == 1
    assert run("index", path, *how[:-1], "--metadata-field", "year") == 1
    assert "no table has a column 'year'" in own_lines(capsys.readouterr().err)[-1]
    assert unloaded() == 0
    check_columns(Files([path], image_field="image").listing())


def test_a_jsonl_whose_keys_differ_by_row_is_no_mistake(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b", "image": "x.png"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "empty.csv").write_text("id,text\n")
    check_columns(Files([tmp_path / "a.jsonl"], image_field="image").listing())
    check_columns(Files([tmp_path / "empty.csv"], image_field="image").listing())
    with pytest.raises(BadSetting, match="no table has a column 'imge'; columns: text, image"):
        check_columns(Files([tmp_path / "a.jsonl"], image_field="imge").listing())


def test_an_estimate_reads_tables_as_index_does(
    model: Path, tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": k, "text": "of the word"} for k in range(20)]
    rows[7] = {"id": 7, "caption": "of the word"}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    index = ("index", tmp_path / "a.jsonl", "--store", tmp_path / "s", "--recipe", recipe)
    estimate = ("estimate", tmp_path / "a.jsonl")
    lines = []
    for command in (index, estimate):
        assert run(*command, "--model", model) == 1
        lines += own_lines(capsys.readouterr().err)
    assert lines[0] == lines[1]
    assert "a.jsonl:8: no text in the field 'text'" in lines[0]
    assert "--skip-bad goes on without it" in lines[0]
    assert run(*estimate, "--model", model, "--skip-bad") == 0
    assert "1 left out: " in capsys.readouterr().out
    assert run(*estimate, "--model", model, "--skip-bad", "--json") == 0
    needs = json.loads(capsys.readouterr().out)
    assert (needs["parts"][0]["items"], list(needs["skipped"])) == (19, ["7"])


def test_a_str_that_names_a_folder_is_a_text_with_a_warning(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    retriever = FreeRet(Backbone.load(model), PLAIN)
    with pytest.warns(UserWarning, match=r"'texts' is stored as a text; give pathlib\.Path"):
        assert retriever.index("texts", tmp_path / "s").added == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        retriever.index(["no such place", "word " * 1000, "null \0 byte"])
