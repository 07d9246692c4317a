"""Index and search: exact, incremental, honest about what it cannot do."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import expit

from freeret.embedder import Embedder
from freeret.hits import Hit, fused
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from freeret.search.ann import measure_recall
from freeret.store import indexing
from freeret.store.indexing import BLOCK, Indexed
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Backbone, ControlPrompt, Item
from probes.errors import BadItem, BadSetting, StoreError, StoreMismatch
from probes.geometry import CorpusGeometry, unit
from probes.measure.fusion import fuse, lead
from probes.measure.reference import (
    captions,
    everyday,
    no_reference,
    reference_items,
    sentences,
)
from tests.models import TEXT, tokenizer
from tests.stores import save_tiny

Tiny = Callable[[str], Backbone]
SEARCHES = 1000
PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")


def texts(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"i{k:03}", "text": f"{k} of {'the word ' * (k % 5)}", "metadata": {"third": k % 3}}
        for k in range(count)
    ]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load(TEXT["llama"](), tokenizer=tokenizer())


@pytest.fixture(scope="module")
def filled(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    """120 items. Leave it as it is."""
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(120), tmp_path_factory.mktemp("filled"))
    return retriever


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """The tokens of every forward."""
    tokens: list[int] = []
    handle = backbone.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: tokens.append(args[0].numel())
    )
    try:
        yield tokens
    finally:
        handle.remove()


def ids(hits: list) -> list[str]:
    return [hit.id for hit in hits]


# ------------------------------------------------------------------------------------- search


@pytest.mark.parametrize("geometry", ["none", "centre", "whiten"])
@pytest.mark.parametrize("query", ["the word", "17 of"])
def test_search_is_exact(geometry: Any, query: str, backbone: Backbone, tmp_path: Path) -> None:
    """Against scores of every item, computed apart in float64."""
    retriever, items = FreeRet(backbone, Recipe("e5v", "attn[-1]", geometry, "mcq")), texts(130)
    retriever.index(items[::-1], tmp_path / "s")
    embedder = Embedder(backbone, "attn[-1]", "e5v")
    rows = torch.cat([embedder.encode([item["text"]]) for item in items])
    names = [item["id"] for item in items]
    fitted = CorpusGeometry.of(geometry, names, ["text"] * len(rows), rows, no_reference)
    mapped = fitted.map(rows, ["text"] * len(rows), "document").double()
    asked = fitted.map(embedder.encode_query(query), ["text"], "query").double()
    scores = (mapped @ asked[0]).tolist()
    order = sorted(range(len(items)), key=lambda i: (-scores[i], items[i]["id"]))
    for top_n in (1, 7, 130, 500):
        hits = retriever.search(query, top_n=top_n)
        assert ids(hits) == [items[i]["id"] for i in order][:top_n]
        wanted = [scores[i] for i in order][:top_n]
        np.testing.assert_allclose([h.score for h in hits], wanted, atol=2e-5)
    by_id = {item["id"]: item["text"] for item in items}
    assert all(hit.item.text == by_id[hit.id] for hit in hits)
    assert all(h.stage2_score is None and h.stage1_score == h.score for h in hits)


@pytest.mark.parametrize("others", [0, 1, 30, 101])
def test_ties_break_by_id(others: int, backbone: Backbone, tmp_path: Path) -> None:
    """Equal vectors are equal scores, wherever in memory their rows lie."""
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(others), tmp_path / "s")
    retriever.index([{"id": "z", "text": "the same"}])
    store = Store.open(tmp_path / "s")
    vector = store.vectors().vectors[-1].numpy()
    names = [f"{front}{k:02}" for k in range(12) for front in "ahipz"]
    store.write([
        Record(n, "", "text", '[{"kind": "text", "text": "the same"}]', [], "{}", vector)
        for n in names
    ])  # fmt: skip
    hits = FreeRet.load(tmp_path / "s", backbone).search("the word", top_n=500)
    same = [hit for hit in hits if hit.item.text == "the same"]
    assert len({hit.score for hit in same}) == 1
    assert ids(same) == sorted([*names, "z"])
    cut = FreeRet.load(tmp_path / "s", backbone).search("the same", top_n=20)
    assert ids(cut) == sorted([*names, "z"])[:20]


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"third": 1}, lambda k: k % 3 == 1),
        ({"third": [0, 2]}, lambda k: k % 3 != 1),
        ({"third": 7}, lambda k: False),
        ({"fourth": None}, lambda k: False),
        ({}, lambda k: True),
        (lambda metadata: metadata["third"] > 0, lambda k: k % 3 > 0),
    ],
)
def test_a_filter_comes_before_the_top(
    wanted: Any, kept: Callable[[int], bool], filled: FreeRet
) -> None:
    every = ids(filled.search("the word", top_n=500))
    expected = [id for id in every if kept(int(id[1:]))]
    assert ids(filled.search("the word", top_n=500, filter=wanted)) == expected
    assert ids(filled.search("the word", top_n=4, filter=wanted)) == expected[:4]


def test_one_id_may_be_deleted_by_itself(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3), tmp_path / "s")
    assert retriever.delete("i001") == 1
    assert sorted(ids(retriever.search("the word"))) == ["i000", "i002"]


def test_an_unchanged_corpus_writes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    """So that a read-only store can be asked again; another recipe is written, though."""
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3), tmp_path / "s")
    before = sorted((tmp_path / "s").rglob("*"))
    retriever.index(texts(3))
    assert sorted((tmp_path / "s").rglob("*")) == before
    FreeRet(backbone, Recipe("e5v", "attn[-1]", "none", "yes_no")).index([], tmp_path / "s")
    assert FreeRet.load(tmp_path / "s", backbone).recipe.frame == "yes_no"


def test_examples_tell_how_queries_lie(backbone: Backbone, tmp_path: Path) -> None:
    """Their mean goes before that of the corpus, whatever its size."""
    recipe, asked = Recipe("e5v", "attn[-1]", "centre", None), ["the word", "17 of", "of the word"]
    plain = FreeRet(backbone, recipe)
    plain.index(texts(120), tmp_path / "s")
    retriever = FreeRet.load(tmp_path / "s", backbone, examples=asked)
    scores = {hit.id: hit.score for hit in retriever.search("17 of", top_n=120)}
    raw = retriever.embedder.encode_query(asked)
    geometry = retriever.corpus.store.geometry()
    assert geometry is not None
    centred = unit(unit(raw) - unit(raw).mean(0))[1]
    loaded = retriever.corpus.store.vectors()
    pool = geometry.map(loaded.vectors, loaded.signatures, "document")
    expected = dict(zip(loaded.ids, (pool @ centred).tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(BadSetting, match="one example of text"):
        FreeRet(backbone, recipe, examples=["alone"])
    raw_store = FreeRet(backbone, PLAIN)
    raw_store.index(texts(10), tmp_path / "plain")
    given = FreeRet.load(tmp_path / "plain", backbone, examples=asked)
    assert given.search("17 of") == raw_store.search("17 of"), "no geometry, nothing is centred"


@pytest.mark.parametrize("top_n", [0, -1, 2.5, "5", True])
def test_at_least_one_is_asked_for(filled: FreeRet, top_n: Any, unchecked: None) -> None:
    for ask in (filled.search, filled.answer):
        with pytest.raises(BadSetting, match="top_n must be a whole number from 1 on"):
            ask("the word", top_n=top_n)


def test_an_empty_store_finds_nothing(backbone: Backbone, tmp_path: Path) -> None:
    for geometry in ("none", "centre", "whiten"):
        retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", geometry, "mcq"))
        assert retriever.index([], tmp_path / geometry) == Indexed()
        assert retriever.search("the word") == []
        retriever.index(["a"])
        retriever.delete(ids(retriever.search("a")))
        assert retriever.search("the word", rerank=5) == []
        with pytest.raises(StoreError, match="empty"):
            retriever.answer("the word")


def test_nothing_is_searched_before_a_store_is_open(backbone: Backbone) -> None:
    with pytest.raises(StoreError, match="call index"):
        FreeRet(backbone, PLAIN).search("the word")


def test_threads_search_alike(filled: FreeRet) -> None:
    queries = ["the word", "17 of", "Yes", "No"]
    expected = [[(h.id, h.score) for h in filled.search(q, top_n=10)] for q in queries]
    found: dict[int, Any] = {}

    def work(i: int) -> None:
        found[i] = [[(h.id, h.score) for h in filled.search(q, top_n=10)] for q in queries]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(i) for i in range(4)] == [expected] * 4


def test_a_thousand_searches_leave_memory_flat(filled: FreeRet) -> None:
    def resident() -> float:
        gc.collect()
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * 4096 / 2**20

    for _ in range(50):
        filled.search("the word", top_n=5)
    before = resident()
    for k in range(SEARCHES):
        filled.search(f"{k} of the word", top_n=5)
    assert resident() - before < 8, "MiB; 8 KiB a search would already show"


@pytest.mark.parametrize("geometry", ["none", "centre", "whiten"])
def test_what_does_not_fit_in_memory_is_searched_alike(
    geometry: Any, backbone: Backbone, tmp_path: Path
) -> None:
    whole = FreeRet(backbone, Recipe("e5v", "attn[-1]", geometry, "mcq"))
    whole.index(texts(300), tmp_path / "s")
    streamed = FreeRet.load(tmp_path / "s", backbone, memory=5e-5)
    loaded: list[int] = []
    streamed.corpus.store.vectors = lambda: loaded.append(1)  # type: ignore[method-assign]
    filters: list[Any] = [None, {"third": [0, 2]}, lambda facts: facts["third"] == 1]
    for wanted in filters:
        found, expected = (
            r.search_many(["the word", "17 of"], top_n=40, filter=wanted) for r in (streamed, whole)
        )
        for ours, theirs in zip(found, expected, strict=True):
            assert ids(ours) == ids(theirs)
            np.testing.assert_allclose(
                [h.score for h in ours], [h.score for h in theirs], atol=1e-6
            )
    assert loaded == [], "never all at once"
    whole.build_ann()
    assert ids(streamed.search("17 of", top_n=40)) == ids(whole.search("17 of", top_n=40))


def test_another_store_is_searched_as_soon_as_it_is_open(
    backbone: Backbone, tmp_path: Path
) -> None:
    """Though it has the version of the one before, whose vectors are in memory."""
    retriever = FreeRet(backbone, PLAIN)
    for name in "st":
        retriever.index(
            [{"id": f"{name}{k}", "text": f"{k} {name}"} for k in range(5)], tmp_path / name
        )
        assert {id[0] for id in ids(retriever.search("the word"))} == {name}


@pytest.mark.parametrize("enough", [True, False])
def test_what_just_fits_in_memory_is_held(enough: bool, backbone: Backbone, tmp_path: Path) -> None:
    """64 dimensions in float32, three times at once while they are loaded."""
    FreeRet(backbone, Recipe("e5v", "attn[-1]", "centre", "mcq")).index(texts(20), tmp_path / "s")
    needed = 3 * 4 * 64 * 20 - (0 if enough else 1)
    retriever = FreeRet.load(tmp_path / "s", backbone, memory=needed / 2**30)
    retriever.search("the word")
    assert (retriever.corpus._mapped is not None) == enough


def test_many_queries_are_answered_as_each_alone(filled: FreeRet) -> None:
    queries = ["the word", "17 of", "Yes"]
    together = filled.search_many(queries, top_n=9)
    for query, hits in zip(queries, together, strict=True):
        alone = filled.search(query, top_n=9)
        assert ids(hits) == ids(alone)
        np.testing.assert_allclose([h.score for h in hits], [h.score for h in alone], atol=1e-5)
    assert filled.search_many([]) == []


# -------------------------------------------------------------------------------------- index


def test_what_is_stored_is_not_embedded_again(backbone: Backbone, tmp_path: Path) -> None:
    retriever, items = FreeRet(backbone, PLAIN), texts(30)
    assert retriever.index(items[:20], tmp_path / "s") == Indexed(added=20)
    with counted(backbone) as tokens:
        assert retriever.index(items[:20]) == Indexed(unchanged=20)
        assert FreeRet.load(tmp_path / "s", backbone).index(items[:20]) == Indexed(unchanged=20)
    assert tokens == []
    with counted(backbone) as tokens:
        assert retriever.index(items) == Indexed(added=10, unchanged=20)
    with counted(backbone) as fresh:
        FreeRet(backbone, PLAIN).index(items[20:], tmp_path / "other")
    assert tokens == fresh


def test_a_changed_item_is_replaced(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(20), tmp_path / "s")
    before = {h.id: h.score for h in retriever.search("Yes", top_n=50)}
    changed = [{"id": "i003", "text": "Yes"}, {"id": "i004", "text": texts(5)[4]["text"]}]
    assert retriever.index(changed) == Indexed(replaced=2)
    hits = {h.id: h for h in retriever.search("Yes", top_n=50)}
    assert len(hits) == 20
    assert hits["i003"].item.text == "Yes"
    assert hits["i003"].score != before["i003"]
    assert hits["i004"].score == pytest.approx(before["i004"], abs=1e-5)
    assert dict(hits["i004"].item.metadata) == {}, "metadata is part of an item"
    assert all(hits[i].score == pytest.approx(before[i], abs=1e-5) for i in hits if i > "i004")


def test_delete_takes_items_away(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(20), tmp_path / "s")
    first, *rest = ids(retriever.search("the word", top_n=50))
    assert retriever.delete([first, "never there"]) == 1
    assert ids(retriever.search("the word", top_n=50)) == rest
    assert ids(FreeRet.load(tmp_path / "s", backbone).search("the word", top_n=50)) == rest
    assert retriever.index(texts(20)) == Indexed(added=1, unchanged=19)


@pytest.mark.parametrize("apart", [1, BLOCK])
def test_an_id_names_one_item_of_a_stream(apart: int, backbone: Backbone, tmp_path: Path) -> None:
    """The first stays; the second, near or in a later commit, is named with both places."""
    between = [{"id": f"between {k}", "text": "b"} for k in range(apart)]
    stream = [{"id": "a", "text": "one"}, *between, {"id": "a", "text": "two"}]
    retriever = FreeRet(backbone, PLAIN)
    said = f"item {apart + 1} of the stream: the id 'a' was given .* at item 0 of the stream"
    with pytest.raises(BadItem, match=said):
        retriever.index(stream, tmp_path / "s")
    for _ in range(2):
        done = retriever.index(stream, on_error="skip")
        assert (done.replaced, list(done.skipped)) == (0, [f"item {apart + 1} of the stream"])
    assert Store.open(tmp_path / "s").items(["a"])[0].text == "one"
    assert retriever.index([*stream[:-1], stream[0]]) == Indexed(unchanged=apart + 2)
    assert retriever.index([{"id": "a", "text": "two"}]) == Indexed(replaced=1), "another call"


@pytest.mark.parametrize("ids", [(1, "1"), (1.0, "1"), (b"1", 1), (np.int64(1), "1")])
def test_an_id_is_the_same_however_it_is_written(
    ids: tuple, backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, PLAIN)
    first, second = ({"id": id, "text": "the word"} for id in ids)
    assert retriever.index([first, second], tmp_path / "s") == Indexed(added=1, unchanged=1)
    with pytest.raises(BadItem, match="the id '1' was given to another item"):
        retriever.index([first, {**second, "text": "another"}])


def test_items_without_id_are_called_by_their_content(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, PLAIN)
    assert retriever.index(["a", "b", "a"], tmp_path / "s").added == 2
    assert retriever.index(["b", "c"]) == Indexed(added=1, unchanged=1)
    assert sorted(h.item.text for h in retriever.search("x")) == ["a", "b", "c"]


def test_a_bad_item_is_skipped_by_name_or_stops(backbone: Backbone, tmp_path: Path) -> None:
    stream = [*texts(5), {"id": "bad", "text": " "}, " ", *texts(8)[5:]]
    retriever = FreeRet(backbone, PLAIN)
    with pytest.raises(BadItem, match="'bad'"):
        retriever.index(stream, tmp_path / "s")
    done = retriever.index(stream, on_error="skip")
    assert (done.added + done.unchanged, list(done.skipped)) == (8, ["bad", "item 6 of the stream"])
    assert len(retriever.search("x")) == 8
    with pytest.raises(ValueError, match="one of raise, skip"):
        retriever.index([], on_error="ignore")
    with pytest.raises(BadItem, match="item 1"):
        retriever.index(["fine", " "])


def test_a_stream_is_taken_in_block_by_block(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was embedded before an error stays; the stream is never held whole."""

    def stream() -> Iterator[str]:
        yield from (f"{k}" for k in range(5 * BLOCK))
        raise OSError("the disk with the texts is gone")

    monkeypatch.setattr(backbone, "loading", replace(backbone.loading, token_budget=64))
    retriever = FreeRet(backbone, PLAIN)
    with pytest.raises(OSError, match="the texts"):
        retriever.index(stream(), tmp_path / "s")
    kept = len(Store.open(tmp_path / "s"))
    assert BLOCK < kept < 5 * BLOCK
    again = retriever.index([f"{k}" for k in range(5 * BLOCK)])
    assert again == Indexed(added=5 * BLOCK - kept, unchanged=kept)


@pytest.mark.parametrize(("bound", "value"), [("COMMIT_BYTES", 1), ("COMMIT_SECONDS", 0)])
def test_a_commit_is_due_by_bytes_or_by_seconds(
    bound: str, value: int, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[int] = []
    plain = Store.write
    monkeypatch.setattr(
        Store, "write", lambda self, rows, *a: commits.append(len(rows)) or plain(self, rows, *a)
    )
    monkeypatch.setattr(backbone, "loading", replace(backbone.loading, token_budget=1))
    FreeRet(backbone, PLAIN).index(texts(12), tmp_path / "one")
    assert [n for n in commits if n] == [12], "a small corpus is one commit"
    commits.clear()
    monkeypatch.setattr(indexing, bound, value)
    FreeRet(backbone, PLAIN).index(texts(12), tmp_path / "many")
    assert len([n for n in commits if n]) > 3
    assert sum(commits) == len(Store.open(tmp_path / "many")) == 12


# ----------------------------------------------------------------------------- load and save


def test_a_loaded_store_searches_alike(filled: FreeRet, backbone: Backbone) -> None:
    loaded = FreeRet.load(filled.corpus.store.location, backbone)
    assert loaded.recipe == PLAIN
    for query in ("the word", "17 of"):
        found, expected = (r.search(query, top_n=10) for r in (loaded, filled))
        assert [(h.id, h.score) for h in found] == [(h.id, h.score) for h in expected]


def test_another_model_is_refused(filled: FreeRet, tiny: Tiny) -> None:
    for name in ("qwen2", "gpt2"):
        with pytest.raises(StoreMismatch, match=r"was made with Llama.*, you asked for "):
            FreeRet.load(filled.corpus.store.location, tiny(name))


def test_a_moved_model_is_the_same_model(tmp_path: Path) -> None:
    TEXT["llama"]().save_pretrained(tmp_path / "here")
    tokenizer().save_pretrained(tmp_path / "here")
    retriever = FreeRet(Backbone.load(tmp_path / "here"), PLAIN)
    retriever.index(texts(5), tmp_path / "s")
    found = ids(FreeRet.load(tmp_path / "s").search("the word"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = FreeRet.load(tmp_path / "s", Backbone.load(tmp_path / "there"))
    assert ids(moved.search("the word")) == found


def test_save_copies_to_a_lasting_place(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", "centre", "mcq"))
    retriever.index(texts(10))
    temporary = Path(retriever.corpus.store.location)
    found = [(h.id, h.score) for h in retriever.search("the word")]
    retriever.save(tmp_path / "lasting")
    shutil.rmtree(temporary)
    for kept in (retriever, FreeRet.load(tmp_path / "lasting", backbone)):
        for hit, (id, score) in zip(kept.search("the word"), found, strict=True):
            assert (hit.id, hit.score) == (id, pytest.approx(score, abs=1e-6))


def test_a_temporary_store_is_removed_with_its_retriever(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3))
    [folder] = (tmp_path / "temporary").iterdir()
    assert str(folder) == retriever.corpus.store.location
    retriever.save(tmp_path / "lasting")
    del retriever
    gc.collect()
    assert not folder.exists()
    assert len(Store.open(tmp_path / "lasting")) == 3


def test_a_temporary_store_is_removed_when_the_interpreter_exits(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    (tmp_path / "temporary").mkdir()
    program = (
        "import sys; from freeret import FreeRet, Recipe\n"
        "retriever = FreeRet(sys.argv[1], Recipe('e5v', frame=None))\n"
        "print(retriever.index(['a text']).added, retriever.store.location)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, model], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"1 {tmp_path / 'temporary' / 'freeret-'}")
    assert not list((tmp_path / "temporary").glob("freeret-*"))


def test_geometry_changes_without_encoding_again(backbone: Backbone, tmp_path: Path) -> None:
    first = FreeRet(backbone, PLAIN)
    first.index(texts(120), tmp_path / "s")
    other = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    with counted(backbone) as tokens:
        other.index([], tmp_path / "s")
    assert tokens == []
    fresh = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    fresh.index(texts(120), tmp_path / "fresh")
    np.testing.assert_allclose(
        [h.score for h in other.search("the word", top_n=9)],
        [h.score for h in fresh.search("the word", top_n=9)],
        atol=1e-5,
    )
    kept = FreeRet.load(tmp_path / "s", backbone).corpus.store.geometry()
    assert kept is not None
    assert kept.kind == "whiten"


def test_a_small_corpus_leans_on_the_reference(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    retriever.index(texts(10), tmp_path / "s")
    encode = retriever.embedder.encode
    rows = encode([item["text"] for item in texts(10)])
    reference = {"document": encode(sentences()), "query": encode([*sentences(), *captions()])}
    ids = [item["id"] for item in texts(10)]
    fitted = CorpusGeometry.of(
        "whiten", ids, ["text"] * 10, rows, lambda side, signature: reference[side]
    )
    kept = retriever.corpus.store.geometry()
    assert kept is not None
    for side in ("document", "query"):
        ours, theirs = (g.means[side, "text"] for g in (kept, fitted))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    query = fitted.map(encode(["the word"], "query"), ["text"], "query")
    pool = fitted.map(rows, ["text"] * 10, "document")
    expected = dict(zip(ids, (pool @ query[0]).tolist(), strict=True))
    scores = {hit.id: hit.score for hit in retriever.search("the word")}
    assert scores == pytest.approx(expected, abs=1e-4)


COLOURS = ("teal", "red", "blue")


def pictures(size: int = 48) -> list[dict[str, Any]]:
    return [{"id": colour, "image": Image.new("RGB", (size, size), colour)} for colour in COLOURS]


def test_queries_of_a_signature_that_is_not_stored_take_the_reference_mean(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Captions beside pictures: sentences, and captions of drawn scenes and of everyday things."""
    backbone, recipe = tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None)
    retriever = FreeRet(backbone, recipe)
    retriever.index(pictures(), tmp_path / "s")
    encode = retriever.embedder.encode
    stored = encode([Item(images=[p["image"]]) for p in pictures()])
    reference = {
        ("document", "image"): encode(reference_items("document", "image")),
        ("query", "image"): encode(reference_items("query", "image"), "query"),
        ("query", "text for media"): encode([*sentences(), *captions(), *everyday()], "query"),
    }
    geometry = CorpusGeometry.of(
        "centre", COLOURS, ["image"] * 3, stored, lambda *key: reference.get(key)
    ).with_queries(["text"], lambda *key: reference.get(key))
    query = geometry.map(encode(["the word"], "query"), ["text"], "query")
    expected = query @ geometry.map(stored, ["image"] * 3, "document").T
    scores = {hit.id: hit.score for hit in retriever.search("the word")}
    assert scores == pytest.approx(dict(zip(COLOURS, expected[0].tolist(), strict=True)), abs=1e-5)


def test_reference_items_are_encoded_once_for_a_backbone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once for a store, nor for a process; and another prompt has others."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    backbone, recipe = tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None)
    first = FreeRet(backbone, recipe)
    first.index(pictures(), tmp_path / "s")
    hits = first.search("the word")
    for store in ("s", "t"):
        later, encoded = FreeRet(backbone, recipe), []
        rows = later.embedder.rows
        monkeypatch.setattr(
            later.embedder,
            "rows",
            lambda item, side="document", rows=rows, to=encoded: (
                to.append(item) or rows(item, side)
            ),
        )
        later.index(pictures(), tmp_path / store)
        again = later.search("the word")
        assert len(encoded) == (1 if store == "s" else 4), "what is asked, and what is stored"
        assert [h.score for h in again] == pytest.approx([h.score for h in hits], abs=1e-5)
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 1
    FreeRet(backbone, Recipe("prompteol", "attn[-1]", "centre", None)).index(pictures())
    assert len(list((tmp_path / "cache" / "reference").iterdir())) == 2


def test_a_damaged_reference_is_made_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    recipe = Recipe("e5v", "attn[-1]", "centre", None)
    scores = []
    for name in "st":
        retriever = FreeRet(tiny("qwen2.5-vl"), recipe)
        retriever.index(pictures(), tmp_path / name)
        scores.append([hit.score for hit in retriever.search("the word")])
        for file in (tmp_path / "cache" / "reference").iterdir():
            file.write_bytes(file.read_bytes()[:100])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_search_does_not_need_the_right_to_write(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder can be made here")
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None))
    retriever.index(pictures(), tmp_path / "s")
    first = retriever.search("the word")
    assert ids(retriever.search("the word")) == ids(first)
    assert {hit.id for hit in first} == set(COLOURS)


@pytest.mark.parametrize("memory", [4.0, 0.0])
@pytest.mark.parametrize("ann", [False, True])
def test_signatures_are_put_on_one_scale(
    memory: float, ann: bool, tiny: Tiny, tmp_path: Path
) -> None:
    """In memory, streamed and approximate: gain · cosine + shift, by hand."""
    backbone, recipe = tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None)
    rng = np.random.default_rng(0)
    shown = [
        {"id": f"p{i}", "image": rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)}
        for i in range(40)
    ]
    retriever = FreeRet(backbone, recipe, memory=memory)
    retriever.index([*shown, *texts(230)], tmp_path / "s")
    if ann:
        retriever.build_ann()
    geometry, loaded = retriever.corpus.store.geometry(), retriever.corpus.store.vectors()
    assert geometry is not None
    query = geometry.map(retriever.embedder.encode_query(["17 of"]), ["text"], "query")
    calibration = geometry.calibration(query)
    pool = geometry.map(loaded.vectors, loaded.signatures, "document")
    expected = {
        id: float(calibration[s].gain * cosine + calibration[s].shift)
        for id, s, cosine in zip(
            loaded.ids, loaded.signatures, (pool @ query[0]).tolist(), strict=True
        )
    }
    hits = retriever.search("17 of", top_n=30, ann=ann)
    ranked = sorted(expected, key=lambda id: -expected[id])[:30]
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {id: expected[id] for id in ids(hits)}, abs=1e-5
    )
    assert len(set(ids(hits)) & set(ranked)) >= (28 if ann else 30)
    assert any(id.startswith("p") for id in ids(hits))
    assert any(not id.startswith("p") for id in ids(hits))


def test_a_task_is_for_the_query_alone(backbone: Backbone, tmp_path: Path) -> None:
    recipe = Recipe("control", "attn[-1]", "none", None, task="question")
    retriever = FreeRet(backbone, recipe)
    retriever.index(texts(5), tmp_path / "s")
    documents = retriever.corpus.store.vectors()
    asked = Embedder(backbone, "attn[-1]", ControlPrompt(task="question"))
    encoded = asked.encode_document([item["text"] for item in texts(5)])
    torch.testing.assert_close(documents.vectors, encoded, atol=1e-5, rtol=0)
    for task, prompt in ((None, "question"), ("caption", "caption"), ("Name it.", "Name it.")):
        other = Embedder(backbone, "attn[-1]", ControlPrompt(task=prompt)).encode_query(["17 of"])
        expected = (unit(other) @ unit(documents.vectors).T)[0].tolist()
        scores = {hit.id: hit.score for hit in retriever.search("17 of", task=task)}
        assert scores == pytest.approx(dict(zip(documents.ids, expected, strict=True)), abs=1e-5)
    with pytest.raises(StoreMismatch):
        FreeRet(backbone, Recipe("control", "attn[-1]", "none", None)).index([], tmp_path / "s")
    wordless = FreeRet(backbone, PLAIN)
    wordless.index(texts(3), tmp_path / "t")
    with pytest.raises(BadSetting, match="states no task"):
        wordless.search("17 of", task="caption")


def test_kinds_are_found_across(tiny: Tiny, tmp_path: Path) -> None:
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", "mcq"))
    pictures = [{"id": c, "image": Image.new("RGB", (48, 48), c)} for c in ("teal", "red")]
    retriever.index([*pictures, *texts(4)], tmp_path / "s")
    loaded = FreeRet.load(tmp_path / "s", tiny("qwen2.5-vl"))
    for query in ("the word", Image.new("RGB", (48, 48), "teal")):
        found, expected = (r.search(query, rerank=3) for r in (loaded, retriever))
        assert sorted(ids(found)) == sorted(["teal", "red", *(t["id"] for t in texts(4))])
        assert ids(found) == ids(expected)


# ------------------------------------------------------------------------------------- rerank


def test_only_the_head_is_judged(filled: FreeRet, backbone: Backbone) -> None:
    plain, judged = (filled.search("the word", top_n=12, rerank=n) for n in (0, 5))
    assert sorted(ids(judged[:5])) == sorted(ids(plain[:5]))
    assert judged[5:] == plain[5:]
    scores = {h.id: h for h in plain}
    reranker = Reranker(backbone, "mcq")
    for hit in judged[:5]:
        [expected] = reranker.predict([("the word", hit.item)])
        assert hit.stage2_score == pytest.approx(expected, abs=1e-5)
        assert hit.stage1_score == scores[hit.id].score
        assert hit.score == pytest.approx(1 + expected, abs=1e-5)
    assert [h.score for h in judged] == sorted((h.score for h in judged), reverse=True)
    every = filled.search("the word", top_n=5, rerank=50)
    assert sorted(ids(every)) == sorted(ids(plain[:5]))


def test_fusion_weighs_both_stages(filled: FreeRet, backbone: Backbone) -> None:
    plain = filled.search("the word", top_n=8)
    fused = FreeRet.load(filled.corpus.store.location, backbone)
    fused.recipe = Recipe("e5v", "attn[-1]", "none", "mcq", fusion=0.5)
    hits = fused.search("the word", top_n=8, rerank=8)
    first = np.array([h.score for h in plain])
    margins = Reranker(backbone, "mcq").margins([("the word", h.item) for h in plain])
    expected = (first - first.mean()) / first.std() + 0.5 * margins
    order = np.argsort(-expected, kind="stable")
    assert ids(hits) == [plain[i].id for i in order]
    np.testing.assert_allclose([h.score for h in hits], 1 + expit(expected[order]), atol=1e-4)
    for hit in hits:
        assert hit.stage2_score == pytest.approx(
            expit(margins[[h.id for h in plain].index(hit.id)]), abs=1e-5
        )


def test_a_query_whose_first_hit_is_far_ahead_is_left_to_stage_1(
    filled: FreeRet, backbone: Backbone
) -> None:
    plain = filled.search("the word", top_n=8)
    ahead = lead([hit.score for hit in plain])
    opened = FreeRet.load(filled.corpus.store.location, backbone)
    opened.recipe = replace(filled.recipe, cascade=ahead - 1e-3)
    assert opened.search("the word", top_n=8, rerank=5) == plain
    opened.recipe = replace(filled.recipe, cascade=ahead + 1e-3)
    expected = filled.search("the word", top_n=8, rerank=5)
    found = opened.search("the word", top_n=8, rerank=5)
    assert ids(found) == ids(expected)
    assert found[0].stage2_score is not None


def test_hits_stay_in_order_where_their_sigmoids_are_equal() -> None:
    hits = [Hit(name, 0.5, 0.5, None, Item(name)) for name in "abc"]
    assert ids(fused(hits, np.array([50.0, 70.0, 60.0]), None)) == ["b", "c", "a"]
    nearer = [replace(hits[0], stage1_score=0.4), *hits[1:]]
    assert ids(fused(nearer, np.zeros(3), None)) == ["b", "c", "a"]


def test_fuse() -> None:
    margins = np.array([3.0, -1.0, 0.5])
    assert fuse([0.1, 0.9, 0.5], margins, None).tolist() == margins.tolist()
    assert fuse([0.5, 0.5, 0.5], margins, 2.0).tolist() == (2 * margins).tolist()
    ordered = fuse([0.1, 0.9, 0.5], margins, 0.0)
    assert np.argsort(-ordered).tolist() == [1, 2, 0], "weight 0 is stage 1 alone"


def test_reranking_that_is_off_by_recipe_is_logged(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    why = "AUC 0.50 includes chance"
    recipe = Recipe("e5v", "attn[-1]", "none", None, reasons=("site",), why_not_reranked=why)
    retriever = FreeRet(backbone, recipe)
    retriever.index(texts(10), tmp_path / "s")
    plain = retriever.search("the word", top_n=5)
    assert not caplog.records
    assert retriever.search("the word", top_n=5, rerank=3) == plain
    [record] = caplog.records
    assert record.getMessage() == "not reranked: AUC 0.50 includes chance"


# ------------------------------------------------------------------------------------- answer


def test_an_answer_is_generated_from_the_hits(
    filled: FreeRet, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    generate = backbone.generate

    def seen(source: Any, max_new_tokens: int) -> str:
        prompts.append(backbone.tokenizer.decode(backbone.row(source).ids))
        return generate(source, max_new_tokens)

    monkeypatch.setattr(backbone, "generate", seen)
    found = filled.answer("Where is 17?", top_n=3, max_new_tokens=4)
    assert isinstance(found.text, str)
    assert ids(found.sources) == ids(filled.search("Where is 17?", top_n=3))
    [prompt] = prompts
    for number, hit in enumerate(found.sources, start=1):
        assert f"[{number}] {hit.item.text}" in prompt
    assert "Where is 17?" in prompt
    judged = filled.answer("Where is 17?", top_n=2, rerank=5, max_new_tokens=1)
    assert ids(judged.sources) == ids(filled.search("Where is 17?", top_n=5, rerank=5)[:2])


def test_long_sources_do_not_push_the_question_out(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(
        backbone,
        "generate",
        lambda source, _: prompts.append(backbone.tokenizer.decode(backbone.row(source).ids)) or "",
    )
    retriever = FreeRet(backbone, PLAIN)
    retriever.index([f"{k} {'the word ' * 800}" for k in range(5)], tmp_path / "s")
    retriever.answer("Where is the question?")
    assert "Where is the question?" in prompts[0]


# ---------------------------------------------------------------------------------------- ann


@pytest.mark.parametrize("kind", ["hnsw", "pq"])
def test_an_approximate_index_is_measured_and_told_when_stale(
    kind: Any, backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", "centre", "mcq"))
    retriever.index(texts(100), tmp_path / "s")
    with pytest.raises(StoreError, match="100 items are too few"):
        retriever.build_ann()
    with pytest.raises(StoreError, match="build_ann"):
        retriever.search("the word", ann=True)
    retriever.index(texts(320))
    recall = retriever.build_ann(kind)
    assert recall.recall >= 0.9
    assert measure_recall(retriever.corpus.store, n=320).recall == 1.0, (
        "asked for all, it finds all"
    )
    exact, approximate = (retriever.search("17 of", top_n=10, ann=a) for a in (False, True))
    assert len(set(ids(exact)) & set(ids(approximate))) >= 9
    scores = {h.id: h.score for h in retriever.search("17 of", top_n=400)}
    assert all(h.score == pytest.approx(scores[h.id], abs=1e-6) for h in approximate)
    third = {"third": 1}
    filtered = [retriever.search("17 of", top_n=100, filter=third, ann=a) for a in (False, True)]
    assert ids(filtered[0]) == ids(filtered[1]), "few proposals pass a filter"
    FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq")).index([], tmp_path / "s")
    with pytest.raises(StoreError, match="no index for its present items"):
        FreeRet.load(tmp_path / "s", backbone).search("the word", ann=True)
    retriever.index([])
    assert retriever.search("the word", ann=True)
    retriever.delete(["i000"])
    with pytest.raises(StoreError, match="no index for its present items"):
        retriever.search("the word", ann=True)


@pytest.mark.usefixtures("unchecked")
def test_another_index_is_refused(filled: FreeRet) -> None:
    with pytest.raises(BadSetting, match="'flat' is not an index; choose hnsw or pq"):
        filled.build_ann("flat")  # type: ignore[arg-type]


def test_a_block_is_full_when_its_media_reach_the_bytes_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "HELD", 200)
    stream = [Item(images=[bytes(100)], id=str(i)) for i in range(5)]
    assert [[i.id for i in block] for block in indexing.blocks(stream)] == [
        ["0", "1"], ["2", "3"], ["4"],
    ]  # fmt: skip
