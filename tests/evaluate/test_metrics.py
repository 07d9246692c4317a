"""Figures agree with trec_eval, with figures worked by hand, and with scipy."""

import itertools
from typing import Any

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, P, nDCG
from scipy.stats import permutation_test, spearmanr

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import (
    Scores,
    difference,
    mean_of,
    parse_metric,
    score_run,
    spearman,
)
from freeret.evaluate.rankings import Run, ordered, to_run
from probes import Item
from probes.errors import BadSetting


def dataset(judgements: dict[str, Any], documents: int = 5, **more: Any) -> Dataset:
    return Dataset(
        name="hand",
        queries=[Item("a?", id=id) for id in judgements],
        documents=[Item(f"text {i}", id=f"d{i}") for i in range(documents)],
        judgements=judgements,
        **more,
    )


def per_query(dataset: Dataset, run: Run, metric: str) -> np.ndarray:
    return parse_metric(metric).per_query(dataset, run)


def matrix(rows: list[list[float]]) -> Any:
    scores = torch.tensor(rows)
    return lambda query, pool: scores[query] if pool is None else scores[query][pool]


# ------------------------------------------------------------------------------------- by hand


def test_ndcg_worked_by_hand() -> None:
    """Grades 3, 0, 2 at ranks 1, 2, 3 and a judged document of grade 1 that is not there:
    DCG = 3 + 2/log2(4) = 4; ideal = 3 + 2/log2(3) + 1/log2(4)."""
    hand = dataset({"q": {"d0": 3, "d1": 0, "d2": 2, "gone": 1}})
    run = to_run(hand, matrix([[0.9, 0.8, 0.7, 0.1, 0.0]]))
    assert list(run["q"]) == ["d0", "d1", "d2", "d3", "d4"]
    expected = 4 / (3 + 2 / np.log2(3) + 1 / 2)
    np.testing.assert_allclose(per_query(hand, run, "nDCG@10"), [expected], atol=1e-6)


def test_precision_at_1_of_mmeb_worked_by_hand() -> None:
    """Own candidates only: q1's best document of all (d4) is not its candidate; q2's right one
    stands second; q3 has one candidate, so it is always right: 2 of 3."""
    judgements = {"q1": {"d0": 1}, "q2": {"d1": 1}, "q3": {"d2": 1}}
    candidates = {"q1": ["d0", "d1"], "q2": ["d1", "d3", "d4"], "q3": ["d2"]}
    hand = dataset(judgements, candidates=candidates)
    scores = [[0.5, 0.4, 0.0, 0.0, 0.9], [0.9, 0.5, 0.9, 0.6, 0.1], [0.9, 0.9, 0.1, 0.9, 0.9]]
    run = to_run(hand, matrix(scores))
    assert {q: list(row) for q, row in run.items()} == {
        "q1": ["d0", "d1"], "q2": ["d3", "d1", "d4"], "q3": ["d2"],
    }  # fmt: skip
    assert per_query(hand, run, "P@1").tolist() == [1, 0, 1]
    assert score_run(hand, run, "P@1").interval().mean == pytest.approx(2 / 3)


def test_a_candidate_named_twice_counts_once() -> None:
    hand = dataset({"q": {"d1": 1}}, candidates={"q": ["d0", "d1", "d0", "d1"]})
    run = to_run(hand, matrix([[0.5, 0.6, 0.9, 0.9, 0.9]]))
    assert list(run["q"]) == ["d1", "d0"]


def test_ties_of_candidates_break_by_id_and_not_by_their_order() -> None:
    """MMEB's files name the right candidate first: equal scores must not make it right."""
    hand = dataset({"q": {"d3": 1}}, candidates={"q": ["d3", "d0", "d2"]})
    run = to_run(hand, matrix([[0.5, 0.9, 0.5, 0.5, 0.9]]))
    assert list(run["q"]) == ["d0", "d2", "d3"]
    assert per_query(hand, run, "P@1").tolist() == [0]


@pytest.mark.parametrize("right", ["d1", "d3"])
def test_ties_break_by_id(right: str) -> None:
    """trec_eval alone breaks them by id downwards: d3 would always win."""
    hand = dataset({"q": {right: 1}})
    run = to_run(hand, matrix([[0.1, 0.7, 0.2, 0.7, 0.3]]))
    assert list(run["q"])[:2] == ["d1", "d3"]
    assert per_query(hand, run, "P@1").tolist() == [float(right == "d1")]


def test_all_equal_scores_keep_the_order_of_ids() -> None:
    hand = dataset({"q": {"d0": 1}}, documents=200)
    run = to_run(hand, matrix([[0.5] * 200]))
    assert list(run["q"]) == sorted(d.id or "" for d in hand.documents)
    ranks = sorted(run["q"].items(), key=lambda pair: -pair[1])
    assert [id for id, _ in ranks] == list(run["q"]), "no two scores are equal in a file"


def test_a_query_without_hits_counts_nothing() -> None:
    hand = dataset({"q1": {"d0": 1}, "q2": {"d1": 1}})
    assert per_query(hand, {"q1": {"d0": 1.0}}, "P@1").tolist() == [1, 0]
    assert per_query(hand, {}, "nDCG@10").tolist() == [0, 0]


def test_what_is_not_judged_is_wrong() -> None:
    hand = dataset({"q": {"d0": 0, "d1": 1}})
    assert per_query(hand, {"q": {"d4": 3.0, "d0": 2.0, "d1": 1.0}}, "RR").tolist() == [
        pytest.approx(1 / 3)
    ]


def test_a_metric_that_does_not_exist() -> None:
    hand = dataset({"q": {"d0": 1}})
    for name in ("Nonsense@3", "!!"):
        with pytest.raises(BadSetting, match="no metric"):
            per_query(hand, {}, name)


def test_the_interval_of_a_difference_is_its_paired_bootstrap() -> None:
    """The 2.5% and 97.5% points over resampled queries, the same ones for both systems."""
    draw = np.random.default_rng(5)
    a, b = draw.random(40), draw.random(40)
    found, p = difference([(Scores(parse_metric("RR"), a), Scores(parse_metric("RR"), b))], seed=3)
    picks = np.random.default_rng(3).integers(40, size=(2000, 40))
    gaps = np.array([a[pick].mean() - b[pick].mean() for pick in picks])
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(gaps, [2.5, 97.5])))
    assert 0 < p <= 1


def test_the_grade_of_a_pair_is_its_highest() -> None:
    hand = dataset({"q1": {"d0": 1, "d1": 4}, "q2": {"d1": 2}})
    found = parse_metric("Spearman").grades(hand)
    assert found is not None
    assert found.tolist() == [4.0, 2.0]
    assert parse_metric("P@1").grades(hand) is None


# ------------------------------------------------------------------------------- against others


@given(data=st.data())
def test_every_metric_is_that_of_trec_eval(data: st.DataObject) -> None:
    """On scores without ties the run changes nothing: the figures are ir-measures' own."""
    draw = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    ids = [f"q{i}" for i in range(4)]
    judged = {
        q: {f"d{i}": int(g) for i, g in enumerate(draw.integers(0, 4, size=30)) if g < 3}
        for q in ids
    }
    hand = dataset(judged, documents=30)
    scores = draw.permutation(4 * 30).reshape(4, 30) / 7
    run = to_run(hand, matrix(scores.tolist()))
    plain = {
        q: {f"d{i}": float(s) for i, s in enumerate(row)}
        for q, row in zip(ids, scores, strict=True)
    }
    for measure in (P @ 1, nDCG @ 10, AP, RR):
        theirs = {m.query_id: m.value for m in ir_measures.iter_calc([measure], judged, plain)}
        ours = per_query(hand, run, str(measure))
        assert ours.tolist() == [theirs[q] for q in ids]


def test_spearman_is_that_of_scipy() -> None:
    draw = np.random.default_rng(0)
    scores, grades = draw.normal(size=60), draw.integers(0, 6, size=60) / 2
    expected = spearmanr(scores, grades).statistic
    assert float(spearman(scores, grades)) == pytest.approx(expected)
    assert float(spearman(np.ones(60), grades)) == 0.0
    found = Scores(parse_metric("Spearman"), scores, grades).interval()
    assert found.mean == pytest.approx(expected)
    assert found.low < expected < found.high


def test_spearman_over_a_dataset_of_pairs() -> None:
    judgements = {f"q{i}": {f"d{i}": grade} for i, grade in enumerate([0.5, 5, 2.5, 1])}
    hand = dataset(judgements, metrics=("Spearman",),
                   candidates={q: list(row) for q, row in judgements.items()})  # fmt: skip
    run = to_run(hand, matrix((np.eye(5)[:4] * [[1], [9], [8], [3]]).tolist()))
    found = score_run(hand, run, "Spearman")
    assert found.values.tolist() == [1, 9, 8, 3]
    assert found.interval().mean == pytest.approx(1.0)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.15])
def test_the_p_value_is_that_of_a_paired_permutation_test(shift: float) -> None:
    draw = np.random.default_rng(3)
    a, b = (draw.random(80) < 0.6 + shift).astype(float), (draw.random(80) < 0.6).astype(float)
    gap, p = difference([(Scores(parse_metric("P@1"), a), Scores(parse_metric("P@1"), b))])
    theirs = permutation_test(
        (a, b), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", rng=0
    )
    assert gap.mean == pytest.approx(a.mean() - b.mean())
    assert gap.low <= gap.mean <= gap.high
    assert p == pytest.approx(float(theirs.pvalue), abs=0.06)


def test_equal_runs_do_not_differ() -> None:
    one = Scores(parse_metric("P@1"), np.array([1.0, 0.0, 1.0]))
    gap, p = difference([(one, one)])
    assert (tuple(gap), p) == ((0.0, 0.0, 0.0), 1.0)


def test_a_sure_difference_and_none() -> None:
    draw = np.random.default_rng(0)
    grades = draw.random(150)
    good = Scores(parse_metric("Spearman"), 30 * (grades + 0.3 * draw.random(150)), grades)
    poor = Scores(parse_metric("Spearman"), 1e-3 * (grades + 3 * draw.random(150)), grades)
    same = Scores(parse_metric("Spearman"), 0.01 * good.values - 5, grades)
    gap, p = difference([(good, poor)])
    assert gap.low > 0.2
    assert p < 0.01
    gap, p = difference([(good, same)])
    assert (gap.mean, p) == (0.0, 1.0), "scales of scores do not matter, only ranks"


def test_the_mean_of_datasets_weighs_each_alike() -> None:
    many, few = (
        Scores(parse_metric("P@1"), np.ones(90)),
        Scores(parse_metric("P@1"), np.array([0.0, 0.0, 1.0])),
    )
    found = mean_of([many, few])
    assert found.mean == pytest.approx((1 + 1 / 3) / 2)
    assert found.low == pytest.approx(0.5), "the few alone carry the noise"
    assert found.high == pytest.approx(1.0)
    gap, _ = difference([(many, Scores(parse_metric("P@1"), np.zeros(90))), (few, few)])
    assert gap.mean == pytest.approx(0.5)


def test_spearman_needs_grades() -> None:
    with pytest.raises(BadSetting, match="grades"):
        Scores(parse_metric("Spearman"), np.array([1.0, 2.0])).interval()


# ---------------------------------------------------------------------------------- score files


@given(st.lists(st.floats(-1e4, 1e4, width=32), max_size=30))
def test_scores_fall_strictly_and_stay_what_they_were(values: list[float]) -> None:
    told = ordered({str(i): v for i, v in enumerate(sorted(values, reverse=True))})
    found = list(told.values())
    assert all(a > b for a, b in itertools.pairwise(found))
    np.testing.assert_allclose(found, sorted(values, reverse=True), rtol=1e-5, atol=1e-5)
