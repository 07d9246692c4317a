"""Sharing the prefix saves time and changes nothing; orders, calibration and ties do as told."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import FRAMES, Backbone, Frame, Item
from probes.errors import BadItem, BadSetting, UnsupportedBackbone
from probes.measure.framing import CONTENT_FREE, SWAPPED, Labels
from probes.measure.judges.likelihood import likelihood
from tests.models import TEXT, tokenizer

Tiny = Callable[[str], Backbone]
QUERY = "one of the image " * 4
CANDIDATES = ["the word", "Yes", "日本 🙂", "a", "n" * 70, "<|im_start|>assistant\nA", "No the"]


def whole(backbone: Backbone, frame: Frame, query: str, candidate: str) -> float:
    """The margin from the whole prompt, alone, by the plain model."""
    batch = backbone.encode([frame.apply(Item(query), Item(candidate))])
    labels = Labels.of(backbone, frame)
    with torch.no_grad():
        logits = backbone.model(**batch.inputs).logits[0, -1].double()
    positive, negative = (
        logits[list(ids)].logsumexp(0) for ids in (labels.positive, labels.negative)
    )
    return float(positive - negative)


def wholes(backbone: Backbone, frame: Frame, candidates: list[str]) -> np.ndarray:
    return np.array([whole(backbone, frame, QUERY, c) for c in candidates])


def asked(candidates: list[str]) -> list[tuple[str, str]]:
    return [(QUERY, candidate) for candidate in candidates]


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "qwen2.5-vl"])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_shared_prefix_changes_no_score(name: str, frame: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    found = Reranker(backbone, frame).margins(asked(CANDIDATES))
    expected = wholes(backbone, FRAMES[frame], CANDIDATES)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_the_candidates_share_is_computed_once(tiny: Tiny) -> None:
    backbone, reranker = tiny("llama"), Reranker(tiny("llama"))
    reranker.predict(asked(CANDIDATES))  # finds out whether a prefix can be shared
    computed: list[int] = []
    handle = backbone.model.get_input_embeddings().register_forward_hook(
        lambda _, args, __: computed.append(args[0].numel())
    )
    reranker.predict(asked(["the word"] * 20))
    handle.remove()
    row = len(backbone.row(FRAMES["mcq"].apply(Item(QUERY), Item("the word"))))
    assert sum(computed) < 20 * row / 3


@pytest.mark.parametrize("frame", FRAMES)
def test_swap_averages_both_orders(frame: str, tiny: Tiny) -> None:
    backbone = tiny("llama")
    found = Reranker(backbone, frame, order="swap").margins(asked(CANDIDATES))
    orders = [wholes(backbone, f, CANDIDATES) for f in (FRAMES[frame], SWAPPED[frame])]
    assert np.abs(orders[0] - orders[1]).max() > 0.01
    np.testing.assert_allclose(found, (orders[0] + orders[1]) / 2, atol=1e-4)


@pytest.mark.parametrize("order", ["plain", "swap"])
def test_calibration_subtracts_what_no_content_says(order: Any, tiny: Tiny) -> None:
    backbone = tiny("llama")
    frames = [FRAMES["mcq"]] + [SWAPPED["mcq"]] * (order == "swap")
    blank = np.mean([whole(backbone, f, text, text) for f in frames for text in CONTENT_FREE])
    assert abs(blank) > 0.01
    raw = Reranker(backbone, order=order).margins(asked(CANDIDATES))
    calibrated = Reranker(backbone, order=order, calibrate=True).margins(asked(CANDIDATES))
    np.testing.assert_allclose(raw - calibrated, blank, atol=1e-4)


def test_predict_is_the_probability(tiny: Tiny) -> None:
    reranker = Reranker(tiny("llama"), "yes_no")
    margins = reranker.margins(asked(CANDIDATES))
    np.testing.assert_allclose(reranker.predict(asked(CANDIDATES)), 1 / (1 + np.exp(-margins)))
    assert len(reranker.predict([])) == 0


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_score_does_not_depend_on_its_batch(name: str, tiny: Tiny, data: st.DataObject) -> None:
    reranker = Reranker(tiny(name))
    words = st.sampled_from(CANDIDATES)
    queries = st.sampled_from([QUERY, "Yes", "the word"])
    pairs = data.draw(st.lists(st.tuples(queries, words), min_size=1, max_size=8))
    together = reranker.predict(pairs)
    np.testing.assert_allclose(together, [reranker.predict([p])[0] for p in pairs], atol=1e-5)


@pytest.mark.parametrize("chat", [True, False])
def test_a_base_model_judges_too(chat: bool) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=chat, bos="<s>"))
    found = Reranker(backbone, "true_false").margins(asked(CANDIDATES))
    expected = wholes(backbone, FRAMES["true_false"], CANDIDATES)
    np.testing.assert_allclose(found, expected, atol=1e-4)


# -------------------------------------------------------------------------------------- rank


def test_rank_sorts_and_keeps_the_best(tiny: Tiny) -> None:
    reranker = Reranker(tiny("llama"))
    documents = [{"id": str(i), "text": text} for i, text in enumerate(CANDIDATES)]
    ranked = reranker.rank(QUERY, documents)
    scores = reranker.predict(asked(CANDIDATES))
    assert [r.index for r in ranked] == np.argsort(-scores, kind="stable").tolist()
    assert [r.score for r in ranked] == sorted(scores, reverse=True)
    assert all(r.item.id == str(r.index) for r in ranked)
    assert reranker.rank(QUERY, documents, top_k=2) == ranked[:2]
    assert reranker.rank(QUERY, []) == []


@pytest.mark.parametrize("count", [2, 5, 17, 40])
def test_ties_keep_the_order_given(count: int, tiny: Tiny) -> None:
    documents = ["the word" if i % 3 else CANDIDATES[i % 7] for i in range(count)]
    ranked = Reranker(tiny("llama")).rank(QUERY, documents)
    same = [r.index for r in ranked if r.item.text == "the word"]
    assert same == sorted(same)


def test_pictures_are_judged_whole(tiny: Tiny) -> None:
    backbone, picture = tiny("qwen2.5-vl"), Image.new("RGB", (48, 48), "teal")
    pairs = [(QUERY, Item("a", images=[picture])), (QUERY, Item("Yes")), (QUERY, picture)]
    reranker = Reranker(backbone)
    expected = [reranker.predict([pair])[0] for pair in pairs]
    np.testing.assert_allclose(reranker.predict(pairs), expected, atol=1e-5)


# --------------------------------------------------------------------------------- refusals


def test_a_recipe_without_a_frame_is_not_reranked_by(tiny: Tiny) -> None:
    recipe = Recipe(frame=None, why_not_reranked="AUC 0.49 includes chance")
    with pytest.raises(UnsupportedBackbone, match=r"does not rerank: AUC 0\.49"):
        Reranker.from_recipe(tiny("llama"), recipe)
    assert Reranker.from_recipe(tiny("llama"), Recipe(frame="yes_no")).frames == [FRAMES["yes_no"]]


def test_an_unknown_frame_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="no frame 'nonsense'; frames: mcq"):
        Reranker(tiny("llama"), "nonsense")


def test_a_likelihood_reranks_and_takes_no_settings_of_frames(tiny: Tiny) -> None:
    backbone = tiny("llama")
    reranker = Reranker.from_recipe(backbone, Recipe(frame="likelihood"))
    expected = likelihood(backbone, [(Item(QUERY), Item(c)) for c in CANDIDATES])
    np.testing.assert_allclose(reranker.margins(asked(CANDIDATES)), expected, atol=1e-5)
    best = reranker.rank(QUERY, CANDIDATES)[0]
    assert best.index == int(np.argmax(expected))
    assert best.score == pytest.approx(1 / (1 + np.exp(-expected.max())))
    for setting in ({"order": "swap"}, {"calibrate": True}, {"layout": "options last"}):
        with pytest.raises(BadSetting, match="of frames, not of 'likelihood'"):
            Reranker(backbone, "likelihood", **setting)


def test_an_own_frame_works_and_cannot_be_swapped(tiny: Tiny) -> None:
    own = Frame("own", "Right", "No", "Fits: Right or No.")
    found = Reranker(tiny("llama"), own).margins(asked(CANDIDATES))
    np.testing.assert_allclose(found, wholes(tiny("llama"), own, CANDIDATES), atol=1e-4)
    with pytest.raises(ValueError, match="own"):
        Reranker(tiny("llama"), own, order="swap")


def test_the_bad_item_of_a_pair_is_named(tiny: Tiny) -> None:
    reranker = Reranker(tiny("llama"))
    picture = Item(images=[Image.new("RGB", (8, 8))], id="second")
    with pytest.raises(BadItem, match="'second'"):
        reranker.rank("q", [{"id": "first", "text": "a"}, picture])
    with pytest.raises(BadItem, match="'second'"):
        reranker.rank("q", [{"id": "first", "text": "a"}, {"id": "second", "text": ""}])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("pairs", ["", "ab", {("q", "d")}, ["q"], [("q",)], [5]])
def test_what_is_no_list_of_pairs_is_refused(pairs: Any, tiny: Tiny) -> None:
    with pytest.raises(BadItem, match="list of"):
        Reranker(tiny("llama")).margins(pairs)


def test_a_long_query_leaves_room_for_the_candidates(tiny: Tiny) -> None:
    """Cut to nothing, all candidates would score alike without a word said."""
    with warnings.catch_warnings():
        scores = Reranker(tiny("llama")).predict([("the word " * 3000, c) for c in ("Yes", "n n")])
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)
