"""The commands on a store: filters, kinds, files of queries, fit, delete, export, estimate."""

import json
from pathlib import Path
from typing import Any

import lancedb.index
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.estimate import estimate
from freeret.sources.files import Files
from freeret.sources.queries import read_queries
from freeret.store.export import write_parquet
from freeret.store.filters import Selection, parse_filter, passes
from freeret.store.table import Store
from probes import Backbone, Item
from probes.errors import BadItem, BadSetting, StoreError
from tests.command.test_cli import imported
from tests.commands import json_rows, own_lines, run
from tests.models import MULTIMODAL
from tests.store.records import PLAIN

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
TEXTS = [
    {"id": f"r{k}", "text": f"{k} of the word", "year": 1990 + k % 4, "new": k % 2 == 0}
    for k in range(12)
]


@pytest.fixture(scope="module")
def store(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the twelve rows of a table. Do not modify it."""
    folder = tmp_path_factory.mktemp("rows")
    table = folder / "rows.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    FreeRet(Backbone.load(model), PLAIN).index(table, folder / "s")
    return folder / "s"


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    """A store of texts, pictures, and captioned pictures. Do not modify it."""
    built, processor = MULTIMODAL["qwen2.5-vl"]()
    backbone = Backbone.load(built, processor=processor)
    noise = np.random.default_rng(0)

    def picture() -> Image.Image:
        return Image.fromarray(noise.integers(256, size=(32, 32, 3), dtype=np.uint8))

    items: list[Any] = [{"id": f"t{k}", "text": f"{k} of the word"} for k in range(8)]
    items += [{"id": f"p{k}", "image": picture()} for k in range(6)]
    items += [{"id": f"c{k}", "image": picture(), "text": f"word {k}"} for k in range(6)]
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(items, tmp_path_factory.mktemp("mixed") / "s")
    return retriever


# --------------------------------------------------------------------------- filters and kinds


@pytest.mark.parametrize(
    ("typed", "metadata", "passing"),
    [
        ("year=1993", {"year": 1993}, True),
        ("year=1993", {"year": "1993"}, True),
        ("year=1993", {"year": 1993.0}, True),
        ("year=1993", {"year": 19930}, False),
        ("year=01993", {"year": 1993}, False),
        ("new=true", {"new": True}, True),
        ("new=true", {"new": "true"}, True),
        ("new=true", {"new": 1}, False),
        ("new=1", {"new": True}, False),
        ("new=null", {"new": None}, True),
        ("new=null", {}, False),
        ("a=b=c", {"a": "b=c"}, True),
        ("a=", {"a": ""}, True),
        ('a="b"', {"a": "b"}, False),
        ("a=[1]", {"a": [1]}, False),
    ],
)
def test_a_typed_condition_is_the_text_or_the_number_that_it_reads_as(
    typed: str, metadata: dict[str, Any], passing: bool
) -> None:
    wanted = parse_filter([typed])
    assert wanted is not None
    assert passes(metadata, wanted) is passing


def test_several_keys_all_hold_and_one_key_has_any_of_its_values(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--filter", "year=1990", "--filter", "year=1991", "--filter", "new=true")
    for memory in (4, 0):  # in memory, and in blocks from the disk
        assert run("search", store, "word", "--json", "--memory", memory, *both) == 0
        expected = {r["id"] for r in TEXTS if r["year"] in (1990, 1991) and r["new"]}
        assert {hit["id"] for hit in json_rows(capsys)} == expected
    assert run("search", store, "word", "--filter", "year") == 1
    assert "--filter takes key=value" in own_lines(capsys.readouterr().err)[0]


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_kinds_choose_items_and_change_no_score(mixed: FreeRet, memory: float) -> None:
    location = mixed.store.location if mixed.store else ""
    searched = FreeRet.load(location, mixed.backbone, memory=memory)
    everything = searched.search("word 3", top_n=20)
    for kinds, letters in (("image", "pc"), ("text", "tc"), (["image", "text"], "tpc")):
        expected = [(hit.id, hit.score) for hit in everything if hit.id[0] in letters]
        hits = searched.search("word 3", top_n=20, kinds=kinds)
        assert [hit.id for hit in hits] == [id for id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected])
    assert searched.search("word 3", kinds="audio") == []
    with pytest.raises(BadSetting, match="no kind 'picture'"):
        searched.search("word 3", kinds="picture")


def test_the_approximate_index_is_asked_for_the_kinds(
    mixed: FreeRet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeret.search.ann.MINIMUM", 1)
    flat = lancedb.index.IvfFlat(distance_type="dot", num_partitions=1)
    monkeypatch.setattr("freeret.search.ann._config", lambda *_: flat)
    mixed.build_ann()
    exact = mixed.search("word 3", top_n=5, kinds="image")
    assert mixed.search("word 3", top_n=5, kinds="image", ann=True) == exact
    streamed = FreeRet.load(mixed.store.location if mixed.store else "", mixed.backbone, memory=0.0)
    assert [h.id for h in streamed.search("word 3", top_n=5, kinds="image")] == [
        h.id for h in exact
    ]


def test_files_of_a_folder_know_where_they_stand(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An item that was stored without its place is not embedded again for it."""
    for name in ("cats/a.txt", "cats/b.txt", "dogs/a.txt"):
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / name).write_text(f"the word of {name}")
    recipe = PLAIN.save(tmp_path / "recipe.json")
    how = ("--store", tmp_path / "s", "--model", model, "--recipe", recipe)
    assert run("index", tmp_path / "zoo", *how) == 0
    capsys.readouterr()
    assert run("search", tmp_path / "s", "word", "--json", "--filter", "folder=cats") == 0
    hits = {hit["id"]: hit["metadata"] for hit in json_rows(capsys)}
    assert hits == {
        f"zoo/cats/{n}.txt": {"file": f"zoo/cats/{n}.txt", "folder": "zoo/cats"} for n in "ab"
    }
    hashes = Store.open(tmp_path / "s").hashes()
    bare = Item("the word of cats/a.txt", id="zoo/cats/a.txt")
    FreeRet(Backbone.load(model), PLAIN).index([bare], tmp_path / "bare")
    assert Store.open(tmp_path / "bare").hashes()["zoo/cats/a.txt"] == hashes["zoo/cats/a.txt"]


def test_one_selection_serves_every_command() -> None:
    chosen = Selection.of({"year": 1990}, "image")
    assert chosen.takes_signature("image+text")
    assert not chosen.takes_signature("text")
    assert chosen.sql() == """(contains(signature, 'image')) AND (contains(metadata, '"year": '))"""
    assert Selection.of().sql() is None


# --------------------------------------------------------------------------- files of queries


def test_queries_of_a_file_are_searched_together(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, lines = tmp_path / "q.csv", tmp_path / "q.txt"
    table.write_text("key,ask\nq 1,7 of\nq2,the word\n")
    lines.write_text("7 of\n\nthe word\n")
    fields = ("--id-field", "key", "--text-field", "ask")
    for file, options, ids in ((table, fields, ["q 1", "q2"]), (lines, (), ["1", "3"])):
        arguments = ("search", store, "--queries", file, "--top-n", 3, *options)
        assert run(*arguments, "--json") == 0
        hits = json_rows(capsys)
        for id, text in zip(ids, ("7 of", "the word"), strict=True):
            alone = FreeRet.load(store).search(text, top_n=3)
            assert [h["id"] for h in hits if h["query"] == id] == [h.id for h in alone]
    assert run("search", store, "--queries", table, *fields, "--top-n", 1, "--trec", "tag") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["q_1", "q2"]
    assert run("search", store, "--queries", table, *fields, "--top-n", 1) == 0
    assert "7 of" in capsys.readouterr().out


def test_wrong_files_of_queries_are_refused_before_a_model_is_loaded(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "twice.jsonl").write_text('{"id": "a", "text": "b"}\n{"id": "a", "text": "c"}\n')
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "q.docx").write_text("x")
    for name, said in (
        ("none.txt", "no file of queries"),
        ("twice.jsonl", "'a' is given to two queries"),
        ("empty.txt", "holds no query"),
        ("q.docx", "holds no queries: give a table"),
    ):
        with pytest.raises((BadSetting, BadItem), match=said):
            read_queries(tmp_path / name)
    code, message, packages = imported("search", store, "--queries", tmp_path / "twice.jsonl")
    assert (code, packages) == (1, set()), message
    code, message, _ = imported("search", store, "a", "--queries", tmp_path / "twice.jsonl")
    assert "not both" in message
    (tmp_path / "p.jsonl").write_text('{"id": "a", "p": "x.png"}\n')
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    [query] = read_queries(tmp_path / "p.jsonl", image_field="p")
    assert (query.signature, query.id) == ("image", "a")


# ------------------------------------------------------------------------------ delete and export


def test_items_are_deleted_by_id_or_by_filter(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": r["id"], "text": r["text"], "metadata": {"year": r["year"]}} for r in TEXTS]
    retriever = FreeRet(Backbone.load(model), PLAIN)
    retriever.index(rows, tmp_path / "s")
    assert run("delete", tmp_path / "s", "r0", "nobody", "it's", "r1") == 1
    captured = capsys.readouterr()
    assert "2 deleted, 10 left" in captured.out
    assert "holds no item 'nobody', \"it's\"" in own_lines(captured.err)[0]
    assert run("delete", tmp_path / "s", "--filter", "year=1992") == 0
    assert "3 deleted, 7 left" in capsys.readouterr().out
    left = set(Store.open(tmp_path / "s").vectors().ids)
    assert left == {r["id"] for r in TEXTS if r["year"] != 1992} - {"r0", "r1"}
    for wrong in ((), ("r2", "--filter", "year=1990")):
        assert run("delete", tmp_path / "s", *wrong) == 1
        assert "by their ids, or by --filter" in own_lines(capsys.readouterr().err)[0]
    assert FreeRet.load(tmp_path / "s").delete(filter={"year": 1993}) == 3
    assert len(Store.open(tmp_path / "s")) == 4


@pytest.mark.parametrize("geometry", ["raw", "fitted"])
def test_an_export_is_read_by_other_programs(
    geometry: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeret.store.table.BLOCK_BYTES", 4 * 64 * 5)  # five rows a block
    opened = Store.open(store)
    loaded, fitted = opened.vectors(), opened.geometry()
    assert fitted is not None
    expected = loaded.vectors
    if geometry == "fitted":
        expected = fitted.map(expected, loaded.signatures, "document")
    vectors = dict(zip(loaded.ids, expected.numpy(), strict=True))
    for to in ("parquet", "npy"):
        how = ("--to", to, "--out", tmp_path / "x", "--geometry", geometry)
        assert run("export", store, *how) == 0
    table = pq.read_table(tmp_path / "x.parquet")
    matrix = np.load(tmp_path / "x.npy", mmap_mode="r")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert (matrix.shape, matrix.dtype) == ((12, opened.dimension), np.float32)
    for place, row in enumerate(table.to_pylist()):
        kept = TEXTS[int(row["id"][1:])]
        assert np.allclose(row["vector"], vectors[row["id"]], atol=1e-7)
        assert np.array_equal(matrix[place], np.float32(row["vector"]))
        assert (row["text"], row["words"], row["signature"]) == (kept["text"], kept["text"], "text")
        assert json.loads(row["metadata"]) == {"year": kept["year"], "new": kept["new"]}
        line = lines[place]
        assert line == {**{k: row[k] for k in line}, "metadata": json.loads(row["metadata"])}
        assert row["source"].endswith(f"rows.jsonl:{int(row['id'][1:]) + 1}")
    origin = json.loads(table.schema.metadata[b"freeret"])
    assert origin["backbone"]["weights"] == opened.identity["backbone"]["weights"]
    assert {p.name for p in tmp_path.iterdir()} == {"x.parquet", "x.npy", "x.jsonl"}


def test_an_export_that_fails_leaves_the_file_that_was_there(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retriever = FreeRet(Backbone.load(model), PLAIN)
    retriever.index(["a", "b"], tmp_path / "s", shards="1/1")
    (tmp_path / "x.parquet").write_text("before")
    how = ("--to", "parquet", "--out", tmp_path / "x.parquet")
    with pytest.raises(StoreError, match="run `freeret fit"):
        write_parquet(Store.open(tmp_path / "s"), tmp_path / "x.parquet", fitted=True)
    assert (tmp_path / "x.parquet").read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"s", "x.parquet"}
    assert run("fit", tmp_path / "s") == 0
    assert "centre) is fitted on 2 items" in capsys.readouterr().out
    assert run("export", tmp_path / "s", *how, "--geometry", "fitted") == 0
    assert len(pq.read_table(tmp_path / "x.parquet")) == 2


def test_items_that_have_gone_from_a_folder_are_counted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for name in "abc":
        (tmp_path / "docs" / f"{name}.txt").write_text(name)
    recipe = PLAIN.save(tmp_path / "recipe.json")
    how = ("--store", tmp_path / "s", "--recipe", recipe)
    assert run("index", tmp_path / "docs", *how, "--model", model) == 0
    assert "no longer in" not in capsys.readouterr().out
    (tmp_path / "docs" / "a.txt").unlink()
    (tmp_path / "docs" / "b.txt").unlink()
    assert run("index", tmp_path / "docs" / "c.txt", *how) == 0, "the model is that of the store"
    assert "no longer in" not in capsys.readouterr().out
    assert run("index", tmp_path / "docs", *how) == 0
    said = capsys.readouterr().out.replace("\n", " ")
    assert f"2 stored items are no longer in {tmp_path / 'docs'}: --prune removes them" in said
    assert run("index", tmp_path / "docs", *how, "--prune") == 0
    assert "2 pruned" in capsys.readouterr().out


def test_a_folder_is_listed_once(model: Path, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    from freeret.sources import folders

    walked, walk = [], folders.walk
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "walk", lambda root: walked.append(root) or walk(root))
        how = ("--store", tmp_path / "s", "--model", model, "--recipe", "paper")
        assert run("index", tmp_path / "docs", *how) == 0
    assert len(walked) == 1


def test_nothing_is_fitted_for_plain_cosines(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    FreeRet(Backbone.load(model), Recipe.paper()).index(["a"], tmp_path / "s", shards="1/1")
    assert run("fit", tmp_path / "s") == 0
    assert "plain cosines; nothing to fit" in capsys.readouterr().out


# ----------------------------------------------------------------------- task, models, estimate


def test_an_answer_takes_a_task_a_filter_and_a_kind(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": r["id"], "text": r["text"], "metadata": {"year": r["year"]}} for r in TEXTS]
    retriever = FreeRet(Backbone.load(model), Recipe.paper())
    retriever.index(rows, tmp_path / "s")
    for task in ("question", "caption"):
        hits = retriever.search("7 of", 2, filter={"year": 1991}, task=task)
        how = ("--top-n", 2, "--task", task, "--filter", "year=1991", "--kind", "text")
        assert run("answer", tmp_path / "s", "7 of", *how) == 0
        out = capsys.readouterr().out
        for number, hit in enumerate(hits, start=1):
            assert f"[{number}] {hit.id}: " in out
    assert run("answer", tmp_path / "s", "7 of", "--filter", "year=2050") == 1
    assert "no item has year=2050" in own_lines(capsys.readouterr().err)[0]


def test_an_estimate_counts_all_and_embeds_a_sample(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"id": str(k), "text": "of the word " * (1 + k % 3)} for k in range(300)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (tmp_path / "b.txt").write_text("a note")
    (tmp_path / "c.docx").write_text("x")
    how = ("--model", model, "--rerank", 5, "--queries", 100, "--price", 2.5)
    assert run("estimate", tmp_path, *how, "--json") == 0
    [made] = json_rows(capsys)
    [part] = made["parts"]
    assert (part["signature"], part["items"]) == ("text", 301)
    assert part["hours"] == pytest.approx(301 / part["items_per_second"] / 3600)
    assert made["hours"] == pytest.approx(part["hours"] + 301 / made["written_per_second"] / 3600)
    assert made["memory"] == 301 * 4 * 64
    assert made["disk"] > made["memory"]
    assert made["rerank_hours"] == pytest.approx(500 / made["pairs_per_second"] / 3600)
    assert made["price"] == pytest.approx(2.5 * (made["hours"] + made["rerank_hours"]))
    assert made["passed_over"] == {".docx": 1}
    assert run("estimate", tmp_path, *how) == 0
    out = capsys.readouterr().out
    assert "301" in out
    assert "reranked pairs" in out


def test_an_estimate_reads_pictures_through_the_processor(
    mixed: FreeRet, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perception = mixed.backbone.encoder.perception
    assert perception is not None
    process, calls = perception.media.process, list[str]()
    monkeypatch.setattr(
        perception.media, "process", lambda kind, *how: calls.append(kind) or process(kind, *how)
    )
    for number in range(5):
        size = 28 * (2 + number)
        Image.new("RGB", (size, size), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "6.png").write_text("no picture")
    listing = Files([tmp_path], on_error="skip").listing()
    with torch.no_grad():
        made = estimate(mixed.backbone, listing)
    [part] = made.parts
    assert (part.signature, part.items, made.unreadable) == ("image", 6, 1)
    assert part.tokens > 4
    assert len(calls) > 5  # those that are timed are processed again, none is in the cache
    with pytest.raises(BadItem, match="smolsight"):
        estimate(Backbone.load(model), listing)
