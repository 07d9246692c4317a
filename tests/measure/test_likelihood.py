"""The likelihood of a query is that of the plain model on whole rows, whatever rows share."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.errors import BadItem
from probes.items import Item
from probes.measure.likelihood import likelihood, prompt
from probes.model.backbone import Backbone
from tests.models import MULTIMODAL, TEXT
from tests.samples import picture

Tiny = Callable[[str], Backbone]
QUERIES = ["the word", "the word of one image", "a", "日本 🙂"]
CANDIDATES = ["one of the image " * 6, "the word", "<|im_start|>assistant\nthe word"]


def log_probability(backbone: Backbone, context: Item | None, text: str) -> float:
    """The mean log-probability of the tokens of a text, from the logits of the plain model."""
    ids = backbone.encoder.plain.tokenize(f" {text}")
    row = backbone.row(prompt(context))
    batch = backbone.collate([row.predicting(ids)])
    with torch.no_grad():
        logits = backbone.model(**batch.inputs).logits[0].double().log_softmax(-1)
    assert len(logits) == len(row) + len(ids) - 1
    return float(np.mean([logits[len(row) - 1 + i, id] for i, id in enumerate(ids)]))


def margin(backbone: Backbone, context: Item, text: str) -> float:
    return log_probability(backbone, context, text) - log_probability(backbone, None, text)


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_margins_are_those_of_whole_rows(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    pairs = [(Item(query), Item(c)) for c in CANDIDATES for query in QUERIES]
    expected = [margin(backbone, candidate, query.text) for query, candidate in pairs]
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(likelihood(backbone, pairs), expected, atol=1e-4)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_side_with_text_alone_is_predicted(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    if "image" not in backbone.modalities:
        pytest.fail("every multimodal family here reads pictures")
    image, text = Item(images=[picture()]), Item("the word")
    expected = margin(backbone, image, "the word")
    pairs = [(text, image), (image, text), (text, image)]
    np.testing.assert_allclose(likelihood(backbone, pairs), [expected] * 3, atol=1e-4)
    with pytest.raises(BadItem, match="both hold media"):
        likelihood(backbone, [(image, image)])
