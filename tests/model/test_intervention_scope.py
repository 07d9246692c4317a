"""An intervention ends with its block, and nothing computed in it is used outside."""

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.errors import BadSetting
from probes.model.batches.remembering import remembered_states, remembering
from probes.model.batches.sharing import share_error
from probes.model.batches.states import states_of
from probes.model.interventions import intervene, scale, skip
from probes.model.trace import record
from tests.model.test_trace import TEXTS, Tiny, relative

SITES = ["attn[1]", "mlp[1]", "attn[-1]", "mlp[-1]"]


def hooks(model: Any) -> list[Any]:
    return [
        (len(m._forward_pre_hooks), len(m._forward_hooks), id(m.__dict__.get("forward")))
        for m in model.modules()
    ]


@pytest.mark.parametrize("name", ["llama", "qwen2.5-vl"])
def test_nothing_is_left_behind(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    batch = backbone.encode(TEXTS)
    states = record(backbone, batch, "all", positions="all", logits=True)
    # After a first trace, in which nnsight wraps the modules.
    before, weights = hooks(backbone.model), backbone.weights_digest()
    fingerprint = backbone.fingerprint()

    def fail() -> None:
        with intervene(backbone, dict.fromkeys(SITES, skip)):
            record(backbone, batch, ["norm"])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    again = record(backbone, batch, "all", positions="all", logits=True)
    assert all(torch.equal(states[site], again[site]) for site in states)
    assert hooks(backbone.model) == before
    assert (backbone.interventions, backbone.weights_digest()) == ([], weights)
    assert backbone.fingerprint() == fingerprint


def test_an_intervention_that_fails_leaves_nothing_behind(tiny: Tiny) -> None:
    backbone = tiny("llama")
    expected = record(backbone, TEXTS, ["norm"])["norm"]

    def fail(before: Tensor, after: Tensor) -> Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), intervene(backbone, {"attn[0]": fail}):
        record(backbone, TEXTS, ["norm"])
    assert torch.equal(record(backbone, TEXTS, ["norm"])["norm"], expected)


def test_other_threads_wait_for_the_end_of_the_block(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    expected = record(backbone, batch, ["norm"])["norm"]
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(record(backbone, batch, "norm")["norm"]))
    with intervene(backbone, {"mlp[0]": skip}):
        thread.start()
        inside = record(backbone, batch, ["norm"])["norm"]
        assert found == []
    thread.join()
    assert torch.equal(found[0], expected)
    assert not torch.equal(inside, expected)


def test_states_of_many_texts_are_those_of_each(tiny: Tiny) -> None:
    """They share a prefix without interventions, which was computed before the block."""
    backbone = tiny("qwen2")
    texts = [f"one word of the image is as long as it must be: {i}" for i in range(4)]
    usual = states_of(backbone, texts, ["norm"])
    assert share_error(backbone) is None
    with intervene(backbone, {"mlp[1]": scale(2.0)}, positions=slice(2, 5)):
        found = states_of(backbone, texts, ["norm"])
        each = torch.cat([record(backbone, text, ["norm"])["norm"] for text in texts])
    assert relative(found[:, 0], each) <= 1e-5
    assert relative(usual[:, 0], each) > 1e-3
    assert relative(states_of(backbone, texts, ["norm"])[:, 0], usual[:, 0]) <= 1e-5


def test_remembered_states_are_not_those_of_an_intervention(tiny: Tiny) -> None:
    backbone = tiny("llama")
    rows = backbone.rows(TEXTS)
    with remembering():
        usual = remembered_states(backbone, rows, ["norm"])
        with intervene(backbone, {"mlp[1]": skip}):
            inside = remembered_states(backbone, rows, ["norm", "mlp[1]"])
        again = remembered_states(backbone, rows, ["norm", "mlp[1]"])
    assert torch.equal(usual[:, 0], again[:, 0])
    assert relative(inside[:, 1], again[:, 1]) > 1e-3


def test_a_batch_that_continues_a_prefix_is_refused(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode(TEXTS)
    batch.inputs["attention_mask"] = batch.inputs["attention_mask"][:, None, None]
    with (
        intervene(backbone, {"mlp[1]": skip}),
        pytest.raises(BadSetting, match="needs whole rows"),
    ):
        record(backbone, batch, ["norm"])
