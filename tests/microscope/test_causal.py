"""`figures/causal.py` on a tiny model: each change of a write is what it is called."""

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from probes import Backbone, Item, record
from probes.model.interventions import intervene
from tests.layout import ROOT

Tiny = Callable[[str], Backbone]
ITEMS = [Item(text) for text in ("the word", "Yes", "one of the image", "No")]


@pytest.fixture(scope="module")
def causal() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "figures"))
        return importlib.import_module("causal")


def test_a_changed_last_mlp_is_that_of_an_intervention(causal: Any, tiny: Tiny) -> None:
    """The states that follow need no forward, but are those of one."""
    backbone = tiny("gemma3-text")
    ends, turns = causal.measure_ends(backbone, ITEMS)
    plain = ends["unchanged"]
    rows = backbone.word_rows(plain.words)
    batch = backbone.encode(ITEMS)
    usual = record(backbone, batch, "norm", logits=True).logits
    assert usual is not None
    assert torch.equal(usual.argmax(-1), plain.words)
    for name, change in causal.CHANGES.items():
        with intervene(backbone, {"mlp[-1]": change(rows)}):
            states = record(backbone, batch, causal.END, logits=True)
        assert states.logits is not None
        expected = torch.stack([states[site] for site in causal.END], dim=1)
        found = ends[f"last MLP {name}"]
        torch.testing.assert_close(found.states, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.words, states.logits.argmax(-1))
        own = states.logits.softmax(-1).gather(1, plain.words[:, None])[:, 0]
        torch.testing.assert_close(found.probability, own)
        assert not torch.allclose(found.states[:, 1], plain.states[:, 1])
    with intervene(backbone, {"mlp[-2]": causal.CHANGES["less its word"](rows)}):
        norm = record(backbone, batch, "norm")["norm"]
    torch.testing.assert_close(ends["MLP before less its word"].states[:, 2], norm)
    assert list(turns) == ["mlp[-2]", "attn[-1]", "mlp[-1]"]
    angle = np.degrees(np.arccos(causal.effects(plain, plain, rows, 2)["α of the last MLP"]))
    np.testing.assert_allclose(turns["mlp[-1]"].angle, angle, rtol=1e-4)


def test_less_its_word_is_at_right_angles_to_the_word(causal: Any) -> None:
    pick = torch.Generator().manual_seed(1)
    before, after = torch.randn(2, 3, 5, 64, generator=pick)
    rows = torch.randn(3, 64, generator=pick)
    new = causal.without_word(rows)(before, after)
    toward = rows / rows.norm(dim=-1, keepdim=True)
    parts = torch.einsum("bth,bh->bt", new - before, toward)
    torch.testing.assert_close(parts, torch.zeros(3, 5), rtol=0, atol=1e-5)
    removed = (after - new).norm(dim=-1)
    along = torch.einsum("bth,bh->bt", after - before, toward).abs()
    torch.testing.assert_close(removed, along)
    random = (after - causal.without_as_much(rows)(before, after)).norm(dim=-1)
    torch.testing.assert_close(random, along)


def test_retrieval_counts_the_answer_of_each_query(causal: Any) -> None:
    """The first query finds its answer, the second the other one's first."""
    states = torch.tensor([[1.0, 0], [0.6, 0.8], [1, 0.1], [-1, 0.2]])[:, None].repeat(1, 3, 1)
    words = torch.tensor([1, 2, 3, 4])
    end = causal.Ends(states, words, torch.ones(4))
    found = causal.effects(end, end._replace(words=words % 4), states[:, 0], 2)
    assert found["MRR at norm, raw"].tolist() == [1.0, 0.5]
    assert found["word kept"].tolist() == [1, 1, 1, 0]
    np.testing.assert_allclose(found["β at norm"], 1)


def test_a_kind_of_pictures_keeps_the_ranks_among_all(causal: Any) -> None:
    """Quantities of prompts are those of the chosen queries and of their answers."""
    unchanged = {"β at norm": np.arange(6.0), "MRR at norm, raw": np.array([1, 0.5, 0.25])}
    skipped = {"β at norm": np.zeros(6), "MRR at norm, raw": np.array([1, 1, 0.5])}
    values = {"unchanged": unchanged, "skipped": skipped}
    found = causal.summary(values, np.array([2]))
    assert found["unchanged"]["β at norm"][0] == (2 + 5) / 2
    assert found["skipped"]["MRR at norm, raw"] == [0.5] * 3
    assert found["skipped"]["gain in MRR at norm, raw"] == [0.25] * 3
    assert causal.summary(values, np.arange(3))["skipped"]["gain in MRR at norm, raw"][0] == 0.25
