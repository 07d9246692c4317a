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

from probes.data import paraphrases, passages
from probes.geometry import GEOMETRY_KINDS, GeometryKind
from probes.items import Item
from probes.measure.diagnostic.extractions import diagnose
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import (
    SCENES,
    QuerySet,
    SetStates,
    answer_ranks,
    embed_set,
    query_set,
    scored_set,
    sets_for,
)
from probes.measure.reference import _MAKERS, no_reference
from probes.model.backbone import Backbone
from probes.prompts import E5V, PROMPT_EOL, ControlPrompt, Prompt, Side
from probes.stats import Interval, mean_interval
from tests.model.test_trace import reference
from tests.models import MULTIMODAL, TEXT
from tests.samples import few_texts, picture

Tiny = Callable[[str], Backbone]
Array = np.ndarray
TASK = ControlPrompt(task="question")
"""Says one thing to a query and another to a document."""


SENTENCES, PASSAGES = 9, 4


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    few_texts(monkeypatch, SENTENCES, PASSAGES)


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


def paired(queries: list[list[float]], documents: list[list[float]], pool: int) -> SetStates:
    """States at a single site of a set in which query i is answered by document i."""
    found = QuerySet(
        "paraphrases",
        [Item("q") for _ in queries],
        [Item("d") for _ in documents],
        np.arange(len(queries)) % pool,
        pool,
    )
    raw = (torch.tensor(side)[:, None] for side in (queries, documents))
    return SetStates(found, *raw, no_reference)


def test_ties_count_against_the_answer() -> None:
    scores = np.array([[0.5, 0.5, 0.2], [0.1, 0.9, 0.3], [0.7, 0.8, 0.6]])
    assert answer_ranks(scores, np.arange(3)).tolist() == [2, 1, 3]
    assert answer_ranks(scores, np.array([2, 2, 1])).tolist() == [3, 2, 1]
    assert answer_ranks(np.zeros((4, 4)), np.arange(4)).tolist() == [4, 4, 4, 4]


def test_figures_worked_by_hand(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cosines of the three sentences with the three paraphrases: 1 .71 0 / 0 .71 1 / .71 1 .71.

    So the ranks are 1, 2 and 3 (a tie counts against). By raw dot products the first sentence
    would find the second, long paraphrase. The first near-miss scores as its paraphrase does.
    """
    sentences = [[3.0, 0.0], [0.0, 1.0], [2.0, 2.0]]
    paraphrases = [[2.0, 0.0], [5.0, 5.0], [0.0, 3.0]]
    near_misses = [[1.0, 0.0], [7.0, 0.0], [-1.0, 0.0]]
    states = {
        "paraphrases": paired(sentences, paraphrases + near_misses, 3),
        # Two queries each: the first passage ranks 1 and 2, the second 1 and 1.
        "passages": paired(
            [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], 2
        ),
    }
    monkeypatch.setattr(
        "probes.measure.diagnostic.extractions.embed_set",
        lambda _, __, name, *___, **____: states[name],
    )
    monkeypatch.setattr(
        "probes.measure.diagnostic.extractions.query_set", lambda name: states[name].set
    )
    found = diagnose(tiny("llama"), {"a name": E5V}, ["norm"])
    assert [(s.prompt, s.task, s.site, s.geometry) for s in found] == [
        ("a name", None, "norm", kind) for kind in GEOMETRY_KINDS
    ]
    plain = found[0]
    assert plain.precision.mean == pytest.approx(1 / 3)
    assert plain.reciprocal_rank.mean == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert plain.beats_near_miss.mean == pytest.approx(2 / 3)
    assert plain.passages is not None
    assert plain.passages.mean == pytest.approx((1 + 1 / 2 + 1 + 1) / 4)
    assert plain.pictures is None
    assert plain.quality == pytest.approx((plain.reciprocal_rank.mean + plain.passages.mean) / 2)


def test_queries_with_the_same_answer_are_resampled_together() -> None:
    found = paired([[1.0]] * 4, [[1.0]] * 2, 2).set
    assert found.by_answer(np.array([1.0, 0.5, 0.0, 0.25])).tolist() == [0.5, 0.375]


@pytest.mark.parametrize("kind", GEOMETRY_KINDS)
def test_near_misses_are_part_of_the_corpus(kind: GeometryKind) -> None:
    """Mean and covariance are those of paraphrases and near-misses together, as unit vectors."""
    rng = np.random.default_rng(3)

    def drawn(count: int) -> Array:
        return rng.normal(size=(count, 5)) * rng.uniform(1, 9, (count, 1)) + 2

    queries, documents = drawn(7), drawn(14)
    found = paired(queries.tolist(), documents.tolist(), 7).scores(kind, 0).numpy()
    transform = mapped(kind, documents)
    np.testing.assert_allclose(found, transform(queries) @ transform(documents).T, atol=1e-4)
    if kind != "none":
        without = mapped(kind, documents[:7])
        assert np.abs(without(queries) @ without(documents).T - found).max() > 0.01


# --------------------------------------------------------------------------- against plain hooks


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("prompt", [E5V, TASK], ids=["e5v", "task"])
def test_every_setting_follows_its_definition(prompt: Prompt, tiny: Tiny) -> None:
    backbone, model = tiny("llama"), TEXT["llama"].__wrapped__()
    sites = ["attn[-2]", "mlp[3]", "norm"]
    found = diagnose(backbone, {"named": prompt}, sites, seed=6)
    assert [(s.prompt, s.site, s.geometry) for s in found] == [
        ("named", site, kind) for site in sites for kind in GEOMETRY_KINDS
    ]
    rows, long = paraphrases()[:SENTENCES], passages()[:PASSAGES]
    states = {
        column: by_hooks("llama", backbone, model, prompt, [Item(r[column]) for r in texts], side)
        for texts, columns in (
            (rows, {"sentence": "query", "paraphrase": "document", "near_miss": "document"}),
            (long, {"question": "query", "request": "query", "passage": "document"}),
        )
        for column, side in columns.items()
    }
    for setting in found:
        raw = {name: at[setting.site.replace("[-2]", "[2]")] for name, at in states.items()}
        transform = mapped(setting.geometry, np.concatenate([raw["paraphrase"], raw["near_miss"]]))
        sentence, partner, near = (
            transform(raw[n]) for n in ("sentence", "paraphrase", "near_miss")
        )
        scores = sentence @ partner.T
        rank = rank_of_partner(scores)
        assert len(set(rank)) > 1
        same(setting.precision, (rank == 1).astype(float), 6)
        same(setting.reciprocal_rank, 1 / rank, 6)
        beats = [scores[i, i] > sentence[i] @ near[i] for i in range(len(rows))]
        same(setting.beats_near_miss, np.array(beats, dtype=float), 6)
        assert setting.pictures is None
        assert setting.passages is not None
        transform = mapped(setting.geometry, raw["passage"])
        pool = transform(raw["passage"])
        asked = [rank_of_partner(transform(raw[n]) @ pool.T) for n in ("question", "request")]
        same(setting.passages, (1 / asked[0] + 1 / asked[1]) / 2, 6)


@pytest.mark.usefixtures("few")
def test_states_of_a_set_are_those_of_its_sides(tiny: Tiny) -> None:
    backbone, model = tiny("qwen2"), TEXT["qwen2"].__wrapped__()
    found = embed_set(backbone, TASK, "paraphrases", ["mlp[1]", "attn[3]"])
    sides: list[tuple[Tensor, list[Item], Side]] = [
        (found.queries, found.set.queries, "query"),
        (found.documents, found.set.documents, "document"),
    ]
    for raw, items, side in sides:
        states = by_hooks("qwen2", backbone, model, TASK, items, side)
        expected = np.stack([states["mlp[1]"], states["attn[3]"]], axis=1)
        np.testing.assert_allclose(raw.numpy(), expected, rtol=1e-3, atol=1e-4)


def test_every_query_stands_with_its_answer() -> None:
    rows, long = paraphrases(), passages()
    found = query_set("paraphrases")
    assert (len(found.queries), len(found.documents), found.pool) == (200, 400, 200)
    for i, row in enumerate(rows):
        assert found.queries[i].text == row["sentence"]
        assert found.documents[found.answers[i]].text == row["paraphrase"]
        assert found.documents[found.pool + i].text == row["near_miss"]
    found = query_set("passages")
    assert (len(found.queries), len(found.documents), found.pool) == (240, 120, 120)
    asked = {
        q.text: found.documents[a].text for q, a in zip(found.queries, found.answers, strict=True)
    }
    assert asked == {row[kind]: row["passage"] for row in long for kind in ("question", "request")}


def test_passages_are_long_and_stand_in_groups_of_six() -> None:
    groups = [row["group"] for row in passages()]
    assert {groups.count(group) for group in groups} == {6}
    assert len(groups) == len({row["passage"] for row in passages()}) == 120
    assert all(130 <= len(row["passage"].split()) <= 230 for row in passages())


@pytest.mark.usefixtures("few")
def test_prompts_tasks_and_sites_by_default(tiny: Tiny) -> None:
    found = diagnose(tiny("llama"))
    prompts = [
        ("control", None), ("control, no task", None), ("e5v", None), ("prompteol", None),
        ("topic", None), ("hierarchical", None), ("control", "question"),
    ]  # fmt: skip
    sites = [f"{kind}[{layer}]" for layer in (-4, -3, -2, -1) for kind in ("attn", "mlp")]
    assert [((s.prompt, s.task), s.site, s.geometry) for s in found] == [
        (prompt, site, kind)
        for prompt in prompts
        for mean in ("", "+mean")
        for site in [f"{place}{mean}" for place in [*sites, "norm"]]
        for kind in GEOMETRY_KINDS
    ]
    asked = {
        s.wording: s.reciprocal_rank for s in found if (s.site, s.geometry) == ("norm", "none")
    }
    assert len({str(interval) for interval in asked.values()}) > 3, "a task would change nothing"


@pytest.mark.usefixtures("few")
def test_a_set_is_scored_under_the_task_of_the_extraction(tiny: Tiny) -> None:
    backbone, none = tiny("llama"), Interval(0, 0, 0)
    by_task = {}
    for task in (None, "question"):
        extraction = DiagnosticScore("control", "mlp[-1]", "centre", none, none, none, task=task)
        found, by_task[task] = scored_set(backbone, extraction, "passages")
        prompt = ControlPrompt() if task is None else ControlPrompt(task=task)
        states = embed_set(backbone, prompt, "passages", ["norm", "mlp[-1]"])
        torch.testing.assert_close(by_task[task], states.scores("centre", 1))
        assert found.name == "passages"
    assert (by_task[None] - by_task["question"]).abs().max() > 1e-4


@pytest.mark.usefixtures("few")
def test_captions_retrieve_their_pictures(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the geometry of the pictures, each query around the nearest third of the reference."""
    backbone, model = tiny("llava"), MULTIMODAL["llava"].__wrapped__()[0]
    captions = ["the word", "one of the image", "a user", "Yes", "summary of the system"]
    pictures = [Item(images=[picture(seed=i)]) for i in range(5)]
    sentences, said = [Item("a cat"), Item("the image")], [Item("No")]
    things = [Item("a red cup"), Item("two")]
    scenes = QuerySet("scenes", [Item(c) for c in captions], pictures, np.arange(5), 5)
    monkeypatch.setattr("probes.measure.diagnostic.sets._scenes", lambda: scenes)
    monkeypatch.setattr("probes.measure.diagnostic.sets.PICTURED", ("scenes",))
    monkeypatch.setattr("probes.geometry.corpus.FEW", 5)
    monkeypatch.setitem(_MAKERS, "sentences", lambda: sentences)
    monkeypatch.setitem(_MAKERS, "captions", lambda: said)
    monkeypatch.setitem(_MAKERS, "captions of everyday things", lambda: things)
    found = diagnose(backbone, {"named": TASK}, ["attn[-1]"], seed=2)
    texts, sides = [Item(c) for c in captions], ("query", "document", "query")
    at = [
        by_hooks("llava", backbone, model, TASK, items, side)["attn[3]"]
        for items, side in zip((texts, pictures, [*sentences, *said, *things]), sides, strict=True)
    ]
    asked = unit(at[2])
    third = np.argsort(-unit(at[0]) @ asked.T)[:, :2]  # of five
    nearest = asked[third].mean(1)
    differ = set()
    for setting in found:
        pool = mapped(setting.geometry, at[1])(at[1])
        queries = mapped(setting.geometry, at[1], nearest)(at[0])
        rank = rank_of_partner(queries @ pool.T)
        assert setting.pictures is not None
        assert setting.passages is not None
        same(setting.pictures, 1 / rank, 2)
        assert setting.hybrid is not None
        texts = (setting.reciprocal_rank.mean + setting.passages.mean) / 4 + setting.hybrid.mean / 2
        assert setting.quality == pytest.approx((texts + setting.pictures.mean) / 2)
        wrong = mapped(setting.geometry, at[1])(at[0])
        differ.add(rank_of_partner(wrong @ pool.T).tolist() == rank.tolist())
    assert False in differ, "the mean of the pictures would pass for that of the queries"


def test_scenes_are_embedded_by_models_that_read_pictures(tiny: Tiny) -> None:
    assert sets_for(tiny("llama")) == ["paraphrases", "passages"]
    assert sets_for(tiny("llava")) == ["paraphrases", "passages", "scenes", "everyday"]
    scenes = query_set("scenes")
    assert len(scenes.queries) == len(scenes.documents) == SCENES == 100
    assert all(item.signature == "image" for item in scenes.documents)
    assert len({item.text for item in scenes.queries}) == 100
    everyday = query_set("everyday")
    assert len(everyday.queries) == len(everyday.documents) == 63
    assert all(item.signature == "image" for item in everyday.documents)


def test_real_paraphrases_are_retrieved(smollm2: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    """PromptEOL retrieves the paraphrase among fifteen; a near-miss shares more words and wins."""
    few_texts(monkeypatch, 15, 2)
    found: dict[str, DiagnosticScore] = {
        s.geometry: s for s in diagnose(smollm2, {"eol": PROMPT_EOL}, ["attn[-1]"])
    }
    assert found["none"].reciprocal_rank.mean > 0.8
    assert found["none"].beats_near_miss.mean < 0.3
    raw = embed_set(smollm2, PROMPT_EOL, "paraphrases", ["attn[-1]"])
    sentences, documents = (side[:, 0].double().numpy() for side in (raw.queries, raw.documents))
    for kind in GEOMETRY_KINDS:
        transform = mapped(kind, documents)
        rank = rank_of_partner(transform(sentences) @ transform(documents[:15]).T)
        same(found[kind].reciprocal_rank, 1 / rank, 0)
