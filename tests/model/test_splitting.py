"""Long texts are cut into equal passages, of which nothing is lost."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from probes import Backbone, Item
from probes.errors import BadSetting
from probes.geometry import unit
from probes.model.encoding.splitting import passages_of
from tests.samples import picture

Tiny = Callable[[str], Backbone]
LONG = " ".join(["the word", "one of", "a", "Yes"] * 5)


@given(st.text(alphabet="ab \n\t日", min_size=1, max_size=200), st.integers(1, 30))
def test_a_text_is_cut_between_words_and_nothing_is_lost(text: str, words: int) -> None:
    if not text.strip():
        return
    passages = [passage.text for passage in passages_of(Item(text), words)]
    assert " ".join(passages).split() == text.split()
    assert all(passage == passage.rstrip() for passage in passages[:-1])
    lengths = [len(passage.split()) for passage in passages]
    assert max(lengths) - min(lengths) <= 1
    assert len(passages) == 1 or max(lengths) <= 1.5 * words + 1


def test_only_a_lone_text_is_cut() -> None:
    for item in (Item(LONG, images=[picture()]), Item(images=[picture()]), Item("the word")):
        assert passages_of(item, 8) == [item]
    assert len(passages_of(Item(LONG), 8)) == 4
    assert {passage.id for passage in passages_of(Item(LONG, id="7"), 8)} == {"7"}


@pytest.mark.parametrize("prompts", [["prompteol"], ["e5v", "control"]])
def test_the_vector_of_a_long_document_is_the_mean_of_its_passages(
    prompts: list[str], tiny: Tiny
) -> None:
    """Beside a short one; and a query is always read whole."""
    backbone = tiny("llama")
    documents = [Item("a"), Item(LONG), Item("the word")]
    found = Embedder(backbone, prompt=list(prompts), passage=10).encode(documents)
    for document, vector in zip(documents, found, strict=True):
        parts = [
            unit(Embedder(backbone, prompt=prompt).encode([passage]))[0]
            for prompt in prompts
            for passage in passages_of(document, 10)
        ]
        expected = torch.stack(parts).mean(0)
        assert torch.allclose(unit(vector[None]), unit(expected[None]), atol=1e-5)
    whole, cut = (Embedder(backbone, passage=length).encode_query(LONG) for length in (None, 10))
    assert torch.equal(whole, cut)


def test_a_recipe_that_cuts_makes_other_vectors(tiny: Tiny) -> None:
    backbone = tiny("llama")
    whole = Embedder.from_recipe(backbone, Recipe())
    cut = Embedder.from_recipe(backbone, Recipe(passage=10))
    assert whole.identity() != cut.identity()
    assert cut.for_task("question").passage == 10
    assert not torch.allclose(whole.encode([LONG]), cut.encode([LONG]), atol=1e-3)
    with pytest.raises(BadSetting, match="passage"):
        Embedder(backbone, passage=0)


def test_passages_follow_each_other() -> None:
    texts = [passage.text for passage in passages_of(Item("1 2 3 4 5 6 7 8 9"), 3)]
    assert [text.split() for text in texts] == [["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"]]
    assert all(before < after for before, after in pairwise(texts))
