"""Likelihoods are those of the plain model on whole rows, whatever rows share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.items import Item
from probes.measure.judges.likelihood import likelihood, likelihood_prompt
from probes.model.backbone import Backbone
from tests.models import MULTIMODAL, TEXT
from tests.samples import picture

Tiny = Callable[[str], Backbone]
QUERIES = ["the word", "the word of one image", "a", "日本 🙂"]
CANDIDATES = ["one of the image " * 6, "the word", "<|im_start|>assistant\nthe word"]


def log_probability(backbone: Backbone, context: Item | None, text: str) -> float:
    """The log-probability of a text, from the logits of the plain model."""
    ids = backbone.encoder.plain.tokenize(f" {text}")
    row = backbone.row(likelihood_prompt(context))
    batch = backbone.collate([row.predicting(ids)])
    with torch.no_grad():
        logits = backbone.model(**batch.inputs).logits[0].double().log_softmax(-1)
    assert len(logits) == len(row) + len(ids) - 1
    return float(np.sum([logits[len(row) - 1 + i, id] for i, id in enumerate(ids)]))


def gain(backbone: Backbone, context: Item, text: str) -> float:
    return log_probability(backbone, context, text) - log_probability(backbone, None, text)


def margin(backbone: Backbone, query: str, candidate: str) -> float:
    both = gain(backbone, Item(candidate), query), gain(backbone, Item(query), candidate)
    return sum(both) / 2


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_margins_are_those_of_whole_rows(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    pairs = [(Item(query), Item(c)) for c in CANDIDATES for query in QUERIES]
    expected = [margin(backbone, query.text, candidate.text) for query, candidate in pairs]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(likelihood(backbone, pairs), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2.5-vl", "gemma3-vl", "smolvlm", "qwen2.5-omni"])
def test_the_side_with_text_alone_is_predicted(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    image, text = Item(images=[picture()]), Item("the word")
    expected = gain(backbone, image, "the word")
    assert abs(expected) > 1e-3
    pairs = [(text, image), (image, image), (image, text)]
    np.testing.assert_allclose(likelihood(backbone, pairs), [expected, 0, expected], atol=1e-4)


def test_a_long_text_leaves_room_for_what_it_is_predicted_from(tiny: Tiny) -> None:
    """Cut to nothing, all candidates would score alike without a word said."""
    backbone = tiny("llama")
    long = Item("the word " * 20_000)
    margins = likelihood(backbone, [(long, Item(text)) for text in ("one image", "日本 🙂")])
    assert abs(margins[0] - margins[1]) > 1e-6
    assert np.isfinite(likelihood(backbone, [(Item("a"), long)])).all()


def test_candidates_of_a_query_and_queries_of_a_candidate_do_not_meet(tiny: Tiny) -> None:
    """A margin does not depend on what is judged with it."""
    backbone = tiny("llama")
    pairs = [(Item(q), Item(c)) for q in QUERIES for c in CANDIDATES]
    alone = [likelihood(backbone, [pair])[0] for pair in pairs]
    np.testing.assert_allclose(likelihood(backbone, pairs), alone, atol=1e-5)
    assert len(likelihood(backbone, [])) == 0
