"""Results come in order, errors at their place, and no more waits than fits in memory."""

import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from probes import Backbone, Item, Loading
from probes.media.cache import Cache, Processed
from probes.media.silence import silence
from probes.model.batches import ahead as module
from probes.model.batches.ahead import ahead, row_blocks
from tests.samples import picture


def uneven(value: int) -> int:
    time.sleep(0.002 * (value % 3))
    return value


def test_results_come_in_the_order_of_the_values() -> None:
    assert list(ahead(uneven, range(50), threads=4)) == list(range(50))
    assert list(ahead(uneven, [])) == []


def test_an_error_is_raised_at_its_place_and_ends_the_threads() -> None:
    def function(value: int) -> int:
        if value == 20:
            raise ValueError("the twentieth")
        return uneven(value)

    before = threading.active_count()
    results: list[int] = []
    with pytest.raises(ValueError, match="the twentieth"):
        results.extend(ahead(function, range(10**6), threads=4))
    assert results == list(range(20))
    assert threading.active_count() == before


def test_results_are_made_before_they_are_asked_for_and_bounded_in_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAITING", 8)
    made: list[int] = []
    results = ahead(lambda value: made.append(value) or value, range(100), threads=2)
    for asked in range(20):
        assert next(results) == asked
        assert len(made) <= asked + 1 + 8
    wait_for(lambda: len(made) >= 20 + 7)


def test_results_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most one more for each thread than fits."""
    monkeypatch.setattr(module, "WAITING_BYTES", 1000)
    made: list[int] = []
    results = ahead(
        lambda value: made.append(value) or value, range(100), nbytes=lambda _: 400, threads=2
    )
    for asked in range(100):
        assert next(results) == asked
        assert len(made) <= asked + 1 + 3 + 2
    huge = ahead(uneven, range(30), nbytes=lambda _: 10**9, threads=3)
    assert list(huge) == list(range(30)), "one that exceeds the bound alone still passes"


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came true")


def test_threads_have_no_threads_of_torch_and_others_keep_theirs() -> None:
    def threads(_: int) -> int:
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert set(ahead(threads, range(20), threads=3)) == {1}
        assert torch.get_num_threads() == 2
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_blocks_are_bounded_by_tokens_and_by_bytes(
    tiny: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("qwen2-vl")
    monkeypatch.setattr(backbone, "loading", Loading(token_budget=100))
    texts = [[backbone.row("the word " * 10)] for _ in range(25)]
    monkeypatch.setattr(module, "BATCHES", 2)
    blocks = list(row_blocks(backbone, texts, list))
    assert [row for block in blocks for row in block] == texts
    assert len(blocks) > 1
    for block in blocks:
        tokens = [len(row) for (row,) in block]
        assert sum(tokens[:-1]) < 200 <= sum(tokens) or block is blocks[-1]
    # Seeds of their own: where another test left features in the cache, a picture has their size.
    pictures = [[backbone.row(Item(images=[picture(seed=500 + k)]))] for k in range(6)]
    monkeypatch.setattr(module, "BATCHES", 1000)
    monkeypatch.setattr(module, "WAITING_BYTES", 3 * pictures[0][0].nbytes)
    assert [len(block) for block in row_blocks(backbone, pictures, list)] == [3, 3]


def test_results_of_a_block_are_waited_for_when_the_next_is_launched(
    tiny: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, events = tiny("llama"), list[str]()

    def run(rows: list[Any], bar: str | None) -> torch.Tensor:
        events.append("launch")
        return torch.tensor([[float(len(row))] for (row,) in rows])

    def to_host(tensor: torch.Tensor) -> Callable[[], torch.Tensor]:
        return lambda: events.append("wait") or tensor

    monkeypatch.setattr(backbone, "loading", Loading(token_budget=1))
    monkeypatch.setattr(module, "BATCHES", 1)
    monkeypatch.setattr(module, "to_host", to_host)
    texts = ["the " * n for n in (3, 1, 2)]
    found = module.blockwise(backbone, lambda text: [backbone.row(text)], texts, run)
    assert events == ["launch", "launch", "wait", "launch", "wait", "wait"]
    assert found.flatten().tolist() == [len(backbone.row(text)) for text in texts]


def test_two_threads_that_need_the_same_medium_process_it_once() -> None:
    cache, made, started = Cache(0), [], threading.Event()
    value = Processed("x", {}, {})

    def make() -> Processed:
        made.append(1)
        started.set()
        time.sleep(0.05)
        return value

    def second(_: int) -> Any:
        started.wait()
        return cache.get_or_make("a", make)

    thread = threading.Thread(target=lambda: cache.get_or_make("a", make))
    thread.start()
    assert all(found is value for found in ahead(second, range(3), threads=3))
    thread.join()
    assert len(made) == 1


def test_warnings_are_silenced_in_threads_and_heard_afterwards() -> None:
    def warn(value: int) -> int:
        with silence():
            time.sleep(0.001 * (value % 4))
            warnings.warn("of a decoder", stacklevel=1)
        return value

    filters = list(warnings.filters)
    assert list(ahead(warn, range(40), threads=4)) == list(range(40))
    assert list(warnings.filters) == filters
