"""Hybrid search: two legs, one ranking, and nothing in a text is query syntax."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from freeret.hits import Hits
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.search.lexical import Lexical
from probes import Backbone, Item
from probes.errors import BadSetting, StoreError
from probes.measure.fusion import fuse, standardise
from tests.stores import without_words

RECIPE = replace(Recipe.paper(), geometry="centre", lexical=0.5)
TEXTS = {
    "bread": "Loaves of bread go stale because the starch in them crystallises.",
    "moon": "The moon is lit by the sun and gives no light.",
    "cats": "Cats sleep for fifteen hours a day.",
    "oven": "An oven bakes breads and cakes at two hundred degrees.",
    "sea": "The tides of the sea follow the moon.",
}


@pytest.fixture(scope="module")
def tiny(tiny: Callable[[str], Backbone]) -> Backbone:
    return tiny("llama")


@pytest.fixture
def retriever(tiny: Backbone, tmp_path: Path) -> FreeRet:
    made = FreeRet(tiny, RECIPE)
    made.index(
        [Item(text, id=id, metadata={"length": len(text)}) for id, text in TEXTS.items()],
        tmp_path / "store",
    )
    return made


def test_a_hit_has_the_scores_of_both_legs_fused_by_the_rule_of_the_project(
    retriever: FreeRet,
) -> None:
    assert retriever.store is not None
    query = "stale bread under the moon"
    hits = retriever.search(query)
    cosine = {hit.id: hit.score for hit in retriever.search(query, lexical="off")}
    bm25 = Lexical(retriever.store.table, "").best(query, 10)
    assert bm25.keys() == {"bread", "moon", "oven", "sea"}, "breads and bread are one word"
    ids = sorted(TEXTS)
    words = standardise([bm25.get(id, 0.0) for id in ids])
    expected = dict(zip(ids, fuse([cosine[id] for id in ids], words, 0.5), strict=True))
    assert [hit.id for hit in hits] == sorted(ids, key=lambda id: -expected[id])
    for hit in hits:
        assert hit.legs is not None
        assert hit.score == hit.stage1_score == pytest.approx(expected[hit.id], abs=1e-6)
        assert hit.legs.cosine == cosine[hit.id]
        assert hit.legs.bm25 == bm25.get(hit.id, 0.0)
        assert hit.legs.cosine_rank == list(cosine).index(hit.id) + 1
        rank = list(bm25).index(hit.id) + 1 if hit.id in bm25 else None
        assert hit.legs.bm25_rank == rank
