"""What words add to vectors, by its definition: BM25 beside the standardised cosine."""

from collections.abc import Callable

import numpy as np
import pytest

from probes.items import Item
from probes.measure.diagnostic.hybrid import (
    LEVEL,
    LEXICAL_WEIGHTS,
    Hybrid,
    fusions,
    hybrid_gain,
    mean_gains,
    word_scores,
)
from probes.measure.diagnostic.lexical import lexical_scores
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.sets import QuerySet, scored_set
from probes.model.backbone import Backbone
from probes.stats import Interval, mean_interval
from tests.samples import few_texts

Tiny = Callable[[str], Backbone]
NONE = Interval(0.5, 0.5, 0.5)
TEXTS = ["Loaves of stale bread", "The moon is bright", "An old bread", ""]


def test_words_are_stemmed_and_stop_words_count_for_nothing() -> None:
    scores = lexical_scores(["the breads, staling", "of the", ""], TEXTS)
    assert scores[0, 0] > scores[0, 2] > 0
    assert scores[0, 1] == scores[0, 3] == 0
    assert not scores[1:].any()


def test_a_text_is_never_query_syntax() -> None:
    plain = lexical_scores(["stale moon"], TEXTS)
    assert plain[0, 0] > 0
    np.testing.assert_array_equal(lexical_scores(['+stale -"moon" AND ('], TEXTS), plain)


def test_gains_worked_by_hand() -> None:
    """By vectors the answers rank 2 and 1, by words 1 and 3; with 1 · BM25 both are first.

    The pool holds three documents; the fourth is a near-miss, which no answer is ranked against.
    """
    found = QuerySet("passages", [Item("q")] * 2, [Item("d")] * 4, np.array([0, 1]), 3)
    scores = np.array([[0.0, 1.0, -1.0, 9.0], [0.0, 1.0, -1.0, 9.0]])
    words = np.array([[3.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    gains = {gain.weight: gain for gain in fusions(found, scores, words, seed=4)}
    assert list(gains) == list(LEXICAL_WEIGHTS)
    best = gains[1.0]
    assert best.queries == "passages"
    assert best.reciprocal_rank.mean == pytest.approx(1)
    expected = mean_interval(np.array([1 / 2, 0.0]), 4, level=LEVEL)
    np.testing.assert_allclose(list(best.over_vectors), list(expected))
    assert best.over_words.mean == pytest.approx((0 + 2 / 3) / 2)
    assert gains[0.05].over_vectors.mean == 0


def test_sets_weigh_alike_whatever_their_size() -> None:
    def gain(queries: str, weight: float, mean: float, half: float) -> Hybrid:
        over = Interval(mean, mean - half, mean + half)
        return Hybrid(queries, weight, NONE, over, NONE)  # pyright: ignore[reportArgumentType]

    means = mean_gains(
        [gain("paraphrases", 0.1, -0.02, 0.03), gain("paraphrases", 0.2, 0.0, 0.0),
         gain("passages", 0.1, 0.10, 0.04), gain("passages", 0.2, 0.2, 0.0)]
    )  # fmt: skip
    np.testing.assert_allclose(list(means[0.1]), [0.04, 0.04 - 0.025, 0.04 + 0.025])
    np.testing.assert_allclose(list(means[0.2]), [0.1, 0.1, 0.1])


def test_gains_are_measured_at_the_extraction(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    few_texts(monkeypatch, 5, 3)
    backbone = tiny("llama")
    extraction = DiagnosticScore("control", "mlp[-1]", "centre", NONE, NONE, NONE, task="question")
    gains = hybrid_gain(backbone, extraction, seed=2)
    assert [gain.weight for gain in gains] == [*LEXICAL_WEIGHTS] * 2
    for name, part in (("paraphrases", gains[:6]), ("passages", gains[6:])):
        found, scores = scored_set(backbone, extraction, name)  # type: ignore[arg-type]
        assert part == fusions(found, scores.double().numpy(), word_scores(found), 2)
    assert any(gain.over_vectors.mean > 0 for gain in gains), "questions share words"
