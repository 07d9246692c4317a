"""Sizing: the formula by hand, and tokens counted as they are computed."""

import time

import pytest

from freeret.embedder import Embedder
from freeret.scale import sizing
from freeret.scale.sizing import Sizing, computed, items_per_second, tokens_per_second
from probes import Backbone, Item
from tests.samples import picture


def test_the_formula_by_hand() -> None:
    """A million items of 36 tokens at 1,000 tokens/s are ten hours."""
    one = Sizing(10**6, 1000.0 / 36, dimension=576, payload=300)
    assert one.hours == pytest.approx(10)
    assert one.memory == 2_304_000_000
    assert one.disk == 2_604_000_000
    assert Sizing(10**6, 1000.0 / 36, dimension=576, devices=8).hours == pytest.approx(1.25)


def test_a_store_bounds_what_devices_write() -> None:
    """64 devices at 100 items/s, and a store that takes 1,000 items/s: ten times as long."""
    many = Sizing(10**6, 100.0, dimension=576, devices=64, written_per_second=1000.0)
    assert many.hours == pytest.approx(10**6 / 1000 / 3600)
    few = Sizing(10**6, 100.0, dimension=576, devices=2, written_per_second=1000.0)
    assert few.hours == pytest.approx(10**6 / 200 / 3600)


def test_what_rows_share_is_not_counted(smollm2: Backbone) -> None:
    embedder = Embedder(smollm2, prompt="prompteol")
    rows = [embedder.rows(Item(text))[0] for text in ("one two three", "four five")]
    first, second = (row.ids for row in rows)
    shared = next(i for i, id in enumerate(first) if second[i] != id)
    assert shared > 0
    assert computed(rows) == sum(map(len, rows)) - 2 * shared


def test_throughput_is_that_of_this_machine(tiny) -> None:
    """Within a wide margin, for the machine has other work."""
    backbone = tiny("llama")
    said = tokens_per_second(backbone)
    embedder = Embedder(backbone, prompt="prompteol")
    rows = [embedder.rows(Item(f"sentence {k} of a few words")) for k in range(400)]
    start = time.perf_counter()
    embedder.encode_rows(rows)
    found = computed([row for (row,) in rows]) / (time.perf_counter() - start)
    assert said / 10 < found < said * 10


def test_no_picture_is_found_in_a_cache(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many each time, and each of them another, or the tower would not be measured."""
    monkeypatch.setattr(sizing, "MIN_SECONDS", 0.05)
    backbone, made = tiny("llava"), []

    def make(number: int) -> Item:
        made.append(number)
        return Item(images=[picture(64, 64, seed=1000 + number)])

    start = time.perf_counter()
    said = items_per_second(backbone, make)
    seconds = time.perf_counter() - start
    assert made == list(range(len(made)))
    assert len(made) in (2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert said > 1 / seconds
