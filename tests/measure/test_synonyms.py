"""Cosines of synonyms and of controls, each of its own, and d' by its definition.

    d' = (mean of synonyms - mean of controls) / sqrt((their variances' sum) / 2)

The states are those of plain hooks, the arithmetic is float64.
"""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from probes.data import synonyms
from probes.items import Item
from probes.measure.synonyms import SynonymSimilarity, synonym_similarity
from probes.model.backbone import Backbone
from probes.model.sites import all_sites
from probes.prompts import E5V, PROMPT_EOL, Prompt
from probes.stats import Interval, d_prime, mean_interval
from tests.model.test_trace import reference
from tests.models import TEXT

Tiny = Callable[[str], Backbone]


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """A few pairs, synonyms and controls in mixed order."""
    rows = [row for row in synonyms() if row["kind"] == "synonym"][:6]
    rows += [row for row in synonyms() if row["kind"] == "control"][:5]
    random.Random(0).shuffle(rows)
    monkeypatch.setattr("probes.measure.synonyms.synonyms", lambda: rows)
    return rows


def cosines(
    name: str, backbone: Backbone, model: Any, prompt: Prompt, rows: list[dict[str, str]]
) -> dict[str, np.ndarray]:
    """The cosine of each pair by site, every word alone in its batch."""
    words = {word for row in rows for word in (row["a"], row["b"])}
    states = {}
    for word in words:
        found = reference(name, model, backbone.encode([prompt.apply(Item(word))]))
        states[word] = {site: s[0].double().numpy() for site, s in found.sites.items()}

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))

    return {
        site: np.array([cosine(states[row["a"]][site], states[row["b"]][site]) for row in rows])
        for site in next(iter(states.values()))
    }


def check(found: SynonymSimilarity, column: np.ndarray, kinds: list[str], seed: int) -> None:
    real = np.array([value for value, kind in zip(column, kinds, strict=True) if kind == "synonym"])
    other = np.array(
        [value for value, kind in zip(column, kinds, strict=True) if kind == "control"]
    )

    def variance(values: np.ndarray) -> float:
        return float(((values - values.mean()) ** 2).sum() / (len(values) - 1))

    spread = np.sqrt((variance(real) + variance(other)) / 2)
    assert found.synonyms.mean == pytest.approx(real.sum() / len(real), abs=1e-5)
    assert found.controls.mean == pytest.approx(other.sum() / len(other), abs=1e-5)
    d = (real.mean() - other.mean()) / spread
    assert found.separation.mean == pytest.approx(d, rel=1e-3, abs=1e-4)
    for interval, expected in (
        (found.synonyms, mean_interval(real, seed)),
        (found.controls, mean_interval(other, seed)),
        (found.separation, d_prime(real, other, seed)),
    ):
        np.testing.assert_allclose(list(interval), list(expected), rtol=2e-3, atol=1e-4)
    for spread, values in ((found.synonym_spread, real), (found.control_spread, other)):
        assert spread is not None
        expected = [np.quantile(values, q) for q in (0.05, 0.25, 0.5, 0.75, 0.95)]
        np.testing.assert_allclose(list(spread), expected, atol=1e-4)
    assert abs(found.synonyms.mean - found.controls.mean) > 1e-4, "either would pass for the other"


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt"])
def test_every_site_has_its_own_figures(name: str, pairs: list[dict[str, str]], tiny: Tiny) -> None:
    backbone = tiny(name)
    expected = cosines(name, backbone, TEXT[name].__wrapped__(), PROMPT_EOL, pairs)
    found = synonym_similarity(backbone, seed=2)
    assert [s.site for s in found] == [str(site) for site in all_sites(backbone.num_layers)]
    if name in ("llama", "gemma2"):  # at `embed` every word ends with the same token of the prompt
        embed = found.pop(0)
        assert (embed.synonyms.mean, embed.controls.mean) == pytest.approx((1.0, 1.0))
    for each in found:
        check(each, expected[each.site], [row["kind"] for row in pairs], seed=2)


def test_sites_and_prompt_are_those_asked_for(pairs: list[dict[str, str]], tiny: Tiny) -> None:
    backbone = tiny("llama")
    expected = cosines("llama", backbone, TEXT["llama"].__wrapped__(), E5V, pairs)
    found = synonym_similarity(backbone, ["norm", "attn[-1]", "mlp[1]"], prompt="e5v")
    assert [s.site for s in found] == ["norm", "attn[-1]", "mlp[1]"]
    for each, site in zip(found, ("norm", "attn[3]", "mlp[1]"), strict=True):
        check(each, expected[site], [row["kind"] for row in pairs], seed=0)
    assert synonym_similarity(backbone, ["norm"], prompt=E5V)[0] == found[0]


def test_all_pairs_are_measured(tiny: Tiny) -> None:
    """250 of each kind: the intervals are as narrow as so many pairs make them."""
    [found] = synonym_similarity(tiny("llama"), ["mlp[-1]"])
    rows = synonyms()
    assert [row["kind"] for row in rows].count("synonym") == 250
    assert [row["kind"] for row in rows].count("control") == 250
    expected = cosines("llama", tiny("llama"), TEXT["llama"].__wrapped__(), PROMPT_EOL, rows)
    check(found, expected["mlp[3]"], [row["kind"] for row in rows], seed=0)
    assert isinstance(found.synonyms, Interval)


# ------------------------------------------------------------------------------ real weights


def test_real_synonyms_lie_closer_than_controls(
    pairs: list[dict[str, str]], smollm2: Backbone
) -> None:
    expected = cosines("llama", smollm2, smollm2.model, PROMPT_EOL, pairs)
    for each in synonym_similarity(smollm2, ["attn[27]", "attn[29]", "norm"]):
        check(each, expected[each.site], [row["kind"] for row in pairs], seed=0)
        assert each.separation.mean > 1.0
        assert each.synonyms.mean > each.controls.mean + 0.02
