"""The gain of reranking follows its definition: standardised stage-1 score + weight · log-odds over
the candidates of stage 1, and the difference of the partner's reciprocal rank to stage 1 alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from freeret.recipe import Recipe
from probes.data import paraphrases
from probes.geometry import GeometryKind
from probes.items import Item
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.framing import FRAMES
from probes.measure.fusion import CANDIDATES, fuse, lead, undecided
from probes.measure.reranking import (
    SETS,
    WEIGHTS,
    Fusion,
    fusion_gains,
    gains_by_judge,
    judges_of,
    reciprocal_ranks,
    rerank_gain,
)
from probes.model.backbone import Backbone
from probes.prompts import NAMED
from probes.stats import Interval, mean_interval
from tests.measure.test_diagnostic import TASK, by_hooks, mapped, same
from tests.measure.test_framing import from_full_logits
from tests.measure.test_report import frame_bias, make_report
from tests.models import TEXT, tokenizer
from tests.samples import few_texts

Tiny = Callable[[str], Backbone]
NO_INTERVAL = Interval(0.5, 0.5, 0.5)


# ------------------------------------------------------------------------------ worked by hand


def test_fusion_worked_by_hand() -> None:
    """1, 2, 3 have the mean 2 and the deviation sqrt(2/3)."""
    step = 1 / np.sqrt(2 / 3)
    fused = fuse([1.0, 2.0, 3.0], [4.0, 0.0, -4.0], 0.5)
    np.testing.assert_allclose(fused, [2 - step, 0.0, step - 2])
    np.testing.assert_allclose(fuse([5.0, 5.0], [0.5, -0.5], 2.0), [1.0, -1.0])
    np.testing.assert_allclose(fuse([1.0, 2.0], [-3.0, 7.0], None), [-3.0, 7.0])
    np.testing.assert_allclose(fuse([1.0, 2.0], [9.0, -9.0], 0.0), [-1.0, 1.0])


def test_ties_count_against_the_partner_here_too() -> None:
    scores = np.array([[0.5, 0.5, 0.2], [0.1, 0.9, 0.3], [0.7, 0.8, 0.6]])
    partner = np.eye(3, dtype=bool)
    np.testing.assert_allclose(reciprocal_ranks(scores, partner), [1 / 2, 1.0, 1 / 3])
    np.testing.assert_allclose(reciprocal_ranks(scores, partner[::-1]), [1 / 3, 1.0, 1 / 2])


def gains(scores: np.ndarray, judge: Callable[[int, int], float]) -> list[Fusion]:
    """The gains of a judge, given as the margin of query and place, over these stage-1 scores."""
    candidates = np.argsort(-scores, kind="stable")[:, :CANDIDATES]
    margins = [[judge(q, place) for place in row] for q, row in enumerate(candidates.tolist())]
    answers = np.arange(len(scores))
    return fusion_gains("mcq", "paraphrases", scores, answers, candidates, np.array(margins))


def chosen_frame(fusions: list[Fusion]) -> str | None:
    """The frame of the recipe that follows from a report with these gains and a frame above
    chance."""
    report = make_report(framing=[frame_bias("mcq", 0.8)], reranking=fusions)
    return Recipe.from_report(report).frame


def test_a_partner_outside_the_candidates_keeps_its_rank() -> None:
    """Two queries in a pool of eight: their partners rank 7th and 3rd."""
    scores = np.array(
        [[0.2, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.1], [0.9, 0.7, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2]]
    )
    perfect = gains(scores, lambda query, place: 9.0 if place == query else -9.0)
    for fusion in perfect:
        if fusion.weight is None or fusion.weight > 0.2:
            assert fusion.reciprocal_rank.mean == pytest.approx((1 / 7 + 1) / 2)
            assert fusion.gain.mean == pytest.approx((0 + 1 - 1 / 3) / 2)
    worst = gains(scores, lambda query, place: -9.0 if place == query else 9.0)
    assert worst[-1].reciprocal_rank.mean == pytest.approx((1 / 7 + 1 / 5) / 2)


def test_a_partner_tied_with_too_many_is_outside_the_candidates() -> None:
    """Ties count against it, and a judge cannot gain from how sorting breaks them."""
    fusions = gains(np.ones((3, 20)), lambda query, place: float(place == query))
    assert [f.reciprocal_rank.mean for f in fusions] == [pytest.approx(1 / 20)] * len(WEIGHTS)
    assert {fusion.gain.mean for fusion in fusions} == {0.0}


def test_a_perfect_judge_is_chosen_and_a_judge_at_chance_is_not() -> None:
    """The order of stage 1 among its candidates is random, so a judge loses nothing: the partner
    has any of the first five ranks."""
    rng = np.random.default_rng(0)

    def stage1() -> np.ndarray:
        scores = rng.uniform(0, 0.5, (50, 120))
        for query, row in enumerate(scores):
            row[[query, *rng.choice(np.arange(60, 120), 4, replace=False)]] += rng.uniform(1, 2, 5)
        return scores

    assert chosen_frame(gains(stage1(), lambda query, place: float(place == query))) == "mcq"
    lucky = sum(
        chosen_frame(gains(stage1(), lambda *_: rng.normal())) is not None for _ in range(25)
    )
    assert lucky <= 2, "2.5% are expected"


def test_a_lead_is_in_standard_deviations_of_the_first_five() -> None:
    """5, 4, 3, 2, 1 have the deviation sqrt(2), whatever comes after them."""
    assert lead([5.0, 4.0, 3.0, 2.0, 1.0]) == pytest.approx(1 / np.sqrt(2))
    assert lead([5.0, 4.0, 3.0, 2.0, 1.0, -100.0]) == pytest.approx(1 / np.sqrt(2))
    assert lead([1.0]) == math.inf
    assert lead([1.0, 1.0]) == 0.0
    assert undecided([5.0, 4.0, 3.0, 2.0, 1.0], 0.71)
    assert undecided([1.0], None)
    assert not undecided([5.0, 4.0, 3.0, 2.0, 1.0], 0.70)


def test_the_threshold_is_the_largest_lead_of_a_query_that_gains() -> None:
    """Partners stand second, behind a candidate that leads by ever more; the judge mends the first
    four of ten queries. On the other half the thresholds are leads of 2 and of 3."""
    scores = np.zeros((10, 30))
    for query in range(10):
        scores[query, 20:25] = [1.0 + 0.3 * query, 0.9, 0.1, 0.05, 0.01]
        scores[query, [query, 21]] = [1.0, 0.3]
    leads = [lead(sorted(row, reverse=True)) for row in scores]
    assert leads == sorted(leads)
    found = gains(scores, lambda query, place: float(place == query) if query < 4 else 0.0)[-2]
    assert found.weight == 2.0
    assert found.lead == pytest.approx(leads[3])
    assert found.judged == 0.4
    assert found.loss is not None
    assert found.loss.mean == pytest.approx(-0.05)


def test_a_gain_is_the_mean_over_the_query_sets() -> None:
    """Independent errors of 0.03 and 0.04 make 0.05, of the mean half as much."""
    sets = [
        Fusion("likelihood", 0.5, NO_INTERVAL, Interval(0.1, 0.07, 0.13), "paraphrases"),
        Fusion("mcq", 0.5, NO_INTERVAL, Interval(0.3, 0.2, 0.4), "paraphrases"),
        Fusion("likelihood", 0.5, NO_INTERVAL, Interval(0.02, -0.02, 0.06), "passages"),
    ]
    gains = gains_by_judge(sets)
    np.testing.assert_allclose(gains["likelihood", 0.5], (0.06, 0.035, 0.085))
    np.testing.assert_allclose(gains["mcq", 0.5], (0.3, 0.2, 0.4))


def test_a_frame_at_chance_is_not_measured() -> None:
    assert judges_of([frame_bias("mcq", 0.52), frame_bias("yes_no", 0.5)]) == ["likelihood"]
    assert judges_of([frame_bias("mcq", 0.8), frame_bias("yes_no", 0.7)]) == ["mcq", "likelihood"]


def test_no_random_model_gets_a_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    few_texts(monkeypatch, 30)
    setting = DiagnosticScore("control", "mlp[-1]", "none", NO_INTERVAL, NO_INTERVAL, NO_INTERVAL)
    for seed in range(5):
        torch.manual_seed(seed)
        config = Qwen2Config(
            vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2,
        )  # fmt: skip
        backbone = Backbone.load(Qwen2ForCausalLM(config).eval(), tokenizer=tokenizer())
        for judge in ("mcq", "likelihood"):
            assert chosen_frame(rerank_gain(backbone, setting, judge)) is None, (seed, judge)


# ------------------------------------------------------------------------ against the plain model


@pytest.mark.parametrize(
    ("kind", "picks"),
    [("none", [0, 1, 2, 3, 4, 5]), ("centre", [0, 2, 4]), ("whiten", [0, 1, 2, 3, 4, 5])],
)
def test_gains_follow_their_definition(
    kind: GeometryKind, picks: list[int], tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_texts(monkeypatch, 6)
    rows = paraphrases()[:6]
    monkeypatch.setitem(NAMED, "control", TASK)
    monkeypatch.setattr("probes.measure.reranking.QUERIES", len(picks))
    backbone, model, frame = tiny("llama"), TEXT["llama"].__wrapped__(), FRAMES["yes_no"]
    setting = DiagnosticScore("control", "mlp[-2]", kind, NO_INTERVAL, NO_INTERVAL, NO_INTERVAL)
    found = rerank_gain(backbone, setting, "yes_no", seed=8)
    expected = [("yes_no", queries, weight) for queries in SETS for weight in WEIGHTS]
    assert [(f.frame, f.queries, f.weight) for f in found] == expected
    found = [fusion for fusion in found if fusion.queries == "paraphrases"]

    def states(name: str, side: str) -> np.ndarray:
        items = [Item(row[name]) for row in rows]
        return by_hooks("llama", backbone, model, TASK, items, side)["mlp[2]"]  # type: ignore[arg-type]

    pool = np.concatenate([states("paraphrase", "document"), states("near_miss", "document")])
    texts = [row["paraphrase"] for row in rows] + [row["near_miss"] for row in rows]
    transform = mapped(kind, pool)
    scores = transform(states("sentence", "query")) @ transform(pool).T
    alone, fused = [], {weight: [] for weight in WEIGHTS}
    missed = 0
    for query in picks:
        row, first = rows[query], scores[query]
        candidates = sorted(range(12), key=lambda place: -first[place])[:5]
        alone.append(1 / sum(first >= first[query]))
        if query not in candidates:
            missed += 1
            for weight in WEIGHTS:
                fused[weight].append(alone[-1])
            continue
        margin = np.array(
            [from_full_logits(backbone, frame, row["sentence"], texts[c]) for c in candidates]
        )
        stage1, partner = first[candidates], candidates.index(query)
        standard = (stage1 - stage1.mean()) / np.sqrt(((stage1 - stage1.mean()) ** 2).mean())
        for weight in WEIGHTS:
            together = margin if weight is None else standard + weight * margin
            fused[weight].append(1 / sum(together >= together[partner]))
    assert missed, "a partner beyond the first five"
    for fusion in found:
        ranks = np.array(fused[fusion.weight])
        same(fusion.reciprocal_rank, ranks, 8)
        gain = ranks - np.array(alone)
        expected = mean_interval(gain, 8, level=100 - 5 / 21)
        np.testing.assert_allclose(list(fusion.gain), list(expected), atol=1e-6)
    assert {np.sign(f.gain.mean) for f in found} - {0.0}, "a gain of the other sign would pass"
