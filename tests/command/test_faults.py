"""Kills, full disks, damaged files and bad inputs: a typed error or a result, and nothing lost."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.errors import BadItem, StoreError, StoreMismatch
from tests.command.worker import RECIPE, Worker, texts
from tests.models import TEXT, tokenizer
from tests.stores import same_search, save_tiny

ITEMS, KILLS = 300, 5
NOBODY = 65534


def kill_indexing(folder: Path, items: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill indexing at random moments until it was killed `kills` times; every store that comes
    to its end must equal an undisturbed one. Says what happened; raises AssertionError."""
    model = save_tiny(folder / "model")
    worker, backbone = Worker.start(model), Backbone.load(model)
    draw, moments, finished = random.Random(seed), [], 0
    try:
        worker.ready()
        whole = folder / "whole"
        seconds = worker.run(whole, items=items)["seconds"]
        store = folder / "killed-0"
        while len(moments) < kills:
            moment = draw.uniform(0, seconds)
            outcome = worker.run(store, items=items, kill_after=moment)
            if outcome["exit"] == -signal.SIGKILL and "added" not in outcome:
                moments.append(moment)
                kept = Store.open(store).vectors().ids if Store.exists(store) else []
                assert len(kept) == len(set(kept)) <= items
            else:
                assert "error" not in outcome, outcome
                assert same_search(store, whole, backbone)
                finished += 1
                store = folder / f"killed-{finished}"
        outcome = worker.run(store, items=items)
        assert "error" not in outcome, outcome
        assert same_search(store, whole, backbone)
    finally:
        worker.stop()
    return {
        "items": items,
        "kills": kills,
        "stores finished": finished + 1,
        "undisturbed seconds": seconds,
        "killed after seconds": moments,
    }


def test_killed_indexing_resumes_without_loss(tmp_path: Path) -> None:
    done = kill_indexing(tmp_path, ITEMS, KILLS)
    assert len(done["killed after seconds"]) == KILLS


# ------------------------------------------------------------------------------------ disk faults


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may read, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return save_tiny(place / "model")


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[Worker]:
    worker = Worker.start(model)
    worker.ready()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def backbone(model: Path) -> Backbone:
    return Backbone.load(model)


@pytest.fixture(scope="module")
def whole(place: Path, backbone: Backbone) -> Path:
    """A store of 40 items, made without a fault. Do not modify it."""
    FreeRet(backbone, Recipe(**RECIPE)).index(texts(40), place / "whole")
    return place / "whole"


@pytest.fixture
def copy(place: Path, whole: Path, tmp_path: Path) -> Iterator[Path]:
    folder = place / tmp_path.name
    shutil.copytree(whole, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("fsize", [0, 500, 5_000, 20_000])
def test_a_full_disk_leaves_the_store_as_it_was(
    fsize: int, worker: Worker, copy: Path, whole: Path, backbone: Backbone
) -> None:
    outcome = worker.run(copy, items=200, fsize=fsize)
    assert outcome["error"] == "StoreError", outcome
    assert str(copy) in outcome["message"]
    assert "has room" in outcome["message"]
    assert same_search(copy, whole, backbone)
    assert worker.run(copy, items=200)["added"] == 160, "with room again it goes on"


@pytest.mark.parametrize("fsize", [0, 200, 1_000])
def test_a_disk_full_from_the_beginning_can_be_used_later(
    fsize: int, worker: Worker, tmp_path: Path
) -> None:
    """An empty folder of a table, left by the failed creation, does not block the next one."""
    assert worker.run(tmp_path / "s", items=50, fsize=fsize)["error"] == "StoreError"
    outcome = worker.run(tmp_path / "s", items=50)
    assert "error" not in outcome, outcome
    assert len(Store.open(tmp_path / "s")) == 50


def test_a_read_only_store_is_searched_and_not_written(
    worker: Worker, copy: Path, whole: Path, backbone: Backbone
) -> None:
    user = {"user": NOBODY} if os.getuid() == 0 else {}  # nothing is read-only to root
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        outcome = worker.run(copy, items=200, **user)
        assert outcome["error"] == "StoreError", outcome
        assert str(copy) in outcome["message"]
        assert same_search(copy, whole, backbone)
        outcome = worker.run(copy / "below", items=20, **user)
        assert outcome["error"] == "StoreError", outcome
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


def test_a_read_only_store_is_searched_though_its_geometry_is_stale(
    worker: Worker, copy: Path, backbone: Backbone
) -> None:
    """After a deletion the geometry is fitted for the search, though it cannot be written."""
    store = Store.open(copy)
    assert store.delete(["i00001"]) == 1
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = {"user": NOBODY} if os.getuid() == 0 else {}
    try:
        outcome = worker.run(copy, query="the word", **user)
        assert len(outcome.get("found", [])) == 5, outcome
        assert Store.open(copy).geometry() is None
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)
    hits = FreeRet.load(copy, backbone).search("the word", top_n=5)
    assert [hit.id for hit in hits] == outcome["found"]


def test_a_store_cannot_be_created_at_a_file(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="file"):
        FreeRet(backbone, Recipe(**RECIPE)).index(["a"], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("part", ["data/*", "_versions/*.manifest"])
@pytest.mark.parametrize("table", ["items", "geometry"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_table_is_a_store_error(
    part: str, table: str, kept: float, copy: Path, backbone: Backbone
) -> None:
    newest = max((copy / f"{table}.lance").glob(part), key=lambda f: f.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[: int(kept * newest.stat().st_size)])
    with pytest.raises(StoreError, match=str(copy)):
        FreeRet.load(copy, backbone).search("the word")


# ------------------------------------------------------------------------------- another identity


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"prompt": "prompteol"}, "prompt e5v, now prompteol"),
        ({"site": "mlp[-1]"}, r"site \S+, now mlp\[3\]"),
    ],
)
def test_another_prompt_or_site_is_refused(
    recipe: dict[str, Any], named: str, copy: Path, whole: Path, backbone: Backbone
) -> None:
    with pytest.raises(StoreMismatch, match=named):
        FreeRet(backbone, Recipe(**RECIPE | recipe)).index(["new"], copy)
    assert same_search(copy, whole, backbone)


@pytest.mark.parametrize(
    ("named", "loading"),
    [
        ("dtype", {"dtype": "bfloat16"}),
        ("attention", {"attn_implementation": "eager"}),
        ("longest input", {}),
    ],
)
def test_another_dtype_attention_or_input_length_is_refused(
    named: str, loading: dict[str, Any], copy: Path, whole: Path, model: Path, backbone: Backbone
) -> None:
    """Each of them changes vectors; the input length changes those of long texts."""
    other = Backbone.load(model, **loading)
    if not loading:
        other.encoder.max_tokens //= 2
    ours, theirs = other.fingerprint(), backbone.fingerprint()
    key = "max_tokens" if named == "longest input" else named
    assert ours[key] != theirs[key]
    assert {key for key in ours if ours[key] != theirs[key]} <= {key, "weights"}
    other.loading = Loading()  # as if nobody had asked for it
    with pytest.raises(StoreMismatch, match=named):
        FreeRet.load(copy, other)
    with pytest.raises(StoreMismatch, match=named):
        FreeRet(other, Recipe(**RECIPE)).index(["new"], copy)
    assert same_search(copy, whole, backbone)


def test_changed_wording_of_a_prompt_is_refused(
    copy: Path, whole: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity of a store holds the wording of its prompt, not only the name."""
    from dataclasses import replace

    from probes.prompts import E5V, NAMED

    with monkeypatch.context() as patch:
        patch.setitem(NAMED, "e5v", replace(E5V, after="\nIn one word: "))
        with pytest.raises(StoreMismatch, match="another wording of the prompt e5v"):
            FreeRet(backbone, Recipe(**RECIPE)).index(["new"], copy)
        with pytest.raises(StoreMismatch, match="another wording of the prompt e5v"):
            FreeRet.load(copy, backbone)
    assert same_search(copy, whole, backbone)


def test_another_model_is_refused(
    copy: Path, whole: Path, backbone: Backbone, tmp_path: Path
) -> None:
    changed = TEXT["llama"].__wrapped__()  # type: ignore[attr-defined]
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1.01)
    changed.config._name_or_path = backbone.name
    other = Backbone.load(changed, tokenizer=backbone.tokenizer)
    with pytest.raises(StoreMismatch, match="weights"):
        FreeRet.load(copy, other)
    with pytest.raises(StoreMismatch, match="weights"):
        FreeRet(other, Recipe(**RECIPE)).index(["new"], copy)
    base = Backbone.load(save_tiny(tmp_path / "base", chat=False))
    with pytest.raises(StoreMismatch, match="tokenizer"):
        FreeRet.load(copy, base)
    assert same_search(copy, whole, backbone)


# --------------------------------------------------------------------------------- bad inputs

GOOD = {
    "one letter": "a",
    "one mebibyte": "the word " * 116_509,
    "NUL": "a\x00b\x00",
    "right to left": "سلام עולם \u202eabc\u202c",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🙂" * 3,
    "combining": "e\u0301" * 50,
    "controls": "\x01\x02\x1b[31m\x7f\x85\u2028",
    "not a character": "\uffff\ufffe\U0010ffff",
    "marker": "\ue0000\ue001 \ue00099\ue001",
    "template": "{{ messages }} {% raw %} <|im_end|>\n<|im_start|>assistant\nA",
    "quotes": "' \" \\ ; DROP TABLE items; --",
    "newlines": "\r\n\n\r" + "a" + "\t" * 40,
}
BAD = {
    "empty": "",
    "white space": " \n\t\u3000",
    "lone surrogate": "a\ud800b",
    "reversed surrogates": "\udc00\ud800",
}


@pytest.mark.parametrize("chat", [True, False])
def test_every_text_is_stored_or_named(chat: bool, tmp_path: Path) -> None:
    tok = tokenizer(chat=chat)
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tok)
    special = {f"special {t.content}": t.content for t in tok.added_tokens_decoder.values()}
    special |= {f"within {t}": f"so{t} it{t}{t}" for t in special.values()}
    good, bad = GOOD | special, BAD
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    items = [{"id": name, "text": text} for name, text in {**good, **bad}.items()]
    done = retriever.index(items, tmp_path / "s", on_error="skip")
    assert set(done.skipped) == set(bad)
    assert all(repr(name) in message for name, message in done.skipped.items())
    hits = retriever.search("the word", top_n=100)
    assert {hit.id: hit.item.text for hit in hits} == good
    assert all(-1.001 <= hit.score <= 1.001 for hit in hits)
    for name, text in bad.items():
        with pytest.raises(BadItem, match=name):
            retriever.index([{"id": name, "text": text}])
        with pytest.raises(BadItem):
            retriever.search(text)


def test_every_text_can_be_a_query_and_be_reranked(backbone: Backbone, whole: Path) -> None:
    retriever, reranker = FreeRet.load(whole, backbone), Reranker(backbone)
    for name, text in GOOD.items():
        assert len(retriever.search(text, top_n=3)) == 3, name
        [score] = reranker.predict([("the word", text)])
        assert 0 <= score <= 1, name
    for text in BAD.values():
        with pytest.raises(BadItem):
            reranker.predict([("the word", text)])


def test_ids_and_metadata_may_hold_any_characters(backbone: Backbone, tmp_path: Path) -> None:
    ids = ["it's", 'a "b"', "a\\b", "a\nb", "%_*", "日本", "🙂", "a\x00b", " ", "i; --", "a" * 5000]
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    retriever.index(
        [{"id": id, "text": "the word", "metadata": {id: [id, None, 1.5]}} for id in ids],
        tmp_path / "s",
    )
    assert {h.id: dict(h.item.metadata) for h in retriever.search("word", top_n=20)} == {
        id: {id: [id, None, 1.5]} for id in ids
    }
    assert [retriever.delete([id]) for id in ids] == [1] * len(ids)
    assert len(Store.open(tmp_path / "s")) == 0


@pytest.mark.parametrize(
    "item",
    [
        {"id": "x", "text": "a", "metadata": 5},
        {"id": "x", "text": 5},
        {"id": "x", "words": "a"},
        {"id": "x", "image": 5},
        {"id": "\ud800", "text": "a"},
    ],
    ids=lambda item: str(sorted(item)) + ascii(item.get("metadata")),
)
def test_an_item_that_cannot_be_stored_is_named(
    item: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    with pytest.raises(BadItem, match=r"'x'|'\\ud800'"):
        retriever.index([item], tmp_path / "s")
    done = retriever.index([item, {"id": "ok", "text": "b"}], tmp_path / "s", on_error="skip")
    assert done.added == 1
    assert len(done.skipped) == 1
