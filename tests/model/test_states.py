"""States of many texts at once are those that `record` gives for each of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probes import E5V, Backbone, Item, Loading, all_sites, record, states_of
from probes.errors import BadItem
from probes.model.batches import ahead, states
from tests.models import TEXT, tokenizer
from tests.samples import items_for, picture

Tiny = Callable[[str], Backbone]
SITES = ["norm", "attn[-1]", "mlp[0]"]
SOURCES: list[Any] = [
    *("the word " * length for length in (1, 9, 3, 12, 2, 5)),
    Item("one of them"),
    {"text": "of the image"},
    E5V.apply(Item("the word")),
    "Yes",
]


def one_by_one(backbone: Backbone, sources: list[Any], sites: list[Any]) -> torch.Tensor:
    each = [record(backbone, source, sites) for source in sources]
    return torch.stack([torch.stack([s[site][0].float() for site in sites]) for s in each])


def test_states_of_many_sources_are_those_of_each(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("llama")
    expected = one_by_one(backbone, SOURCES, SITES)
    blocks: list[int] = []
    device_states = states.device_states

    def counted(backbone: Backbone, rows: list[Any], sites: list[Any], **bar: Any) -> torch.Tensor:
        blocks.append(len(rows))
        return device_states(backbone, rows, sites, **bar)

    monkeypatch.setattr(ahead, "BATCHES", 1)
    monkeypatch.setattr(backbone, "loading", Loading(token_budget=60))
    monkeypatch.setattr(states, "device_states", counted)
    found = states_of(backbone, SOURCES, SITES)
    assert blocks == [6, 4], "so that not all are in memory at once"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_states_of_pictures(tiny: Tiny) -> None:
    backbone = tiny("qwen2-vl")
    items, sites = list(items_for("qwen2-vl").values()), all_sites(backbone)
    expected = one_by_one(backbone, items, sites)
    torch.testing.assert_close(states_of(backbone, items, sites), expected, rtol=1e-4, atol=1e-4)


def test_states_of_one_source_of_none_and_in_half_precision(tiny: Tiny) -> None:
    assert states_of(tiny("llama"), "the word", "norm").shape == (1, 1, 64)
    assert states_of(tiny("llama"), [], SITES).shape == (0, 3, 64)
    half = Backbone.load(TEXT["llama"].__wrapped__().bfloat16(), tokenizer=tokenizer())
    assert states_of(half, ["a", "b"], "norm").dtype == torch.float32


def test_a_source_that_cannot_be_read_is_named_by_its_place(tiny: Tiny) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadItem, match=r"^item 3 of the list has no content"):
        states_of(backbone, ["a", "b", "c", ""], "norm")
    with pytest.raises(BadItem, match=r"^item 2 of the list: this backbone reads text only"):
        states_of(backbone, ["a", "b", picture()], "norm")
    with pytest.raises(BadItem, match=r"^item 1 of the list: this backbone reads text only"):
        backbone.encode(["a", E5V.apply(picture())])
