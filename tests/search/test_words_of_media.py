"""Pictures are found by the words that the model reads in them, and find texts by them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freeret.embedder import Embedder
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.systems.registry import PromptedSystem
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.search.lexical import Lexical
from freeret.store.filters import Selection
from probes import Backbone, Item, record
from probes.measure.diagnostic.sets import query_set
from probes.model.vocabulary import words_of
from probes.prompts import as_prompt
from tests.samples import picture
from tests.stores import without_words

Tiny = Callable[[str], Backbone]
RECIPE = replace(Recipe.paper(), lexical=0.5)


def test_an_item_has_its_text_and_the_words_of_its_media_from_one_forward(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("llava")
    embedder = Embedder(backbone, "attn[-1]", "prompteol")
    shown, both = Item(images=[picture(40, 40, 1)]), Item("A poem", images=[picture(40, 40, 2)])
    items = [Item("the word"), shown, both]
    vectors, words = embedder.launch(items, [embedder.rows(item) for item in items])()
    assert (vectors - embedder.encode(items)).abs().max() < 1e-5
    asked = [as_prompt("prompteol").apply(item) for item in (shown, both)]
    states = [record(backbone, [one], "norm")["norm"].float() for one in asked]
    read = [words_of(backbone, state)[0] for state in states]
    assert all(read)
    assert words == ["the word", read[0], f"A poem\n{read[1]}"]
    assert embedder.words(items) == words

    def refused(*_: Any) -> None:
        raise AssertionError("a text needs no words from the model")

    monkeypatch.setattr("freeret.embedder.words_of", refused)
    assert embedder.launch(items[:1], [embedder.rows(items[0])])()[1] == ["the word"]


def test_the_words_of_several_prompts_are_those_of_their_mean(tiny: Tiny) -> None:
    embedder = Embedder(tiny("llava"), "norm", ["prompteol", "e5v"])
    shown = [Item(images=[picture(40, 40, 1)])]
    vectors = embedder.encode(shown)
    assert embedder.words(shown) == words_of(embedder.backbone, vectors)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    """Pictures and captions of other scenes than theirs, in one store."""
    retriever = FreeRet("smolsight", replace(Recipe.paper(), prompt="prompteol", lexical=0.5))
    drawn = query_set("scenes")
    captions, pictures = drawn.queries, drawn.documents
    items = [Item(images=[p.media[0].value], id=f"p{i}") for i, p in enumerate(pictures[:6])]
    items += [Item(caption.text, id=f"c{i}") for i, caption in enumerate(captions[6:12], start=6)]
    retriever.index(items, tmp_path_factory.mktemp("scenes"))
    return retriever


def test_words_find_the_picture_that_shows_them(scenes: FreeRet) -> None:
    """The first picture shows a small blue square above a large green one on a grey background."""
    assert scenes.store is not None
    [first, *_] = scenes.search("blue square", kinds="image", lexical="on")
    assert first.id == "p0"
    assert first.legs is not None
    assert first.legs.bm25_rank == 1
    assert {"blue", "green", "square", "grey"} <= set(first.words)
    assert len(first.words) == len(set(first.words)), "each word once"
    assert "blue blue" in scenes.store.words(["p0"])["p0"], "repeated by its weight"
    assert not Lexical(scenes.store.table, "").best("crystallises", 10), "not by other words"


def test_a_picture_finds_texts_by_its_words(scenes: FreeRet) -> None:
    shown = query_set("scenes").documents[6]
    hits = scenes.search({"image": shown.media[0].value}, kinds="text", lexical="on")
    assert all(hit.legs is not None and hit.words == () for hit in hits)
    best = max(hits, key=lambda hit: hit.legs.bm25 if hit.legs else 0)
    assert best.id == "c6", "its own caption shares most words with it"


def test_the_evaluation_reads_the_same_words_as_a_store(scenes: FreeRet) -> None:
    assert scenes.store is not None
    shown = query_set("scenes").documents[7].media[0].value
    queries = [Item("a blue square", id="text"), Item(images=[shown], id="picture")]
    documents = scenes.store.items([*scenes.store.hashes()])
    dataset = Dataset(
        "scenes", queries, documents, {"text": {"p0": 1}, "picture": {"p0": 1}}, task="same meaning"
    )
    run = PromptedSystem.of("hybrid", scenes.backbone, scenes.recipe).run(dataset)
    for query, hits in zip(queries, scenes.search_many(queries), strict=True):
        scores = run[str(query.id)]
        assert sorted(scores) == sorted(hit.id for hit in hits)
        for hit in hits:
            assert scores[hit.id] == pytest.approx(hit.score, abs=1e-4)


def test_a_store_without_words_has_hits_without_words(scenes: FreeRet, tmp_path: Path) -> None:
    assert scenes.store is not None
    old = shutil.copytree(scenes.store.location, tmp_path / "old")
    loaded = FreeRet.load(without_words(old), scenes.backbone)
    hits = loaded.search("blue square", kinds="image")
    assert hits
    assert all(hit.words == () for hit in hits)


def test_the_words_of_a_picture_are_used_where_there_are_no_pictures(scenes: FreeRet) -> None:
    """Elsewhere the order is that of vectors alone: pictures are told apart better by these."""
    shown = Item(images=[query_set("scenes").documents[7].media[0].value])
    for kinds in (None, "image"):
        hits = scenes.search(shown, top_n=12, lexical="on", kinds=kinds)
        by_vectors = scenes.search(shown, top_n=12, lexical="off", kinds=kinds)
        assert [hit.id for hit in hits] == [hit.id for hit in by_vectors]
        assert all(hit.legs is None or hit.legs.bm25 == 0.0 for hit in hits)
    for query, kinds in ((shown, "text"), ("a blue square", "image")):
        hits = scenes.search(query, lexical="on", kinds=kinds)
        assert max(hit.legs.bm25 for hit in hits if hit.legs) > 0.0


def test_only_queries_whose_words_are_searched_for_are_read(scenes: FreeRet) -> None:
    """To read the words of media takes a forward."""
    shown = Item(images=[query_set("scenes").documents[7].media[0].value])
    both, text = Item("on a table", images=[shown.media[0].value]), Item("a blue square")
    asked: list[Item] = []

    def read(queries: list[Item]) -> list[str]:
        asked.extend(queries)
        return [str(number) for number, _ in enumerate(queries)]

    queries = [shown, both, shown, text]
    assert scenes.corpus.words_asked(queries, read) == ["", "0", "", "1"]
    assert asked == [both, text]
    asked.clear()
    assert scenes.corpus.words_asked(queries, read, Selection.of(kinds="text")) == [*"0123"]
    assert asked == queries
