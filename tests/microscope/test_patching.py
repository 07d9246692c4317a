"""Patched forwards are those of plain hooks, and shares are what their definition says."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probes.errors import BadSetting
from probes.microscope import patching as module
from probes.microscope.patching import patch_grid
from probes.model.backbone import Backbone
from tests.model.test_interventions import layer_of
from tests.model.test_trace import reference
from tests.models import MULTIMODAL
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
CLEAN, CORRUPTED = "the word of the image", "the word of one user"


def by_hooks(name: str, backbone: Backbone, layer: int, column: int) -> tuple[float, tuple]:
    """The share restored by the layer's output at a position, from plain hooks on one input."""
    clean, corrupted = backbone.encode([CLEAN]), backbone.encode([CORRUPTED])
    sources = reference(name, backbone.model, clean)
    before = reference(name, backbone.model, corrupted)
    state = sources.everywhere[f"mlp[{layer}]"][0, column]

    def hook(module: Any, args: tuple, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream[0, column] = state

    handle = layer_of(name, backbone.model, f"mlp[{layer}]").register_forward_hook(hook)
    try:
        patched = reference(name, backbone.model, corrupted).logits[0]
    finally:
        handle.remove()
    right, wrong = (backbone.encoder.plain.tokenize(answer)[0] for answer in ("A", "B"))

    def difference(logits: Tensor) -> float:
        return (logits[right] - logits[wrong]).item()

    ends = difference(sources.logits[0]), difference(before.logits[0])
    return (difference(patched) - ends[1]) / (ends[0] - ends[1]), ends


@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "gpt2", "opt", "olmo2"])
def test_shares_are_those_of_plain_hooks(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    grid = patch_grid(backbone, CLEAN, CORRUPTED, ("A", "B"), positions="all", part="state")
    count = len(backbone.row(CORRUPTED))
    assert grid.values.shape == (4, 2, count)
    assert "".join(grid.tokens) == CORRUPTED
    for layer, column in ((0, count - 1), (1, count - 2), (2, count - 1)):
        share, ends = by_hooks(name, backbone, layer, column)
        assert (grid.clean, grid.corrupted) == pytest.approx(ends, abs=1e-5)
        assert grid.values[layer, 1, column] == pytest.approx(share, abs=1e-4)


def test_what_must_be_restored_is(tiny: Tiny) -> None:
    """All of it by the last state, nothing before the inputs differ, whatever the batches."""
    backbone = tiny("qwen2")
    grid = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="state")
    np.testing.assert_allclose(grid.values[-1, 1, -1], 1, atol=1e-5)
    np.testing.assert_allclose(grid.values[..., :3], 0, atol=1e-5)
    np.testing.assert_allclose(grid.values[-1, :, :-1], 0, atol=1e-5)
    last = patch_grid(backbone, CLEAN, CORRUPTED, part="state")
    assert last.tokens == grid.tokens[-1:]
    np.testing.assert_allclose(last.values, grid.values[..., -1], atol=1e-5)


def test_batches_do_not_matter(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("gemma3-text")
    grid = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="write")
    monkeypatch.setattr(module, "budget", lambda backbone: 3 * len(backbone.row(CORRUPTED)))
    few = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="write")
    np.testing.assert_allclose(few.values, grid.values, atol=1e-4)


def test_a_write_leaves_what_came_before_it(tiny: Tiny) -> None:
    """The first attention writes from the same stream where the inputs have the same tokens."""
    backbone = tiny("llama")
    state = patch_grid(backbone, "the word", "one word", ("A", "B"), positions="all", part="state")
    write = patch_grid(backbone, "the word", "one word", ("A", "B"), positions="all", part="write")
    assert write.values[0, 0, 1] == pytest.approx(state.values[0, 0, 1], abs=1e-4)
    assert abs(write.values[0, 0, 0] - state.values[0, 0, 0]) > 0.01


@pytest.mark.parametrize("name", ["qwen2.5-vl", "gemma3-vl"])
def test_pictures_can_be_patched(name: str, tiny: Tiny) -> None:
    assert name in MULTIMODAL
    items = items_for(name)
    grid = patch_grid(tiny(name), items["picture"], "the word", ("A", "B"), part="state")
    assert grid.values.shape == (4, 2)
    np.testing.assert_allclose(grid.values[-1, 1], 1, atol=1e-5)


def test_the_answer_of_smollm2_is_restored(smollm2: Backbone) -> None:
    """By the attention that carries the country to the end of the prompt, as by plain hooks."""
    clean, corrupted = "The capital of France is", "The capital of Italy is"
    grid = patch_grid(smollm2, clean, corrupted)
    assert grid.answers == (" Paris", " Rome")
    assert grid.values.shape == (30, 2)
    layer, column = np.unravel_index(grid.values.argmax(), grid.values.shape)
    branch = smollm2.model.model.layers[layer].get_submodule(("self_attn", "mlp")[column])
    kept: list[Tensor] = []

    def keep(module: Any, args: tuple, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    def put(module: Any, args: tuple, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        stream[:, -1] = kept[0][:, -1]

    logits = []
    with torch.no_grad():
        for text, hook in ((clean, keep), (corrupted, put), (corrupted, None)):
            handle = branch.register_forward_hook(hook) if hook else None
            try:
                logits.append(smollm2.model(**smollm2.encode([text]).inputs).logits[0, -1])
            finally:
                if handle:
                    handle.remove()
    right, wrong = (smollm2.encoder.plain.tokenize(answer)[0] for answer in grid.answers)
    reference, patched, start = ((found[right] - found[wrong]).item() for found in logits)
    assert grid.values.max() == pytest.approx((patched - start) / (reference - start), abs=1e-3)
    assert grid.values.max() > 0.5


def test_mistakes_are_named(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadSetting, match="clean has 1 tokens and corrupted 2"):
        patch_grid(backbone, "the", "the word", ("A", "B"), positions="all")
    assert patch_grid(backbone, "the", "the word", ("A", "B")).values.shape == (4, 2)
    with pytest.raises(BadSetting, match="both answers begin with the token 'A'"):
        patch_grid(backbone, CLEAN, CORRUPTED, ("A", "A"))
    with pytest.raises(BadSetting, match="two words"):
        patch_grid(backbone, CLEAN, CORRUPTED, ("A", ""))
    with pytest.raises(BadSetting, match="nothing is restored"):
        patch_grid(backbone, CLEAN, CLEAN, ("A", "B"))
    with pytest.raises(BadSetting, match="positions must be one of"):
        patch_grid(backbone, CLEAN, CORRUPTED, positions="some")  # type: ignore[arg-type]


@torch.no_grad()
def test_the_model_is_left_as_it_is(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode([CLEAN])
    before = backbone.model(**batch.inputs).logits
    patch_grid(backbone, CLEAN, CORRUPTED, positions="all")
    assert torch.equal(backbone.model(**batch.inputs).logits, before)
