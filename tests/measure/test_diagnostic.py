"""The diagnostic by its definitions: unit vectors, a geometry of paraphrases and near-misses, and
ranks in which ties count against the partner.

Geometries are restated here in float64: a mean is that of unit vectors; whitening is
(C + λ · mean eigenvalue · I)^(-1/2) with λ = 1 + dimension / documents.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from probes.data import paraphrases
from probes.geometry import GEOMETRY_KINDS, GeometryKind
from probes.items import Item
from probes.measure.paraphrases import (
    SCENES,
    SIDES,
    DiagnosticScore,
    diagnose,
    diagnostic_in_geometry,
    embed_diagnostic,
    scene_items,
)
from probes.measure.paraphrases import ranks_on_diagonal as ranks
from probes.measure.reference import captions as reference_captions
from probes.model.backbone import Backbone
from probes.prompts import E5V, PROMPT_EOL, ControlPrompt, Prompt, Side
from probes.stats import Interval, mean_interval
from tests.model.test_trace import reference
from tests.models import MULTIMODAL, TEXT
from tests.samples import picture

Tiny = Callable[[str], Backbone]
Array = np.ndarray
TASK = ControlPrompt(task="question")
"""Says one thing to a query and another to a document."""


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    few = paraphrases()[:9]
    for module in ("paraphrases", "fusion"):
        monkeypatch.setattr(f"probes.measure.{module}.paraphrases", lambda: few)
    return few


def unit(vectors: Array) -> Array:
    return vectors / np.sqrt((vectors**2).sum(1, keepdims=True))


def mapped(
    kind: GeometryKind, documents: Array, mean: Array | None = None
) -> Callable[[Array], Array]:
    """What the geometry of these documents does to raw vectors; `mean` goes before their own."""
    units = unit(documents)
    centre = units.mean(0)
    spread = np.cov(units.T, bias=True)
    shrinkage = 1 + units.shape[1] / len(units)
    values, vectors = np.linalg.eigh(spread)
    root = vectors @ np.diag((values + shrinkage * values.mean()) ** -0.5) @ vectors.T
    centre = centre if mean is None else mean

    def transform(raw: Array) -> Array:
        if kind == "none":
            return unit(raw)
        moved = unit(raw) - centre
        return unit(moved @ root if kind == "whiten" else moved)

    return transform


def rank_of_partner(scores: Array) -> Array:
    return (scores >= np.diag(scores)[:, None]).sum(1)


def by_hooks(
    name: str, backbone: Backbone, model: Any, prompt: Prompt, items: list[Item], side: Side
) -> dict[str, Array]:
    """Raw states by site, every item alone in its batch."""
    found = [
        reference(name, model, backbone.encode([prompt.apply(item, side)])).sites for item in items
    ]
    return {
        site: np.stack([states[site][0].double().numpy() for states in found]) for site in found[0]
    }


def same(found: Interval, values: Array, seed: int) -> None:
    np.testing.assert_allclose(list(found), list(mean_interval(values, seed)), atol=1e-9)
    assert found.mean == pytest.approx(sum(values.tolist()) / len(values))


# ------------------------------------------------------------------------------ worked by hand


VECTORS = {
    "sentence": [[3.0, 0.0], [0.0, 1.0], [2.0, 2.0]],
    "paraphrase": [[2.0, 0.0], [5.0, 5.0], [0.0, 3.0]],
    "near_miss": [[1.0, 0.0], [7.0, 0.0], [-1.0, 0.0]],
}


def test_ties_count_against_the_partner() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.2], [0.1, 0.9, 0.3], [0.7, 0.8, 0.6]])
    assert ranks(scores).tolist() == [2, 1, 3]
    assert ranks(torch.zeros(4, 4)).tolist() == [4, 4, 4, 4]


def test_figures_worked_by_hand(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines of the three sentences with the three paraphrases: 1 .71 0 / 0 .71 1 / .71 1 .71.

    So the ranks are 1, 2 and 3 (a tie counts against). By raw dot products the first sentence
    would find the second, long paraphrase. The first near-miss scores as its paraphrase does.
    """
    vectors = {name: torch.tensor(values)[:, None] for name, values in VECTORS.items()}
    monkeypatch.setattr("probes.measure.paraphrases.embed_diagnostic", lambda *_, **__: vectors)
    found = diagnose(tiny("llama"), {"a name": E5V}, ["norm"])
    assert [(s.prompt, s.site, s.geometry) for s in found] == [
        ("a name", "norm", kind) for kind in GEOMETRY_KINDS
    ]
    plain = found[0]
    assert plain.precision.mean == pytest.approx(1 / 3)
    assert plain.reciprocal_rank.mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert plain.beats_near_miss.mean == pytest.approx(2 / 3)
    assert plain.pictures is None
    assert plain.quality == plain.reciprocal_rank.mean


@pytest.mark.parametrize("kind", GEOMETRY_KINDS)
def test_near_misses_are_part_of_the_corpus(kind: GeometryKind) -> None:
    """Mean and covariance are those of paraphrases and near-misses together, as unit vectors."""
    rng = np.random.default_rng(3)
    raw = {name: rng.normal(size=(7, 5)) * rng.uniform(1, 9, (7, 1)) + 2 for name in SIDES}
    found = diagnostic_in_geometry(
        kind, {name: torch.tensor(v, dtype=torch.float) for name, v in raw.items()}
    )
    expected = mapped(kind, np.concatenate([raw["paraphrase"], raw["near_miss"]]))
    for name, vectors in zip(("sentence", "paraphrase", "near_miss"), found, strict=True):
        np.testing.assert_allclose(vectors.numpy(), expected(raw[name]), atol=1e-4)
    if kind != "none":
        without = mapped(kind, raw["paraphrase"])(raw["sentence"])
        assert np.abs(without - found[0].numpy()).max() > 0.01


# --------------------------------------------------------------------------- against plain hooks


@pytest.mark.parametrize("prompt", [E5V, TASK], ids=["e5v", "task"])
def test_every_setting_follows_its_definition(
    prompt: Prompt, rows: list[dict[str, str]], tiny: Tiny
) -> None:
    backbone, model = tiny("llama"), TEXT["llama"].__wrapped__()
    sites = ["attn[-2]", "mlp[3]", "norm"]
    found = diagnose(backbone, {"named": prompt}, sites, seed=6)
    assert [(s.prompt, s.site, s.geometry) for s in found] == [
        ("named", site, kind) for site in sites for kind in GEOMETRY_KINDS
    ]
    states = {
        name: by_hooks("llama", backbone, model, prompt, [Item(row[name]) for row in rows], side)
        for name, side in (("sentence", "query"), ("paraphrase", "document"),
                           ("near_miss", "document"))
    }  # fmt: skip
    for setting in found:
        raw = {name: at[setting.site.replace("[-2]", "[2]")] for name, at in states.items()}
        transform = mapped(setting.geometry, np.concatenate([raw["paraphrase"], raw["near_miss"]]))
        sentence, partner, near = (transform(raw[name]) for name in raw)
        scores = sentence @ partner.T
        rank = rank_of_partner(scores)
        assert len(set(rank)) > 1
        same(setting.precision, (rank == 1).astype(float), 6)
        same(setting.reciprocal_rank, 1 / rank, 6)
        beats = [scores[i, i] > sentence[i] @ near[i] for i in range(len(rows))]
        same(setting.beats_near_miss, np.array(beats, dtype=float), 6)
        assert setting.pictures is None


def test_sentences_are_queries_and_paraphrases_are_documents(
    rows: list[dict[str, str]], tiny: Tiny
) -> None:
    backbone, model = tiny("qwen2"), TEXT["qwen2"].__wrapped__()
    found = embed_diagnostic(backbone, TASK, ["mlp[1]", "attn[3]"])
    assert list(found) == ["sentence", "paraphrase", "near_miss"]
    for name, side in SIDES.items():
        items = [Item(row[name]) for row in rows]
        states = by_hooks("qwen2", backbone, model, TASK, items, side)
        expected = np.stack([states["mlp[1]"], states["attn[3]"]], axis=1)
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-3, atol=1e-4)
    assert SIDES == {"sentence": "query", "paraphrase": "document", "near_miss": "document"}


def test_prompts_and_sites_by_default(rows: list[dict[str, str]], tiny: Tiny) -> None:
    found = diagnose(tiny("llama"))
    prompts = ["control", "e5v", "prompteol", "hierarchical"]
    sites = [f"{kind}[{layer}]" for layer in (-4, -3, -2, -1) for kind in ("attn", "mlp")]
    assert [(s.prompt, s.site, s.geometry) for s in found] == [
        (prompt, site, kind)
        for prompt in prompts
        for site in [*sites, "norm"]
        for kind in GEOMETRY_KINDS
    ]


def test_captions_retrieve_their_pictures(
    rows: list[dict[str, str]], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the geometry of the pictures, each query around the nearer half of the other texts."""
    backbone, model = tiny("llava"), MULTIMODAL["llava"].__wrapped__()[0]
    captions = ["the word", "one of the image", "a user", "Yes", "summary of the system"]
    scenes: dict[tuple[str, Side], list[Item]] = {
        ("caption", "query"): [Item(text) for text in captions],
        ("picture", "document"): [Item(images=[picture(seed=i)]) for i in range(5)],
        ("reference caption", "query"): [Item("No"), Item("one word")],
    }
    monkeypatch.setattr("probes.measure.paraphrases.scene_items", lambda: scenes)
    found = diagnose(backbone, {"named": TASK}, ["attn[-1]"], seed=2)
    at = {
        name: by_hooks("llava", backbone, model, TASK, items, side)["attn[3]"]
        for (name, side), items in scenes.items()
    }
    sentences = [Item(row["sentence"]) for row in rows]
    at["sentence"] = by_hooks("llava", backbone, model, TASK, sentences, "query")["attn[3]"]
    asked = unit(np.concatenate([at["sentence"], at["reference caption"]]))
    half = np.argsort(-unit(at["caption"]) @ asked.T)[:, : (len(asked) + 1) // 2]
    nearest = asked[half].mean(1)
    differ = set()
    for setting in found:
        pool = mapped(setting.geometry, at["picture"])(at["picture"])
        queries = mapped(setting.geometry, at["picture"], nearest)(at["caption"])
        rank = rank_of_partner(queries @ pool.T)
        assert setting.pictures is not None
        same(setting.pictures, 1 / rank, 2)
        assert setting.quality == pytest.approx(
            (setting.reciprocal_rank.mean + setting.pictures.mean) / 2
        )
        wrong = mapped(setting.geometry, at["picture"])(at["caption"])
        differ.add(rank_of_partner(wrong @ pool.T).tolist() == rank.tolist())
    assert False in differ, "the mean of the pictures would pass for that of the queries"


def test_scenes_are_embedded_by_models_that_read_pictures(tiny: Tiny) -> None:
    assert tiny("llama").modalities == ["text"]
    scenes = scene_items()
    assert len(scenes["caption", "query"]) == len(scenes["picture", "document"]) == SCENES == 100
    assert scenes["reference caption", "query"] == reference_captions()
    assert all(item.signature == "image" for item in scenes["picture", "document"])
    assert len({item.text for item in scenes["caption", "query"]}) == 100


def test_real_paraphrases_are_retrieved(smollm2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """PromptEOL retrieves the paraphrase among fifteen; a near-miss shares more words and wins."""
    few = paraphrases()[:15]
    monkeypatch.setattr("probes.measure.paraphrases.paraphrases", lambda: few)
    found: dict[str, DiagnosticScore] = {
        s.geometry: s for s in diagnose(smollm2, {"eol": PROMPT_EOL}, ["attn[-1]"])
    }
    assert found["none"].reciprocal_rank.mean > 0.8
    assert found["none"].beats_near_miss.mean < 0.3
    vectors: dict[str, Tensor] = embed_diagnostic(smollm2, PROMPT_EOL, ["attn[-1]"])
    raw = {name: v[:, 0].double().numpy() for name, v in vectors.items()}
    documents = np.concatenate([raw["paraphrase"], raw["near_miss"]])
    for kind in GEOMETRY_KINDS:
        transform = mapped(kind, documents)
        rank = rank_of_partner(transform(raw["sentence"]) @ transform(raw["paraphrase"]).T)
        same(found[kind].reciprocal_rank, 1 / rank, 0)
