"""States of many texts at once are those that `record` gives for each of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from probes import E5V, Backbone, Item, all_sites, record, states_of
from tests.models import TEXT, tokenizer
from tests.samples import items_for

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
    states = [record(backbone, source, sites) for source in sources]
    return torch.stack([torch.stack([s[site][0].float() for site in sites]) for s in states])


def test_states_of_many_are_those_of_each(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("llama")
    expected = one_by_one(backbone, SOURCES, SITES)
    tokenised: list[int] = []
    rows = Backbone.rows
    monkeypatch.setattr("probes.model.states.BLOCK", 4)
    monkeypatch.setattr(
        Backbone, "rows", lambda self, given: tokenised.append(len(given)) or rows(self, given)
    )
    found = states_of(backbone, SOURCES, SITES)
    assert tokenised == [4, 4, 2], "so that not all are in memory at once"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_states_of_pictures(tiny: Tiny) -> None:
    backbone = tiny("qwen2-vl")
    items, sites = list(items_for("qwen2-vl").values()), all_sites(backbone.num_layers)
    expected = one_by_one(backbone, items, sites)
    torch.testing.assert_close(states_of(backbone, items, sites), expected, rtol=1e-4, atol=1e-4)


def test_states_of_one_of_none_and_in_half_precision(tiny: Tiny) -> None:
    assert states_of(tiny("llama"), "the word", "norm").shape == (1, 1, 64)
    assert states_of(tiny("llama"), [], SITES).shape == (0, 3, 64)
    half = Backbone.load(TEXT["llama"].__wrapped__().bfloat16(), tokenizer=tokenizer())
    assert states_of(half, ["a", "b"], "norm").dtype == torch.float32
