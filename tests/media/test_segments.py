"""Attention of towers over segments, against transformers' one call per segment."""

import itertools
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from probes import Backbone, states_of
from probes.media import perception, segments
from probes.media.segments import attend, segmented
from tests.models import MULTIMODAL
from tests.zoo import ZOO

FAMILIES = ["qwen2.5-vl", "muse-glimmer", "minicpm-v4.6"]
BUILDERS = MULTIMODAL | ZOO


def pictures() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    sizes = ((150, 210), (64, 64), (300, 170))
    return [
        {"image": Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8))}
        for size in sizes
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_towers_give_the_same_features_in_fewer_calls(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = BUILDERS[family]()
    attention, calls = nn.functional.scaled_dot_product_attention, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return attention(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)

    def states() -> tuple[torch.Tensor, int]:
        nonlocal calls
        calls = 0
        backbone = Backbone.load(model, processor=processor)
        return states_of(backbone, pictures(), "norm"), calls

    together, few = states()
    with monkeypatch.context() as patch:
        patch.setattr(perception, "whole_sequences", lambda configs: nullcontext())
        one_by_one, many = states()
    assert few < many
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    assert {config._attn_implementation for config in segmented(model)} == {"sdpa"}


def test_segments_of_many_lengths_do_not_see_each_other() -> None:
    lengths = [3, 1, 4, 3, 1, 5]
    query, key, value = torch.randn(3, 1, 2, sum(lengths), 8, dtype=torch.float64)
    bounds = torch.tensor([0, *np.cumsum(lengths)])
    output, _ = attend(
        nn.Identity(), query, key, value, scaling=0.5, cu_seq_lens_q=bounds, max_length_q=5
    )
    ends = bounds.tolist()
    for start, end in itertools.pairwise(ends):
        scores = query[0, :, start:end] @ key[0, :, start:end].transpose(1, 2) * 0.5
        expected = scores.softmax(-1) @ value[0, :, start:end]
        torch.testing.assert_close(output[0, start:end].transpose(0, 1), expected)


def test_an_implementation_that_the_user_chose_is_left_alone() -> None:
    model, _ = BUILDERS["qwen2.5-vl"]()
    tower = model.base_model.visual
    assert segmented(model) == [tower.config]
    tower.config._attn_implementation = "eager"
    try:
        assert segmented(model) == []
    finally:
        tower.config._attn_implementation = "sdpa"
    assert segments.SEGMENTS not in str(tower.config)
