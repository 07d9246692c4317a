"""`FreeRet.index` and `delete`: incremental, resumable, each id stored once."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.store import indexing
from freeret.store.indexing import BLOCK, Indexed
from freeret.store.table import Store
from probes import Backbone, Item
from probes.errors import BadItem
from probes.model.batches import ahead
from tests.retrieve.corpora import PLAIN, counted, ids, texts


def test_delete_accepts_a_single_id(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3), tmp_path / "s")
    assert retriever.delete("i001") == 1
    assert sorted(ids(retriever.search("the word"))) == ["i000", "i002"]


def test_an_unchanged_corpus_writes_nothing(backbone: Backbone, tmp_path: Path) -> None:
    """So a read-only store can be searched; a changed recipe is written."""
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3), tmp_path / "s")
    before = sorted((tmp_path / "s").rglob("*"))
    retriever.index(texts(3))
    assert sorted((tmp_path / "s").rglob("*")) == before
    FreeRet(backbone, Recipe("e5v", "attn[-1]", "none", "yes_no")).index([], tmp_path / "s")
    assert FreeRet.load(tmp_path / "s", backbone).recipe.frame == "yes_no"


def test_stored_items_are_not_embedded_again(backbone: Backbone, tmp_path: Path) -> None:
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
def test_a_repeated_id_within_a_stream_is_a_bad_item(
    apart: int, backbone: Backbone, tmp_path: Path
) -> None:
    """The first item is kept. The error about the second names both places in the stream, even if
    it comes in a later commit."""
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
def test_ids_of_different_types_with_one_spelling_are_equal(
    ids: tuple, backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, PLAIN)
    first, second = ({"id": id, "text": "the word"} for id in ids)
    assert retriever.index([first, second], tmp_path / "s") == Indexed(added=1, unchanged=1)
    with pytest.raises(BadItem, match="the id '1' was given to another item"):
        retriever.index([first, {**second, "text": "another"}])


def test_items_without_id_are_identified_by_their_content(
    backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, PLAIN)
    assert retriever.index(["a", "b", "a"], tmp_path / "s").added == 2
    assert retriever.index(["b", "c"]) == Indexed(added=1, unchanged=1)
    assert sorted(h.item.text for h in retriever.search("x")) == ["a", "b", "c"]


def test_a_bad_item_is_named_and_skipped_or_raises(backbone: Backbone, tmp_path: Path) -> None:
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


def test_a_stream_is_indexed_block_by_block(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items that were embedded before an error are stored; the stream is never held as a whole."""

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


def test_a_block_is_full_when_its_media_reach_the_bytes_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(indexing, "HELD", 200)
    stream = [Item(images=[bytes(100)], id=str(i)) for i in range(5)]
    assert [[i.id for i in block] for block in indexing.blocks(stream)] == [
        ["0", "1"], ["2", "3"], ["4"],
    ]  # fmt: skip


def test_a_block_that_is_launched_ahead_is_stored_whatever_ends_the_stream(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, which computes one block while the block before it is stored."""
    waited: list[int] = []
    launch = Embedder.launch

    def counted_launch(self: Embedder, items: list[Item], *rows: Any, **bar: Any) -> Any:
        result = launch(self, items, *rows, **bar)
        waited.append(-len(items))
        return lambda: waited.append(len(items)) or result()

    def stream() -> Iterator[dict[str, str]]:
        yield from texts(BLOCK)
        raise OSError("the disk with the texts is gone")

    monkeypatch.setattr(Embedder, "launch", counted_launch)
    monkeypatch.setattr(indexing, "_launched_ahead", lambda _: 1)
    monkeypatch.setattr(ahead, "BATCHES", 1)
    monkeypatch.setattr(backbone, "loading", replace(backbone.loading, token_budget=1))
    retriever = FreeRet(backbone, PLAIN)
    with pytest.raises(OSError, match="the texts"):
        retriever.index(stream(), tmp_path / "s")
    assert waited == [-1, *[-1, 1] * (BLOCK - 1), 1]
    whole = FreeRet(backbone, PLAIN)
    monkeypatch.undo()
    whole.index(texts(BLOCK), tmp_path / "whole")
    found, expected = (
        {hit.id: hit.score for hit in one.search("word", top_n=BLOCK)} for one in (retriever, whole)
    )
    assert len(found) == BLOCK
    assert found == pytest.approx(expected, abs=1e-5)
