"""Recorded attention is the one that the model itself returns, in every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.errors import BadSetting, UnsupportedBackbone
from probes.model.anatomy import attention_modules
from probes.model.backbone import Backbone
from probes.model.encoding import Batch
from probes.model.trace import attention_patterns, record, record_attention
from tests.model.test_trace import sources_for
from tests.models import MULTIMODAL, TEXT
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
TEXTS = ["the word", "one of the other words", "of"]


def returned(name: str, batch: Batch) -> list[Tensor]:
    """The attention weights of a fresh copy of the model, by its own account."""
    built: Any = (TEXT | MULTIMODAL)[name].__wrapped__()
    model = built[0] if isinstance(built, tuple) else built
    model.set_attn_implementation("eager")
    return weights_of(model, batch)


def weights_of(model: Any, batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(**batch.inputs, use_cache=False, output_attentions=True)
    return list(outputs.attentions)


@pytest.mark.parametrize("name", TEXT)
def test_attention_is_that_which_the_model_returns(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    layers = list(range(backbone.num_layers))
    batch = backbone.collate([row.predicting([5, 6, 7]) for row in backbone.rows(TEXTS)])
    rows, columns = torch.tensor(batch.read).flatten(0, 1).T
    found = record_attention(backbone, batch, layers)
    for weights, expected in zip(found, returned(name, batch), strict=True):
        torch.testing.assert_close(weights, expected[rows, :, columns])
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_attention_to_media_is_that_which_the_model_returns(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    batch = backbone.encode(list(items_for(name).values()))
    (weights,) = record_attention(backbone, batch, [1])
    torch.testing.assert_close(weights, returned(name, batch)[1][:, :, -1])


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_patterns_are_those_of_every_token(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    items: list[Any] = [*items_for(name).values()] if name in MULTIMODAL else []
    batch = backbone.encode([*TEXTS, *items])
    check_patterns(backbone, batch, returned(name, batch))


def test_patterns_of_real_weights(
    real: tuple[str, Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, backbone = real
    batch = backbone.encode(sources_for(name))
    config = backbone.model.config.get_text_config(decoder=True)
    with monkeypatch.context() as patch:
        patch.setattr(config, "_attn_implementation", "eager")
        expected = weights_of(backbone.model, batch)
    check_patterns(backbone, batch, expected)


def check_patterns(backbone: Backbone, batch: Batch, expected: list[Tensor]) -> None:
    found = attention_patterns(backbone, batch, [-1, 0], heads=[2, 0])
    assert list(found) == [0, backbone.num_layers - 1]
    for layer, rows in found.items():
        assert [row.shape for row in rows] == [(2, length, length) for length in batch.lengths]
        for row, weights in zip(rows, expected[layer], strict=True):
            length = row.shape[-1]
            assert (row - weights[[2, 0], -length:, -length:]).abs().max() <= 1e-6


def test_patterns_that_there_are_not(tiny: Tiny) -> None:
    backbone = tiny("llama")
    assert attention_patterns(backbone, "the word", 1)[1][0].shape == (4, 2, 2)
    with pytest.raises(BadSetting, match="layer 1 has heads 0 to 3, not 4"):
        attention_patterns(backbone, TEXTS, [1], heads=[4])
    with pytest.raises(BadSetting, match="this backbone has 4 layers"):
        attention_patterns(backbone, TEXTS, [4])
    with pytest.raises(BadSetting, match="at least one layer"):
        attention_patterns(backbone, TEXTS, [])


def test_states_are_the_same_before_and_after(tiny: Tiny) -> None:
    backbone = tiny("qwen3")
    batch = backbone.encode(TEXTS)
    before = record(backbone, batch, ["norm"])["norm"]
    implementation = backbone.model.config._attn_implementation
    record_attention(backbone, batch, [0])
    assert backbone.model.config._attn_implementation == implementation == "sdpa"
    assert torch.equal(record(backbone, batch, ["norm"])["norm"], before)


def test_nothing_runs_after_the_deepest_layer(tiny: Tiny) -> None:
    backbone = tiny("llama")
    layers = backbone.model.get_submodule(backbone.anatomy.layers)
    ran: list[int] = []
    handles = [
        layer.register_forward_pre_hook(lambda *_, place=place: ran.append(place))
        for place, layer in enumerate(layers)
    ]
    record_attention(backbone, backbone.encode(TEXTS), [0])
    for handle in handles:
        handle.remove()
    assert ran == [0]


def test_a_layer_without_attention_is_an_error(tiny: Tiny) -> None:
    backbone = tiny("llama")
    with pytest.raises(UnsupportedBackbone, match="layer 99 of"):
        record_attention(backbone, backbone.encode(TEXTS), [99])
    assert 99 not in attention_modules(backbone.model, backbone.anatomy)
