"""What judging gains, by definition: standardised stage-1 score + weight · log-odds, and the
difference of the partner's reciprocal rank to stage 1 alone, sentence by sentence."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.data import paraphrases
from probes.geometry import GeometryKind
from probes.items import Item
from probes.measure.framing import FRAMES
from probes.measure.fusion import WEIGHTS, closest, fuse, reciprocal_ranks, rerank_gain
from probes.measure.paraphrases import DiagnosticScore
from probes.model.backbone import Backbone
from probes.prompts import NAMED
from probes.stats import Interval
from tests.measure.test_diagnostic import TASK, by_hooks, mapped, same
from tests.measure.test_framing import from_full_logits
from tests.models import TEXT

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


def test_the_partner_is_always_a_candidate() -> None:
    scores = torch.tensor(
        [[0.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.3, 0.2, 0.9, 0.1, 0.25, 0.0, 0.8]]
    )
    found, places = closest(scores)
    assert places.tolist() == [[1, 2, 3, 4, 0], [2, 6, 0, 4, 1]]
    torch.testing.assert_close(found, scores.gather(1, places))
    assert torch.equal(scores[:, :2], torch.tensor([[0.1, 0.9], [0.3, 0.2]])), "left as it was"


# ------------------------------------------------------------------------ against the plain model


@pytest.mark.parametrize(("kind", "sentences"), [("none", 50), ("centre", 4), ("whiten", 50)])
def test_gains_follow_their_definition(
    kind: GeometryKind, sentences: int, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = paraphrases()[:6]
    for module in ("paraphrases", "fusion"):
        monkeypatch.setattr(f"probes.measure.{module}.paraphrases", lambda: rows)
    monkeypatch.setitem(NAMED, "control", TASK)
    monkeypatch.setattr("probes.measure.fusion.SENTENCES", sentences)
    backbone, model, frame = tiny("llama"), TEXT["llama"].__wrapped__(), FRAMES["yes_no"]
    setting = DiagnosticScore("control", "mlp[-2]", kind, NO_INTERVAL, NO_INTERVAL, NO_INTERVAL)
    found = rerank_gain(backbone, setting, "yes_no", seed=8)
    assert [(f.frame, f.weight) for f in found] == [("yes_no", weight) for weight in WEIGHTS]

    def states(name: str, side: str) -> np.ndarray:
        items = [Item(row[name]) for row in rows]
        return by_hooks("llama", backbone, model, TASK, items, side)["mlp[2]"]  # type: ignore[arg-type]

    pool = np.concatenate([states("paraphrase", "document"), states("near_miss", "document")])
    texts = [row["paraphrase"] for row in rows] + [row["near_miss"] for row in rows]
    transform = mapped(kind, pool)
    scores = transform(states("sentence", "query")) @ transform(pool).T
    alone, fused = [], {weight: [] for weight in WEIGHTS}
    forced = 0
    for own, row in enumerate(rows[:sentences]):
        first = scores[own]
        others = sorted(set(range(12)) - {own}, key=lambda place: -first[place])
        forced += int(first[own] < first[others[4]])
        chosen = [own, *others[:4]]
        margin = np.array(
            [from_full_logits(backbone, frame, row["sentence"], texts[c]) for c in chosen]
        )
        stage1 = first[chosen]
        standard = (stage1 - stage1.mean()) / np.sqrt(((stage1 - stage1.mean()) ** 2).mean())
        alone.append(1 / sum(stage1 >= stage1[0]))
        for weight in WEIGHTS:
            together = margin if weight is None else standard + weight * margin
            fused[weight].append(1 / sum(together >= together[0]))
    assert forced, "a partner beyond the first five"
    for fusion in found:
        ranks = np.array(fused[fusion.weight])
        same(fusion.reciprocal_rank, ranks, 8)
        same(fusion.gain, ranks - np.array(alone), 8)
    assert {np.sign(f.gain.mean) for f in found} - {0.0}, "a gain of the other sign would pass"
