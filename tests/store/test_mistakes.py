"""Mistakes in using a store: the message says at once what is wrong and what to do."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from freeret.cli.output import as_trec
from freeret.hits import Hit
from freeret.retriever import FreeRet
from freeret.scale.opening import Opening
from freeret.store.filters import Selection, parse_filter, passes, to_sql
from freeret.store.hints import key_counts, why_no_items
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Backbone, Item, Loading
from probes.errors import BadItem, BadSetting, StoreMismatch
from tests.commands import own_lines, run
from tests.store.records import PLAIN

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
ROWS: list[dict[str, Any]] = [
    {"id": f"r{k}", "text": f"{k} of the word", "category": ["food", "animals"][k % 2]}
    for k in range(12)
]


@pytest.fixture(scope="module")
def store(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of twelve texts with a category. Do not modify it."""
    folder = tmp_path_factory.mktemp("rows")
    FreeRet(Backbone.load(model), PLAIN).index(ROWS, folder / "s")
    return folder / "s"


def made_with(alias: str, folder: Path) -> Path:
    """A store of one item that says that an embedded backbone made it."""
    identity = {"backbone": {"model": alias, "weights": "w"}, "recipe": PLAIN.to_json()}
    vector = np.zeros(4, dtype=np.float32)
    text = json.dumps([{"kind": "text", "text": "a"}])
    Store.create(folder, identity, 4).write([Record("a", "h", "text", text, [], "{}", vector)])
    return folder


# ------------------------------------------------------------------------------- another model


def test_the_alias_of_another_model_is_refused_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(Backbone, "load", lambda *given: loaded.append(given))
    location = made_with("smollm2-135m", tmp_path / "s")
    said = "made with smollm2-135m, you asked for gemma3-270m. Use the model"
    with pytest.raises(StoreMismatch, match=said):
        FreeRet.load(location, "gemma3-270m")
    with pytest.raises(StoreMismatch, match=said):
        Opening(str(location), "gemma3-270m", Loading()).load()
    assert loaded == []


# -------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--filter", "categroy=food"), "no item has the key 'categroy'; keys here: category"),
        (("--filter", "category=fod"), "no item has category=fod; values: animals, food"),
        (("--kind", "video"), "no item holds video; items here: 12 text"),
    ],
)
def test_a_selection_that_matches_nothing_says_why(
    options: tuple[str, ...], said: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (("search", store, "word"), ("search", store, "word", "--json")):
        assert run(*command, *options) == 0
        captured = capsys.readouterr()
        assert said in captured.err.splitlines()
        assert captured.out == ("" if "--json" in command else "word: no hits\n")
    assert run("answer", store, "word", *options) == 1
    assert said in own_lines(capsys.readouterr().err)[0]


def test_a_selection_that_matches_needs_no_reason(store: Path) -> None:
    opened = Store.open(store)
    assert why_no_items(opened, Selection.of({"category": "food"})) is None
    assert why_no_items(opened, Selection.of()) is None
    both = Selection.of({"category": "food"}, "image")
    assert why_no_items(opened, both) == "no item holds image; items here: 12 text"
    assert key_counts(opened) == {"category": 12}


def test_a_filter_whose_parts_never_meet_has_its_own_message(model: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "x": 1, "y": 1}, {"text": "b", "x": 2, "y": 2}]
    FreeRet(Backbone.load(model), PLAIN).index(rows, tmp_path / "s")
    reason = why_no_items(Store.open(tmp_path / "s"), Selection.of({"x": 1, "y": 2}))
    assert reason == "each part of the filter has items, but no item has all of them"
    reason = why_no_items(Store.open(tmp_path / "s"), Selection.of({"x": 3}))
    assert reason == "no item has x=3; values: 1, 2"


def test_keys_are_counted_whatever_their_values(model: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "x": "one"}, {"text": "b", "x": 2}, {"text": "c", "y": [3]}]
    FreeRet(Backbone.load(model), PLAIN).index(rows, tmp_path / "s")
    reason = why_no_items(Store.open(tmp_path / "s"), Selection.of({"z": 1}))
    assert reason == "no item has the key 'z'; keys here: x, y"


def test_a_deletion_that_matches_nothing_says_why(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("delete", store, "--filter", "category=fod") == 0
    captured = capsys.readouterr()
    assert "no item has category=fod; values: animals, food" in captured.err
    assert "0 deleted, 12 left" in captured.out


def test_info_lists_the_keys_and_what_reranks(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("info", store) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "│ category │ 12 │" in lines
    assert "│ reranking │ none │" in lines
    assert not any("┃" in line for line in lines), "a table without column names has no head"


@pytest.mark.parametrize(
    ("wanted", "passing"),
    [
        ("animals", True),
        ("pictures", True),
        ("corpus", True),
        ("pictures/animals", True),
        ("corpus/pictures/animals/", True),
        ("anim", False),
        ("corpus/animals", False),
        ("", False),
        ("/", False),
    ],
)
def test_a_folder_is_found_by_any_part_of_its_path(wanted: str, passing: bool) -> None:
    metadata = {"file": "corpus/pictures/animals/a.png", "folder": "corpus/pictures/animals"}
    typed = parse_filter([f"folder={wanted}"])
    assert typed is not None
    assert passes(metadata, typed) is passing
    assert passes({"folder": "x/animals"}, {"folder": "animals"}) is False, "the user's own"
    assert passes({"folder": "x/animals"}, {"folder": "x/animals"}) is True


def test_folders_are_searched_by_name(
    model: Path, tmp_path: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pets/cats/a.txt", "pets/cats/b.txt", "pets/dogs/a.txt"):
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / name).write_text(f"the word of {name}")
    how = ("--store", tmp_path / "s", "--model", model, "--recipe", recipe)
    assert run("index", tmp_path / "zoo", *how) == 0
    for folder, count in (("cats", 2), ("zoo/pets/cats", 2), ("pets", 3), ("zoo/", 3)):
        capsys.readouterr()
        for memory in (4, 0):  # in memory, and by SQL from the disk
            search = ("search", tmp_path / "s", "word", "--json", "--memory", memory)
            assert run(*search, "--filter", f"folder={folder}") == 0
            assert len(capsys.readouterr().out.splitlines()) == count, folder
    assert to_sql({"folder": "it's/"}) == "(contains(metadata, 'it''s'))"


# ------------------------------------------------------------------------------------- queries


def test_queries_are_numbered_alike_everywhere(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "q.txt").write_text("7 of\n\nthe word\n3 of\n")
    how = ("search", store, "--queries", tmp_path / "q.txt", "--top-n", 1)
    assert run(*how, "--json") == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    asked = [(hit["query"], hit["query_text"]) for hit in hits]
    assert asked == [("1", "7 of"), ("3", "the word"), ("4", "3 of")]
    assert run(*how, "--trec", "tag") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "3", "4"]
    assert run(*how, "--html", tmp_path / "page.html") == 0
    assert f"Wrote {tmp_path / 'page.html'}" in capsys.readouterr().out.replace("\n", "")
    page = (tmp_path / "page.html").read_text()
    assert [f"<h2>Query {number}</h2>" in page for number in (1, 2, 3, 4)] == [
        True, False, True, True
    ]  # fmt: skip
    assert run("search", store, "7 of", "--html", tmp_path / "page.html") == 0
    assert "Query" not in (tmp_path / "page.html").read_text().split("<section>")[1].split("<")[1]


def test_errors_name_the_query(store: Path) -> None:
    retriever = FreeRet.load(store)
    with pytest.raises(BadItem, match=r"^the query has no content"):
        retriever.search("")
    with pytest.raises(BadItem, match=r"^query 1 has no content"):
        retriever.search_many(["a", ""])


def test_ids_with_spaces_are_noted_once_and_never_collide(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def hits(*ids: str) -> list[Hit]:
        return [Hit(id, 0.5, 0.5, None, Item("a")) for id in ids]

    run_of_two = {"q 1": hits("a b", "c"), "q2": hits("a b", "d e")}
    lines = as_trec(run_of_two, "tag")
    assert [line.split()[::2] for line in lines] == [
        ["q_1", "a_b", "0.5"], ["q_1", "c", "0.5"], ["q2", "a_b", "0.5"], ["q2", "d_e", "0.5"]
    ]  # fmt: skip
    assert (
        capsys.readouterr().err == "white space in ids is `_` in the TREC run, such as in 'q 1'\n"
    )
    as_trec({"q": hits("a", "b")}, "tag")
    assert capsys.readouterr().err == ""
    with pytest.raises(BadSetting, match="'a b' and 'a_b' are both 'a_b'"):
        as_trec({"q": hits("a b"), "r": hits("a_b")}, "tag")
    with pytest.raises(BadSetting, match="'q 1' and 'q_1' are both 'q_1'"):
        as_trec({"q 1": hits("a"), "q_1": hits("b")}, "tag")


def test_a_search_shows_ten_hits_and_captions_before_paths(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from freeret.cli.output import summary

    assert run("search", store, "word", "--json") == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert len(FreeRet.load(store).search("word")) == 12, "the library shows fifty"
    item = Item("a tiger", images=[tmp_path / "long" / "tiger.png"])
    assert summary(item, 300) == "a tiger [image tiger.png]"


# ---------------------------------------------------------------------------------- fit, export


def test_nothing_to_index_shows_no_bar(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", store) == 0
    assert "indexing" not in capsys.readouterr().err


def test_too_few_items_for_an_index_are_said_before_the_model_is_loaded(
    store: Path, unloaded: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", store, "--ann", "hnsw") == 1
    captured = capsys.readouterr()
    assert "12 items are too few for an index" in own_lines(captured.err)[0]
    assert (captured.out, unloaded()) == ("", 0)


def test_an_export_refits_a_geometry_that_a_deletion_made_stale(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FreeRet(Backbone.load(model), PLAIN).index(ROWS, tmp_path / "s")
    assert run("delete", tmp_path / "s", "r0") == 0
    how = ("--to", "parquet", "--out", tmp_path / "x.parquet", "--geometry", "fitted")
    assert run("export", tmp_path / "s", *how) == 0
    assert "the geometry is fitted on the present items first" in capsys.readouterr().err
    assert len(pq.read_table(tmp_path / "x.parquet")) == 11
    assert run("export", tmp_path / "s", *how, "--filter", "categroy=food") == 0
    assert "no item has the key 'categroy'" in capsys.readouterr().err


def test_a_line_of_the_hub_is_shown_once() -> None:
    code = """if True:
        from freeret.cli.output import messages
        with messages():
            from huggingface_hub.utils import logging
            logging.get_logger("huggingface_hub.utils._http").warning("Retrying in 1s")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["Retrying in 1s"]
