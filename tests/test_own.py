"""The project's own items are of the kind they stand for, and of more than one use."""

import pytest

from probes.own import own_captions, own_documents, own_queries


@pytest.mark.parametrize("kind", ["text", "image", "image+text", "video"])
def test_own_queries_are_of_the_kind_asked_for(kind: str) -> None:
    items = own_queries(kind)
    assert len(items) >= 30
    assert {item.signature for item in items} == {kind}


def test_of_other_kinds_there_are_none() -> None:
    assert own_queries("audio") == own_queries("audio+text") == []


def test_sentences_and_captions_weigh_alike() -> None:
    assert len(own_documents()) == len(own_captions()) == 200
    captions = {item.text for item in own_captions()}
    assert len(captions) == 200
    told = [item.text in captions for item in own_queries("image+text")]
    assert sum(told) == len(told) / 2
    assert own_queries("text") == own_documents() + own_captions()
