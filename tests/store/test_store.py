"""The table of a store: rows, commits, identity, and interrupted creations."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.query import LanceEmptyQueryBuilder
from lancedb.table import LanceTable
from PIL import Image

from freeret.store import commits
from freeret.store.rows import matrix
from freeret.store.table import Store
from probes import Item
from probes.errors import NotStored, StoreError, StoreMismatch
from tests.store.records import IDENTITY, SIZE, changed, made
from tests.stores import without_words

# -------------------------------------------------------------------------------------- rows


def test_rows_come_back_as_they_were(store: Store) -> None:
    records = [made(id) for id in ("b", "ä", "a", "B", "10", "9")]
    store.write(records)
    loaded = Store.open(store.location).vectors()
    assert loaded.ids == sorted(r.id for r in records)
    by_id = {r.id: r for r in records}
    expected = torch.stack([torch.from_numpy(by_id[id].vector) for id in loaded.ids])
    assert torch.equal(loaded.vectors, expected)
    assert loaded.metadata == [{"from": id} for id in loaded.ids]
    assert store.hashes() == {r.id: r.hash for r in records}
    assert len(store) == 6


def test_items_come_in_the_order_asked_for(store: Store) -> None:
    store.write([made(id) for id in "abcde"])
    assert [(i.id, i.text) for i in store.items(["d", "a", "e"])] == [
        (id, f"text of {id}") for id in "dae"
    ]
    assert store.items([]) == []


def test_many_items_are_looked_up_in_parts(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeret.store.filters.IDS", 7)
    ids = [f'it\'s {k}, "日"' for k in range(20)]
    store.write([made(id) for id in ids])
    for count in (1, 6, 7, 8, 14, 20):
        asked = ids[:count][::-1]
        assert [item.id for item in store.items(asked)] == asked
    assert [item.id for item in store.items(['it\'s 3, "日"'] * 9)] == ['it\'s 3, "日"'] * 9


@pytest.mark.parametrize("id", ["none", "it's", "A", ""])
def test_an_id_that_is_not_stored_is_named(id: str, store: Store) -> None:
    store.write([made(k) for k in "abc"])
    with pytest.raises(NotStored, match="holds no item") as caught:
        store.items(["a", id, "b"])
    assert repr(id) in str(caught.value)
    assert isinstance(caught.value, KeyError), "as of any mapping"
    with pytest.raises(StoreError, match="'x', nor 1 more"):
        store.items(["x", "a", "y"])


def test_writing_again_replaces(store: Store) -> None:
    store.write([made("a"), made("b")])
    store.write([made("b", Item("new", metadata={"k": 1}), seed=1), made("c")])
    assert len(store) == 3
    [b] = store.items(["b"])
    assert (b.text, dict(b.metadata)) == ("new", {"k": 1})
    assert np.array_equal(store.vectors().vectors[1], made("b", seed=1).vector)


def test_deleting_says_how_many_there_were(store: Store) -> None:
    store.write([made(id) for id in ("a", "it's", "c")])
    assert store.delete(["it's", "a", "never there"]) == 2
    assert store.delete(["a"]) == 0
    assert store.delete([]) == 0
    assert store.vectors().ids == ["c"]


def test_thousands_are_deleted_at_once(store: Store) -> None:
    store.write([made(f"{i}") for i in range(50)])
    assert store.delete([f"{i}" for i in range(5000)]) == 50


@pytest.fixture
def conditions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of ids in each condition that is passed to LanceDB."""
    counts: list[int] = []

    def watch(owner: type, name: str) -> None:
        plain = getattr(owner, name)

        def watched(self: Any, where: Any, *arguments: Any, **options: Any) -> Any:
            counts.append(str(where).count("'") // 2)
            return plain(self, where, *arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(LanceEmptyQueryBuilder, "where")
    watch(LanceTable, "delete")
    return counts


def test_no_query_names_more_ids_than_allowed(
    store: Store, conditions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeret.store.filters.IDS", 50)
    ids = [f"{k}" for k in range(230)]
    store.write([made(id) for id in ids])
    readers = [store.items, store.hashes, store.vectors,
               lambda ids: list(store.parts(ids)), store.delete]  # fmt: skip
    for read in readers:
        conditions.clear()
        read(ids)
        assert conditions == [50, 50, 50, 50, 30], read
    assert len(store) == 0


def test_ids_are_indexed_from_the_start_and_again_as_rows_come(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unindexed() -> int:
        index = store.table.index_stats(commits.BY_ID.name)
        return -1 if index is None else index.num_unindexed_rows

    assert unindexed() == 0
    monkeypatch.setattr(commits, "UNINDEXED", 4)
    store.write([made(id) for id in "abcd"])
    assert unindexed() == 4
    store.write([made("e")])
    assert unindexed() == 0
    store.table.drop_index(commits.BY_ID.name)
    assert Store.open(store.location).items(["c"])[0].text == "text of c", "as of an older version"
    store.write([made("f")])
    assert unindexed() == 0
    assert store.vectors().ids == list("abcdef")


def test_a_long_run_is_compacted_on_its_way(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeret.store.commits.COMPACTED", 4)
    fragments = []
    for k in range(40):
        store.write([made(f"{k:02}")], store.version)
        fragments.append(store.table.stats()["fragment_stats"]["num_fragments"])
        assert fragments[-1] <= max(4, store.version / 2) + 1
    assert 4 <= fragments.count(1) <= 6, "each rewrites the rows, so that they must become rare"
    assert store.vectors().ids == [f"{k:02}" for k in range(40)]


def test_compactions_of_a_long_run() -> None:
    due = [version for version in range(2, 20_000) if commits.compaction_due(version - 1, version)]
    assert due == [256, 512, 1024, 2048, 4096, 8192, 12_288, 16_384]
    assert commits.compaction_due(255, 259), "the version itself may be that of an index"


def test_an_empty_store_can_be_opened_and_emptied_again(store: Store) -> None:
    for there in (store, Store.open(store.location)):
        assert len(there) == 0
        assert there.hashes() == {}
        assert there.vectors().ids == []
        assert there.vectors().vectors.shape == (0, SIZE)
    store.write([made("a")])
    store.delete(["a"])
    assert store.vectors().vectors.shape == (0, SIZE)


def test_compacting_keeps_everything(store: Store) -> None:
    for id in "edcba":
        store.write([made(id)])
    before = store.vectors()
    store.compact()
    for there in (store, Store.open(store.location)):
        assert there.vectors().ids == before.ids
        assert torch.equal(there.vectors().vectors, before.vectors)


def test_a_store_takes_what_another_holds(store: Store, tmp_path: Path) -> None:
    store.write([made(id) for id in "abc"])
    other = Store.create(tmp_path / "other", IDENTITY, SIZE)
    other.take(store)
    assert other.hashes() == store.hashes()
    assert torch.equal(other.vectors().vectors, store.vectors().vectors)


def test_by_signature_takes_the_groups_apart(store: Store) -> None:
    picture = Item("a", images=[Image.new("RGB", (4, 4))])
    store.write([made("a"), made("b", picture), made("c")])
    groups = store.vectors().by_signature()
    assert {name: part.ids for name, part in groups.items()} == {
        "text": ["a", "c"],
        "image+text": ["b"],
    }
    assert groups["text"].signatures == ["text", "text"]
    assert groups["text"].metadata == [{"from": "a"}, {"from": "c"}]
    assert np.array_equal(groups["image+text"].vectors[0], made("b", picture).vector)


# ------------------------------------------------------------------------------------ identity


def test_the_same_identity_opens_what_is_there(store: Store) -> None:
    store.write([made("a")])
    again = Store.create(store.location, IDENTITY, SIZE)
    assert len(again) == 1
    assert again.identity == IDENTITY


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("backbone.weights", "made with m when it had other weights"),
        ("embedder.site", r"other settings: site attn\[3\], now other"),
        ("embedder.prompts", "other settings: prompt e5v, now other"),
        ("embedder.truncate_dim", "other settings: dimensions kept none, now other"),
    ],
)
def test_another_identity_is_refused_by_name(path: str, said: str, store: Store) -> None:
    store.write([made("a")])
    with pytest.raises(StoreMismatch, match=said):
        Store.create(store.location, changed(path, "other"), SIZE)
    assert Store.open(store.location).vectors().ids == ["a"]


@pytest.mark.parametrize("path", ["backbone.versions.torch", "recipe.geometry"])
def test_keys_that_do_not_affect_vectors_may_differ(path: str, store: Store) -> None:
    assert len(Store.create(store.location, changed(path, "other"), SIZE)) == 0


def test_the_path_of_the_model_may_differ(store: Store) -> None:
    """A model folder may be moved; a model is identified by its weights."""
    assert len(Store.create(store.location, changed("backbone.model", "elsewhere"), SIZE)) == 0


def test_a_missing_store_is_a_store_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no store at .*none; make one"):
        Store.open(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="no store at"):
        Store.open(tmp_path / "empty")
    assert not Store.exists(tmp_path / "none")


def test_partial_files_of_an_interrupted_creation_are_replaced(tmp_path: Path) -> None:
    for left in ("data/part.lance", "_versions/.tmp_1.manifest_x", "_transactions/0.txn"):
        folder = tmp_path / left.split("/")[0]
        file = folder / "items.lance" / left
        file.parent.mkdir(parents=True)
        file.write_bytes(b"half")
        assert not Store.exists(folder), left
        assert len(Store.create(folder, IDENTITY, SIZE)) == 0, left


def test_a_table_with_other_columns_is_no_store(tmp_path: Path) -> None:
    database = Store.create(tmp_path, IDENTITY, SIZE).database
    database.create_table("items", data=[{"a": 1}], mode="overwrite")
    with pytest.raises(StoreError, match=str(tmp_path)):
        Store.open(tmp_path)
    with pytest.raises(StoreError, match=str(tmp_path)):
        Store.create(tmp_path, IDENTITY, SIZE)


@pytest.mark.parametrize("inside", ["", "_transactions", "_versions"])
def test_an_interrupted_creation_is_repeated(inside: str, tmp_path: Path) -> None:
    """The process was killed after it made the folder and before the first commit."""
    (tmp_path / "items.lance" / inside).mkdir(parents=True)
    store = Store.create(tmp_path, IDENTITY, SIZE)
    store.write([made("a")])
    assert Store.open(tmp_path).vectors().ids == ["a"]


# ------------------------------------------------------------------------------------- payload


def test_a_store_can_be_named_by_a_url(tmp_path: Path) -> None:
    """Object stores are named by URL; a file URL takes the same path through LanceDB."""
    url = (tmp_path / "s").as_uri()
    assert not Store.exists(url)
    Store.create(url, IDENTITY, SIZE).write([made("a"), made("b")])
    again = Store.open(url)
    assert again.vectors().ids == ["a", "b"]
    assert again.delete(["a"]) == 1
    assert Store.create(url, IDENTITY, SIZE).vectors().ids == ["b"]
    with pytest.raises(StoreMismatch):
        Store.create(url, changed("backbone.weights", "other"), SIZE)


@pytest.mark.parametrize("rows", [slice(0, 5), slice(1, 3), slice(4, 4), slice(0, 1)])
@pytest.mark.parametrize("chunks", [1, 2])
def test_a_slice_of_a_column_reads_its_own_rows(rows: slice, chunks: int) -> None:
    """Arrow's slices share the memory of the whole: the wrong offset gives other rows."""
    flat = pa.array(np.arange(15, dtype=np.float32))
    part = pa.FixedSizeListArray.from_arrays(flat, 3)[rows]
    column = pa.chunked_array([part] * chunks) if chunks > 1 else part
    expected = np.arange(15, dtype=np.float32).reshape(5, 3)[rows]
    np.testing.assert_array_equal(matrix(column), np.concatenate([expected] * chunks))


# ------------------------------------------------------------------------------------- words


def test_words_are_indexed_from_the_start_and_again_as_a_store_is_compacted(store: Store) -> None:
    store.write([replace(made(id), words="bread") for id in "abc"])
    assert store.table.index_stats(commits.BY_WORD.name).num_unindexed_rows == 3
    store.compact()
    covered = Store.create(store.location, IDENTITY, SIZE).table.index_stats(commits.BY_WORD.name)
    assert (covered.num_indexed_rows, covered.num_unindexed_rows) == (3, 0)


def test_a_store_made_without_words_is_still_written_and_copied_with_them(
    store: Store, tmp_path: Path
) -> None:
    store.write([made("a")])
    store = Store.create(without_words(Path(store.location)), IDENTITY, SIZE)
    store.write([made("b")])
    store.compact()
    assert [item.text for item in store.items(["a", "b"])] == ["text of a", "text of b"]
    copy = Store.create(tmp_path / "copy", IDENTITY, SIZE)
    copy.take(store)
    assert copy.table.to_arrow()["words"].to_pylist() == ["text of a", "text of b"]
