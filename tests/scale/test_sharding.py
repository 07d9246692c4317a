"""Shards: every item in exactly one, whoever asks; processes beside each other lose nothing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.sharding import Shard
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Backbone, Item
from probes.errors import BadItem, BadSetting
from tests.models import TEXT, tokenizer

RECIPE = Recipe("e5v", "attn[-1]", "centre", "mcq")
IDENTITY: dict[str, Any] = {"recipe": {}}


def texts(count: int) -> list[dict[str, Any]]:
    return [{"id": f"i{k:03}", "text": f"{k} of {'the word ' * (k % 5)}"} for k in range(count)]


def stream() -> list[Any]:
    """Items with ids, items without, and what cannot be read."""
    return [
        *texts(200),
        *(f"without id {k}" for k in range(40)),
        BadItem("row 7: no text", "row 7"),
        " ",
        5,
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_every_item_is_in_one_shard(n: int) -> None:
    parts = [list(Shard(k, n).of(stream())) for k in range(1, n + 1)]
    assert sum(map(len, parts)) == len(stream())
    named = [v.text if isinstance(v, Item) else str(v) for part in parts for v in part]
    assert len(set(named)) == len(stream())
    assert all(len(part) > 0.5 * len(stream()) / n for part in parts), "of about one size"


@pytest.mark.parametrize("text", ["", "1", "0/4", "5/4", "1/0", "-1/4", "a/b", "1/2/3", "1.0/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="write k/n"):
        Shard.parse(text)


def test_shards_make_the_store_that_one_run_makes(tmp_path: Path) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    whole = FreeRet(backbone, RECIPE)
    whole.index(texts(150), tmp_path / "whole")
    counts = [
        FreeRet(backbone, RECIPE).index(texts(150), tmp_path / "s", shards=f"{k}/3").added
        for k in (1, 2, 3)
    ]
    assert sum(counts) == 150
    assert min(counts) > 20
    opened = FreeRet.load(tmp_path / "s", backbone)
    known = opened.corpus.store.hashes()
    assert [sum(id in Shard(k, 3) for id in known) for k in (1, 2, 3)] == counts
    assert known == whole.corpus.store.hashes()
    assert opened.index([]).added == 0
    assert opened.corpus.store.geometry() is not None
    for query in ("the word", "17 of"):
        found, expected = (r.search(query, top_n=150) for r in (opened, whole))
        assert [h.id for h in found] == [h.id for h in expected]
        np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-5)


# -------------------------------------------------------------------- many writers, one store


def row(k: int, by: str) -> Record:
    return Record(f"{k:03}", by, "text", "[]", [], "{}", np.ones(4, np.float32))


def write(place: Path, by: str, begin: int, end: int) -> None:
    """What one process does: open, commit four at a time, and compact in between."""
    store = Store.create(place, IDENTITY, 4)
    for k in range(begin, end, 4):
        store.write([row(i, by) for i in range(k, min(k + 4, end))])
        if k % 16 == 0:
            store.compact()


@pytest.mark.parametrize(
    "ranges",
    [((0, 60), (60, 120), (120, 180)), ((0, 60), (0, 60), (30, 60))],
    ids=["disjoint", "overlapping"],
)
def test_writers_beside_each_other_lose_and_double_nothing(
    ranges: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    """From an empty place on: one makes the store, and every commit of another stays."""
    with ThreadPoolExecutor(len(ranges)) as pool:
        done = [pool.submit(write, tmp_path / "s", str(n), *r) for n, r in enumerate(ranges)]
        for each in done:
            each.result()
    expected = sorted({f"{k:03}" for begin, end in ranges for k in range(begin, end)})
    assert Store.open(tmp_path / "s").vectors().ids == expected


def test_a_store_that_was_opened_before_does_not_double_either(tmp_path: Path) -> None:
    """Its view of the table is older than what another has written meanwhile."""
    first = Store.create(tmp_path, IDENTITY, 4)
    second = Store.open(tmp_path)
    assert first.write([row(0, "first")]).added == 1
    second.write([row(0, "second")])
    assert Store.open(tmp_path).vectors().ids == ["000"]
