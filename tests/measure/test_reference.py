"""Reference items are of the modality they stand for, of more than one use, and encoded once."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from probes.data import pictures
from probes.items import Item
from probes.measure.reference import (
    at_column,
    captions,
    cross_modal,
    everyday,
    reference_items,
    reference_vectors,
    sentences,
)
from probes.prompts import Side


@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("signature", ["text", "image", "image+text", "video"])
def test_reference_items_are_of_the_signature_asked_for(signature: str, side: Side) -> None:
    items = reference_items(side, signature)
    assert len(items) >= 30
    assert {item.signature for item in items} == {signature}


def test_there_are_none_of_other_signatures() -> None:
    assert reference_items("query", "audio") == reference_items("document", "audio+text") == []


def test_kinds_of_queries_weigh_alike() -> None:
    assert len(sentences()) == len(captions()) == len(everyday()) == 200
    for_media = reference_items("query", cross_modal("text"))
    assert for_media == sentences() + captions() + everyday()
    assert len({item.text for item in for_media}) == 600
    assert cross_modal("image+text") == "image+text"
    texts = {item.text for item in captions()}
    assert len(texts) == 200
    captioned = [item.text in texts for item in reference_items("query", "image+text")]
    assert sum(captioned) == len(captioned) / 2
    assert reference_items("query", "text") == sentences() + captions()
    assert reference_items("document", "text") == sentences()


def test_drawn_scenes_and_everyday_pictures_stand_for_pictures() -> None:
    shown = reference_items("query", "image")
    files = [item.media[0].value for item in shown]
    assert [value.name for value in files if isinstance(value, Path)] == [
        row["file"] for row in pictures()
    ]
    assert len(files) == 60 + len(pictures())
    assert shown == reference_items("document", "image")


@pytest.mark.parametrize("symmetric", [True, False])
def test_each_group_is_encoded_once(symmetric: bool) -> None:
    calls: list[tuple[int, Side]] = []

    def encode(items: list[Item], side: Side) -> Tensor:
        calls.append((len(items), side))
        return torch.tensor([[float(len(item.text)), float(side == "query")] for item in items])

    reference = reference_vectors(encode, symmetric=symmetric)
    for _ in range(2):
        documents, queries = reference("document", "text"), reference("query", "text")
        assert reference("query", "audio") is None
    assert documents is not None
    assert queries is not None
    assert documents[:, 0].tolist() == [len(item.text) for item in sentences()]
    assert queries[:, 0].tolist() == [len(item.text) for item in sentences() + captions()]
    assert calls.count((200, "document")) == (2 if symmetric else 1)
    assert calls.count((200, "query")) == (0 if symmetric else 2)
    assert documents[:, 1].max() == 0
    assert queries[:, 1].unique().tolist() == [0.0 if symmetric else 1.0]


def test_a_reference_at_a_column_asks_for_the_same_items() -> None:
    states = torch.arange(24.0).reshape(4, 3, 2)

    def reference(side: Side, signature: str) -> Tensor | None:
        return states if (side, signature) == ("query", "image") else None

    found = at_column(reference, 1)("query", "image")
    assert found is not None
    assert torch.equal(found, states[:, 1])
    assert at_column(reference, 1)("document", "image") is None
