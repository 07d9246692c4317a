"""The components of a turn, recomputed from plain hooks by projections."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from probes import E5V, Item
from probes.errors import BadSetting
from probes.measure.lexicalization import lexicalization_curves
from probes.microscope.turns import components, turn
from probes.model.backbone import Backbone
from tests.model.test_trace import reference
from tests.models import TEXT

Tiny = Callable[[str], Backbone]
PROMPTS = ["the word", "Yes", E5V.apply(Item("A lighthouse shines over a stormy sea."))]


@pytest.mark.parametrize("name", ["llama", "gemma3-text", "granite", "gpt2"])
@pytest.mark.parametrize(("site", "before"), [("mlp[-1]", "attn[3]"), ("attn[0]", "embed")])
def test_components_are_projections(name: str, site: str, before: str, tiny: Tiny) -> None:
    check_components(name, tiny(name), TEXT[name].__wrapped__(), site, before)


def test_components_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    last = backbone.num_layers - 1
    check_components(name, backbone, backbone.model, "mlp[-1]", f"attn[{last}]")


def check_components(name: str, backbone: Backbone, model: Any, site: str, before: str) -> None:
    found = turn(backbone, PROMPTS, site)
    assert found.site == {"mlp[-1]": f"mlp[{backbone.num_layers - 1}]"}.get(site, site)
    for i, prompt in enumerate(PROMPTS):
        states = reference(name, model, backbone.encode([prompt]))
        word = int(states.logits[0].argmax())
        assert found.words[i] == backbone.tokenizer.decode([word])
        start, end = (states.sites[s][0].double().numpy() for s in (before, found.site))
        row = model.lm_head.weight[word].detach().double().numpy()
        # An orthonormal basis of the plane of state and word, by QR.
        basis, signs = np.linalg.qr(np.stack([start, row], 1))
        parts = basis.T @ (end - start) * np.sign(np.diag(signs)) / np.linalg.norm(start)
        rest = np.sqrt(np.sum((end - start) ** 2) / np.sum(start**2) - np.sum(parts**2))
        np.testing.assert_allclose(
            [found.length[i], found.lexical[i], found.remainder[i]], [*parts, rest], atol=1e-5
        )


def test_the_angle_is_that_of_the_curves(tiny: Tiny) -> None:
    backbone = tiny("llama")
    curves, found = lexicalization_curves(backbone, PROMPTS), turn(backbone, PROMPTS)
    assert np.cos(np.radians(found.angle)).mean() == pytest.approx(curves.alpha_mlp.mean[-1])
    assert found.words == curves.words
    before = turn(backbone, PROMPTS, "attn[-1]")
    grown = curves.norm_mlp.mean[-1] / curves.norm_attn.mean[-1]
    assert found.growth.mean() == pytest.approx(grown, rel=0.05)
    assert not np.allclose(before.angle, found.angle)


def test_shares_of_known_writes() -> None:
    """A state along the first axis; a word between the first and the second axis."""
    before = torch.tensor([[2.0, 0, 0, 0]] * 3).double()
    row = torch.tensor([[5.0, 5, 0, 0]] * 3).double()
    after = before + torch.tensor([[4.0, 0, 0, 0], [-2, -2, 0, 0], [0, 2, 2, 4]]).double()
    expected = [[2, 0, 0], [-1, -1, 0], [0, 1, 5**0.5]]
    found = components(before, after, row)
    torch.testing.assert_close(found, torch.tensor(expected).double())


def test_shares_sum_to_one_and_show_themselves(tiny: Tiny) -> None:
    found = turn(tiny("qwen2"), PROMPTS)
    np.testing.assert_allclose(sum(found.shares.values()), 1)
    lexical = found.shares["lexical"] / (1 - found.shares["length"])
    np.testing.assert_allclose(found.lexical_share, lexical)
    intervals = found.intervals(seed=1)
    assert intervals["angle"].low < intervals["angle"].mean < intervals["angle"].high
    assert intervals["length share"].mean == pytest.approx(found.shares["length"].mean())
    assert repr(found).startswith("Turn(mlp[3], 3 prompts, ")
    table = found.to_dataframe()
    assert table["word"].tolist() == found.words
    assert table["angle"].tolist() == found.angle.tolist()


def test_a_turn_needs_prompts_and_a_sublayer(tiny: Tiny) -> None:
    with pytest.raises(BadSetting, match="no prompts to measure"):
        turn(tiny("llama"), [])
    for site in ("embed", "norm"):
        with pytest.raises(BadSetting, match=f"{site} is not the end of a sublayer"):
            turn(tiny("llama"), PROMPTS, site)
