"""Hybrid search: two legs, one ranking, and nothing in a text is query syntax."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from freeret.demo.corpus import built_in_corpus
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Run
from freeret.evaluate.systems.registry import BM25, PromptedSystem
from freeret.evaluate.systems.vectors import encode_sides, rank
from freeret.hits import Hits
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.retriever import FreeRet
from freeret.search.hybrid import fuse_legs
from freeret.search.lexical import Lexical
from probes import Backbone, Item
from probes.errors import BadSetting, StoreError
from probes.measure.diagnostic.hybrid import hybrid_scores
from probes.measure.fusion import fuse
from probes.measure.reference import no_reference
from probes.stats import mean_interval
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
    words = [bm25.get(id, 0.0) for id in ids]
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


def test_off_and_a_recipe_without_a_weight_leave_a_search_as_it_was(retriever: FreeRet) -> None:
    plain = FreeRet.load(retriever.corpus.store.location, retriever.backbone)
    plain.corpus.recipe = plain.recipe = replace(RECIPE, lexical=0.0)
    off = retriever.search("stale bread", lexical="off")
    assert all(hit.legs is None for hit in off)
    assert plain.search("stale bread") == off
    on = plain.search("stale bread", lexical="on")
    assert by_words(on) == ["bread", "oven"]


def by_words(hits: Hits) -> list[str]:
    """The hits that the lexical leg has found, in its order."""
    ranks = {hit.id: hit.legs.bm25_rank for hit in hits if hit.legs}
    return sorted((id for id in ranks if ranks[id]), key=lambda id: ranks[id] or 0)


@pytest.mark.usefixtures("unchecked")
def test_a_setting_that_does_not_exist_is_refused(retriever: FreeRet) -> None:
    with pytest.raises(BadSetting, match="lexical"):
        retriever.search("stale bread", lexical="yes")  # pyright: ignore


@pytest.mark.parametrize("query", ["the of and", "", "qwertz", "日本"])
def test_a_query_without_known_words_keeps_the_order_of_the_vectors(
    query: str, retriever: FreeRet
) -> None:
    query = query or "is"
    hits = retriever.search(query)
    assert [hit.id for hit in hits] == [hit.id for hit in retriever.search(query, lexical="off")]
    assert all(hit.legs and hit.legs.bm25 == 0 and hit.legs.bm25_rank is None for hit in hits)


@pytest.mark.parametrize(
    "query",
    ["+stale -bread", '"stale bread" AND (', "words:bread stale~2 ^5", "stale* OR NOT bread"],
)
def test_a_text_is_words_and_never_query_syntax(query: str, retriever: FreeRet) -> None:
    found = Lexical(retriever.corpus.store.table, "").best(query, 10)
    assert list(found) == ["bread", "oven"]


def test_items_beyond_the_candidates_of_one_leg_are_scored_exactly(
    retriever: FreeRet, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {hit.id: hit for hit in retriever.search("the moon and bread")}
    monkeypatch.setattr("freeret.search.corpus.CANDIDATES", 1)
    [hit] = retriever.search("the moon and bread", top_n=1)
    legs = everything[hit.id].legs
    assert hit.legs is not None
    assert legs is not None
    assert hit.legs.cosine == pytest.approx(legs.cosine, abs=1e-6)
    assert hit.legs.bm25 == legs.bm25


def test_the_first_hits_do_not_depend_on_how_many_are_asked_for(
    retriever: FreeRet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeret.search.corpus.CANDIDATES", 1)
    found = retriever.search("stale bread", top_n=5)
    assert len(found) == 5
    assert [hit.score for hit in found] == sorted({hit.score for hit in found}, reverse=True)
    others = [hit for hit in found if hit.legs is None]
    nearest = [hit.id for hit in retriever.search("stale bread", lexical="off")]
    assert [hit.id for hit in others] == [id for id in nearest if id in {h.id for h in others}]
    assert len(others) >= 3
    assert retriever.search("stale bread", top_n=2) == found[:2]


def test_a_selection_holds_for_both_legs(retriever: FreeRet) -> None:
    short = len(TEXTS["cats"]), len(TEXTS["sea"])
    for filter in ({"length": list(short)}, lambda metadata: metadata["length"] in short):
        hits = retriever.search("bread moon", filter=filter)
        assert {hit.id for hit in hits} == {"cats", "sea"}
        assert by_words(hits) == ["sea"]
    assert not retriever.search("bread", kinds="image")


def test_deleted_and_replaced_items_are_found_by_the_words_that_they_have_now(
    retriever: FreeRet,
) -> None:
    retriever.delete("bread")
    retriever.index([Item("Fresh bread is sold at the sea.", id="moon")])
    words = Lexical(retriever.corpus.store.table, "")
    assert set(words.best("bread", 9)) == {"moon", "oven"}
    assert set(words.best("sun", 9)) == set()


def test_scanned_and_approximate_searches_have_the_same_lexical_leg(
    tiny: Backbone, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    names = [f"word{k}" for k in range(40)]
    texts = [Item(" ".join(rng.choice(names, 6)), id=f"{k:03}") for k in range(300)]
    made = FreeRet(tiny, RECIPE)
    made.index(texts, tmp_path / "s")
    made.build_ann()
    kept = made.search("word3 word7", top_n=20)
    scanned = FreeRet.load(tmp_path / "s", tiny, memory=0.0)
    assert same(scanned.search("word3 word7", top_n=20), kept)
    approximate = made.search("word3 word7", top_n=20, ann=True)
    common = {hit.id: hit for hit in kept}.keys() & {hit.id for hit in approximate}
    assert len(common) >= 18
    legs = {hit.id: hit.legs and hit.legs.bm25 for hit in kept}
    assert all(legs[h.id] == (h.legs and h.legs.bm25) for h in approximate if h.id in common)


def same(some: Hits, others: Hits) -> bool:
    return [hit.id for hit in some] == [hit.id for hit in others] and np.allclose(
        [hit.score for hit in some], [hit.score for hit in others], rtol=0, atol=1e-5
    )


def test_reranked_hits_stand_above_hits_with_high_hybrid_scores(retriever: FreeRet) -> None:
    hits = retriever.search("stale bread", rerank=2)
    judged = [hit.stage2_score is not None for hit in hits]
    assert judged == [True, True, False, False, False]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.legs is not None for hit in hits)


def test_an_old_store_is_searched_by_vectors_alone_and_says_so(
    retriever: FreeRet, tmp_path: Path
) -> None:
    without_words(tmp_path / "store")
    old = FreeRet.load(tmp_path / "store", retriever.backbone)
    assert old.recipe.lexical == 0.5
    assert [hit.legs for hit in old.search("bread")] == [None] * len(TEXTS)
    with pytest.raises(StoreError, match="index its items again"):
        old.search("bread", lexical="on")
    old.save(tmp_path / "copy")
    assert by_words(old.search("stale bread")) == ["bread", "oven"]


def test_words_beside_vectors_lose_nothing_on_questions_of_the_demo(smollm2: Backbone) -> None:
    """By themselves the words find far fewer of the passages."""
    whole = built_in_corpus()
    answers = {id for query in whole.queries[:24] for id in whole.judgements[query.id or ""]}
    passages = sorted(whole.documents, key=lambda passage: passage.id not in answers)
    corpus = whole.only(whole.queries[:24], passages[:36])
    recipe = recipe_for(smollm2)
    dense = PromptedSystem.of("dense", smollm2, recipe)
    encoded = encode_sides(lambda items, side: dense.encode(items, side, corpus.task), corpus)

    def ranked(lexical: float) -> np.ndarray:
        run = rank(*encoded, recipe.geometry, no_reference, lexical)
        return reciprocal(run, corpus)

    words, vectors = reciprocal(BM25().run(corpus), corpus), ranked(0.0)
    assert words.mean() < vectors.mean()
    assert mean_interval(ranked(recipe.lexical or 0.3) - vectors).high >= 0


def reciprocal(run: Run, corpus: Dataset) -> np.ndarray:
    """Reciprocal ranks of the only relevant passage of each question."""
    return np.array(
        [
            1 / (list(run[query]).index(passage) + 1)
            for query in run
            for passage in corpus.judgements[query]
        ]
    )


def test_the_diagnostic_fuses_as_a_search_does() -> None:
    """The same candidates, the first hundred of each leg, and the same scores."""
    rng = np.random.default_rng(3)
    cosines, bm25 = rng.normal(size=150), np.maximum(rng.normal(size=150), 0) * 4
    bm25[:130] *= rng.random(130) < 0.2
    ids = [f"d{place:03}" for place in range(150)]
    near, words = dict(zip(ids, cosines, strict=True)), dict(zip(ids, bm25, strict=True))
    nearest = dict(sorted(near.items(), key=lambda pair: -pair[1])[:100])
    matches = dict(sorted(words.items(), key=lambda pair: -pair[1])[:100])
    found = fuse_legs(
        nearest,
        {id: score for id, score in matches.items() if score > 0},
        lambda some: {id: near[id] for id in some},
        lambda some: {id: words[id] for id in some},
        0.3,
    )
    [scores] = hybrid_scores(cosines[None], bm25[None], 0.3)
    assert {id for id, *_ in found} == {ids[i] for i in np.flatnonzero(np.isfinite(scores))}
    assert 100 < len(found) < 150
    for id, score, _ in found:
        assert scores[ids.index(id)] == pytest.approx(score)
