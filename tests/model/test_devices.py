"""A model on two devices computes the same as on one, wherever states of both devices meet."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from freeret.check import check
from freeret.embedder import Embedder
from freeret.evaluate.systems.registry import Pooled
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import Backbone, Item, framing_bias, lexicalization_curves, record, synonym_similarity
from probes.model.batches.states import prompted_states
from probes.prompts import NAMED
from tests.devices import FIRST, SECOND, on_two_devices, put
from tests.models import TEXT, tokenizer

Tiny = Callable[[str], Backbone]
WORDS = ["the word", "one of the image", "Yes", "what means a text"]


@pytest.fixture(scope="module")
def split() -> Iterator[Backbone]:
    with on_two_devices(TEXT["llama"].__wrapped__()) as model:
        yield Backbone.load(model, tokenizer=tokenizer())


def test_the_two_devices_do_not_mix(split: Backbone) -> None:
    """Otherwise the tests below would test nothing."""
    with pytest.raises(RuntimeError, match="on several devices"):
        put(torch.ones(2), FIRST) + put(torch.ones(2), SECOND)
    states = record(split, split.encode(WORDS), ["attn[0]", "mlp[-1]", "norm"], logits=True)
    assert states.logits is not None
    found = [tensor.device for tensor in (*states.values(), states.logits)]
    assert found == [FIRST, SECOND, SECOND, SECOND]


RECIPE = Recipe("e5v", "attn[-1]", "whiten", "mcq")
USES: dict[str, Callable[[Backbone], Any]] = {
    "anatomy": lambda b: b.anatomy,
    "states": lambda b: prompted_states(
        b, NAMED["e5v"], [Item(w) for w in WORDS], "query", ["attn[0]", "mlp[-1]", "norm"]
    ),
    "vectors": lambda b: Embedder(b, "mlp[1]", ["e5v", "control"]).encode(WORDS),
    "pooled": lambda b: Pooled("mean", b).encode([Item(word) for word in WORDS]),
    "judgements": lambda b: Reranker(b, calibrate=True).margins([("a text", w) for w in WORDS]),
    "curves": lambda b: lexicalization_curves(b, WORDS).to_json(),
    "synonyms": lambda b: synonym_similarity(b, ["attn[0]", "attn[-1]", "norm"]),
    "framing": lambda b: framing_bias(b, "mcq"),
    "generation": lambda b: b.generate("the word", 4),
    "check": lambda b: [(c.what, c.passed) for c in check(b)],
}


@pytest.mark.parametrize("name", USES)
def test_two_devices_compute_the_same_as_one(name: str, split: Backbone, tiny: Tiny) -> None:
    found, expected = (USES[name](backbone) for backbone in (split, tiny("llama")))
    assert str(found) == str(expected)
