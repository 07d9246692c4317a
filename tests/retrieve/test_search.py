"""`FreeRet.search`: exact, filtered, in memory, streamed, and by an approximate index."""

import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.search.ann import measure_recall
from freeret.store.indexing import Indexed
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Backbone, ControlPrompt
from probes.errors import BadSetting, StoreError, StoreMismatch
from probes.geometry import CorpusGeometry, unit
from probes.measure.reference import (
    no_reference,
)
from tests.retrieve.corpora import PLAIN, ids, texts

SEARCHES = 1000


@pytest.mark.parametrize("geometry", ["none", "centre", "whiten"])
@pytest.mark.parametrize("query", ["the word", "17 of"])
def test_search_is_exact(geometry: Any, query: str, backbone: Backbone, tmp_path: Path) -> None:
    """Compared with scores of every item, computed separately in float64."""
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
    """Equal vectors have equal scores, whatever their position in the matrix."""
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


@pytest.mark.parametrize("top_n", [0, -1, 2.5, "5", True])
def test_top_n_below_one_is_refused(filled: FreeRet, top_n: Any, unchecked: None) -> None:
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


def test_concurrent_searches_return_the_same_hits(filled: FreeRet) -> None:
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
def test_a_streamed_store_returns_the_hits_of_one_in_memory(
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


def test_a_search_reads_the_store_that_was_opened_last(backbone: Backbone, tmp_path: Path) -> None:
    """Both stores have the same version number; vectors of the first are in memory."""
    retriever = FreeRet(backbone, PLAIN)
    for name in "st":
        retriever.index(
            [{"id": f"{name}{k}", "text": f"{k} {name}"} for k in range(5)], tmp_path / name
        )
        assert {id[0] for id in ids(retriever.search("the word"))} == {name}


@pytest.mark.parametrize("enough", [True, False])
def test_vectors_stay_in_memory_up_to_the_limit(
    enough: bool, backbone: Backbone, tmp_path: Path
) -> None:
    """Loading takes three times the size of the vectors: 20 of 64 dimensions in float32."""
    FreeRet(backbone, Recipe("e5v", "attn[-1]", "centre", "mcq")).index(texts(20), tmp_path / "s")
    needed = 3 * 4 * 64 * 20 - (0 if enough else 1)
    retriever = FreeRet.load(tmp_path / "s", backbone, memory=needed / 2**30)
    retriever.search("the word")
    assert (retriever.corpus._mapped is not None) == enough


def test_a_batch_of_queries_returns_the_hits_of_each_alone(filled: FreeRet) -> None:
    queries = ["the word", "17 of", "Yes"]
    together = filled.search_many(queries, top_n=9)
    for query, hits in zip(queries, together, strict=True):
        alone = filled.search(query, top_n=9)
        assert ids(hits) == ids(alone)
        np.testing.assert_allclose([h.score for h in hits], [h.score for h in alone], atol=1e-5)
    assert filled.search_many([]) == []


def test_a_task_changes_the_query_and_not_the_documents(backbone: Backbone, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("kind", ["hnsw", "pq"])
def test_an_approximate_index_is_measured_and_a_stale_one_is_refused(
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
def test_an_unknown_kind_of_index_is_refused(filled: FreeRet) -> None:
    with pytest.raises(BadSetting, match="'flat' is not an index; choose hnsw or pq"):
        filled.build_ann("flat")  # type: ignore[arg-type]
