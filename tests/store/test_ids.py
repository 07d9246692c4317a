"""An id names one item: nothing replaces another in silence, and the same call changes nothing."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.ray import _check_ids
from freeret.sources.files import Files
from freeret.store.indexing import Indexed, index_items
from freeret.store.payload import pack, unpack, with_place
from freeret.store.table import Store
from probes.errors import BadItem, BadSetting
from probes.items import Item, as_item
from probes.model.backbone import Backbone

PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")


@pytest.fixture
def retriever(tiny: Callable[[str], Backbone]) -> FreeRet:
    return FreeRet(tiny("llama"), PLAIN)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def write(folder: Path, **texts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def rows(path: Path, *texts: str, first: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = [json.dumps({"id": k, "text": t}) for k, t in enumerate(texts, start=first)]
    path.write_text("\n".join(written))
    return path


def stored(store: Path) -> dict[str | None, str]:
    opened = Store.open(store)
    return {item.id: item.text for item in opened.items(opened.vectors().ids)}


# ------------------------------------------------------------------------- one id, one content


def test_two_tables_with_the_same_ids_lose_nothing_in_silence(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    a = rows(tmp_path / "a.jsonl", "one", "two")
    b = rows(tmp_path / "b.jsonl", "three", "two")
    with pytest.raises(BadItem, match=r"b\.jsonl:1: the id '0' .* at .*a\.jsonl:1; .*one item"):
        retriever.index([a, b], store)
    for added in (2, 0, 0):
        done = retriever.index([a, b], store if added else None, on_error="skip")
        assert (done.added + done.unchanged, done.replaced) == (3, 0)
        assert list(done.skipped) == [f"{b}:1"]
    assert stored(store) == {"0": "one", "1": "two"}


def test_folders_of_any_names_are_kept_apart_in_any_number_of_calls(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    a, b = write(tmp_path / "a", one="in a"), write(tmp_path / "b", one="in b")
    assert retriever.index(Files([a]), store).added == 1
    assert retriever.index(Files([b])) == Indexed(added=1)
    assert retriever.index(Files([b, a])) == retriever.index(Files([a, b])) == Indexed(unchanged=2)
    assert stored(store) == {"a/one.txt": "in a", "b/one.txt": "in b"}


def test_a_folder_of_the_same_name_replaces_no_other(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    x = write(tmp_path / "x" / "docs", one="in x", same="the same")
    y = write(tmp_path / "y" / "docs", one="in y", same="the same")
    with pytest.raises(BadItem, match=r"the id 'docs/one\.txt' was given to another item"):
        retriever.index(Files([x, y]), store)
    retriever.index(Files([x]))
    with pytest.raises(BadItem, match=r"y/docs/one\.txt would replace .*x/docs/one\.txt, which is"):
        retriever.index(Files([y]))
    done = retriever.index(Files([y]), on_error="skip")
    assert (done.unchanged, list(done.skipped)) == (1, ["docs/one.txt"])
    assert stored(store)["docs/one.txt"] == "in x"


def test_a_folder_that_was_moved_is_the_same_folder(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    x = write(tmp_path / "x" / "docs", one="first", two="second")
    (x / "rows.jsonl").write_text('{"text": "third"}')
    retriever.index(Files([x]), store)
    (tmp_path / "y").mkdir()
    moved = x.rename(tmp_path / "y" / "docs")
    assert retriever.index(Files([moved])) == Indexed(unchanged=3)
    write(moved, one="first, changed")
    (moved / "rows.jsonl").write_text('{"text": "third, changed"}')
    assert retriever.index(Files([moved])) == Indexed(replaced=2, unchanged=1)


def test_ids_given_by_the_user_may_come_from_another_file_later(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    """A dump of January, then that of February: the rows are new editions, and are counted."""
    retriever.index(rows(tmp_path / "1.jsonl", "old", "kept"), store)
    assert retriever.index(rows(tmp_path / "2.jsonl", "new", "kept")) == Indexed(
        replaced=1, unchanged=1
    )


def test_actors_that_know_nothing_of_each_other_are_compared(
    retriever: FreeRet, store: Path
) -> None:
    """Each indexes its block; the ids meet where the outcomes do."""
    retriever.index([], store)
    opened = Store.open(store)
    blocks = ([{"id": "a", "text": "one"}], [{"id": "a", "text": "two"}, "b"], [("b")])
    outcomes = [
        index_items(opened, retriever.embedder, enumerate(block), on_error="skip")
        for block in blocks
    ]
    done = Indexed()
    done += outcomes[0]
    with pytest.raises(BadItem, match="the id 'a' was given to another item before"):
        _check_ids(done, outcomes[1], "raise")
    _check_ids(done, outcomes[1], "skip")
    assert list(done.skipped) == ["item 0 of the stream"]
    done += outcomes[1]
    _check_ids(done, outcomes[2], "raise")


# --------------------------------------------------------------------------------------- prune


def test_prune_removes_what_has_gone(retriever: FreeRet, tmp_path: Path, store: Path) -> None:
    folder = write(tmp_path / "docs", a="a", b="b", c="c")
    rows(folder / "sub" / "rows.jsonl", "zero", "one", "two")
    other = write(tmp_path / "docs-2", a="beside")
    retriever.index([folder, other], store)
    retriever.index([{"id": "mine", "text": "from nowhere"}])
    (folder / "b.txt").unlink()
    (folder / "c.txt").rename(folder / "e.txt")
    rows(folder / "sub" / "rows.jsonl", "zero", "two")
    assert retriever.index(folder).pruned == 0
    assert len(stored(store)) == 9
    done = retriever.index(folder, prune=True)
    assert (done.added, done.replaced, done.unchanged, done.pruned) == (0, 0, 4, 3)
    assert set(stored(store)) == {
        "docs/a.txt", "docs/e.txt", "0", "1", "docs-2/a.txt", "mine"
    }  # fmt: skip
    assert retriever.index(folder, prune=True) == Indexed(unchanged=4)


def test_prune_keeps_what_cannot_be_read_now(
    retriever: FreeRet, tmp_path: Path, store: Path
) -> None:
    folder = write(tmp_path / "docs", a="a", gone="gone")
    rows(folder / "rows.jsonl", "zero", "one")
    retriever.index(folder, store)
    (folder / "a.txt").write_bytes(b"\xff")
    (folder / "rows.jsonl").write_text('{"id": 0, "text": "zero"}\n{"id": 1, "te')
    (folder / "gone.txt").unlink()
    done = retriever.index(folder, on_error="skip", prune=True)
    assert (done.pruned, len(done.skipped)) == (1, 2)
    assert set(stored(store)) == {"docs/a.txt", "0", "1"}


def test_each_shard_prunes_its_own(retriever: FreeRet, tmp_path: Path, store: Path) -> None:
    folder = write(tmp_path / "docs", **{f"n{k}": f"text {k}" for k in range(12)})
    retriever.index(folder, store)
    for k in range(6):
        (folder / f"n{k}.txt").unlink()
    pruned = [retriever.index(folder, shards=f"{k}/3", prune=True).pruned for k in (1, 2, 3)]
    assert sum(pruned) == 6
    assert max(pruned) < 6
    assert len(stored(store)) == 6


def test_only_files_can_be_pruned(retriever: FreeRet, tmp_path: Path, store: Path) -> None:
    with pytest.raises(BadSetting, match="to prune, give the files and folders"):
        retriever.index(["a text"], store, prune=True)
    assert not store.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadItem, match="holds no file that can be read"):
        retriever.index(tmp_path / "empty", store, prune=True)


def test_the_source_is_kept_and_is_no_content(tmp_path: Path) -> None:
    path = write(tmp_path / "docs", a="text") / "a.txt"
    item = as_item(path)
    assert item.source == str(path)
    packed = pack(item)
    assert pack(Item("text", id=item.id)) == packed
    back = unpack("x", *with_place(item, packed))
    assert (back.source, back.text) == (item.source, "text")
    assert unpack("x", *packed).source is None
    assert item.with_id("y").source == item.source


# ----------------------------------------------------------------------------- who is at fault


def test_an_error_carries_the_item_and_travels() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(BadItem("a: b: c", "the item: 1")))
    assert (str(error), error.item) == ("a: b: c", "the item: 1")
    assert BadItem("a: b").item is None


def test_ids_do_not_come_out_of_messages(retriever: FreeRet, store: Path) -> None:
    stream = [
        BadItem("no place: is named", "docs/a: b.jsonl:3"), BadItem("who: knows"),
        {"id": "c: d", "text": " "}, {"id": True, "text": "a"}, Item("fine", id="e: f"),
    ]  # fmt: skip
    done = retriever.index(stream, store, on_error="skip")
    assert list(done.skipped) == ["docs/a: b.jsonl:3", "item 1 of the stream", "c: d", "True"]
    assert stored(store) == {"e: f": "fine"}


# -------------------------------------------------------------------------------------- shards

SHARD = """
import sys
from freeret.sources.sharding import Shard
items = [{"id": f"item {n}", "text": "a"} for n in range(400)] + [f"no id {n}" for n in range(40)]
for item in Shard.parse(sys.argv[1]).of(items):
    print(item.id or item.text)
"""


def test_processes_agree_which_shard_an_item_is_in() -> None:
    """Python's own hash differs from process to process."""
    found: Counter[str] = Counter()
    for k in (1, 2, 3):
        environment = {**os.environ, "PYTHONHASHSEED": str(k), "OMP_NUM_THREADS": "1"}
        done: Any = subprocess.run(
            [sys.executable, "-c", SHARD, f"{k}/3"],
            capture_output=True, text=True, env=environment, check=True,
        )  # fmt: skip
        found.update(done.stdout.splitlines())
    assert len(found) == 440
    assert set(found.values()) == {1}
