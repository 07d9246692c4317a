"""Systems under one interface: each ranks the documents of a dataset."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.systems.registry import (
    BM25,
    Pooled,
    PromptedSystem,
    SentenceTransformers,
    system,
)
from freeret.hits import Hits
from freeret.preflight import SYSTEMS
from freeret.recipe import LEXICAL, Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from probes.errors import BadSetting
from tests.evaluate.small import RECIPE, WORDS, dataset, pairs

Tiny = Callable[[str], Backbone]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_finds_what_was_asked_for(name: str, tiny: Tiny) -> None:
    """Each query has the words of its answer, which every system ranks first."""
    found = system(name, lambda: tiny("llama"), lambda: RECIPE)
    ranking = found.run(dataset())
    assert {q: next(iter(row)) for q, row in ranking.items()} == {
        f"q{i}": f"d{i}" for i in range(6)
    }
    assert all(len(row) == 12 for row in ranking.values())
    assert found.run(pairs()).keys() == {f"q{i}" for i in range(8)}
    json.dumps(found.identity())


def test_every_system_has_its_own_identity(tiny: Tiny) -> None:
    built = [system(name, lambda: tiny("llama"), lambda: RECIPE) for name in SYSTEMS]
    assert [one.name for one in built] == list(SYSTEMS)
    assert len({json.dumps(one.identity(), sort_keys=True) for one in built}) == len(SYSTEMS)


def test_a_recipe_ranks_as_the_retriever_does(tiny: Tiny, tmp_path: Path) -> None:
    """Geometry, prompt and ties are those of `FreeRet.search`."""
    recipe = Recipe("prompteol", "mlp[-2]", "whiten", None, None)
    small = dataset(documents=20)
    retriever = FreeRet(tiny("llama"), recipe)
    retriever.index(small.documents, tmp_path / "store")
    ranking = PromptedSystem.of("recipe", tiny("llama"), recipe).run(small)
    for query in small.queries:
        hits = retriever.search(query, top_n=20)
        own = ranking[query.id or ""]
        assert list(own) == [hit.id for hit in hits]
        np.testing.assert_allclose(list(own.values()), [hit.score for hit in hits], atol=1e-5)


def test_the_task_of_the_dataset_is_the_task_prior(tiny: Tiny) -> None:
    system = PromptedSystem.of("paper", tiny("llama"), Recipe.paper())
    asked = [system.run(dataset(task=task)) for task in ("same meaning", "question")]
    assert asked[0] != asked[1]
    fixed = PromptedSystem.of("e5v", tiny("llama"), Recipe.e5v())
    asked = [fixed.run(dataset(task=task)) for task in ("same meaning", "question")]
    assert asked[0] == asked[1]


def hidden(backbone: Backbone, text: str) -> torch.Tensor:
    """All final states of one text alone, without a chat template."""
    batch = backbone.encode([text])
    with torch.no_grad():
        return backbone.model(**batch.inputs, output_hidden_states=True).hidden_states[-1][0]


def test_pooling_is_over_the_right_positions(tiny: Tiny) -> None:
    backbone = tiny("llama")
    texts = ["the word", "one of the image " * 4, "Yes"]
    items = [Item(text) for text in texts]
    for name, take in {"mean": lambda s: s.mean(0), "last": lambda s: s[-1]}.items():
        expected = torch.stack([take(hidden(backbone, text)) for text in texts])
        torch.testing.assert_close(
            Pooled(name, backbone).encode(items), expected, atol=1e-5, rtol=0
        )  # type: ignore[arg-type]
    found = Pooled("echo", backbone).encode(items)
    for text, vector in zip(texts, found, strict=True):
        whole = f"Rewrite the sentence: {text}, rewritten sentence: {text}"
        second = len(backbone.encoder.plain.tokenize(f" {text}"))
        expected = hidden(backbone, whole)[-second:].mean(0)
        torch.testing.assert_close(vector, expected, atol=1e-5, rtol=0)


def test_pooling_reads_the_whole_row_though_rows_share_a_beginning(tiny: Tiny) -> None:
    backbone = tiny("llama")
    texts = [f"one of the image and the word of the image {end}" for end in ("Yes", "No")]
    expected = torch.stack([hidden(backbone, text).mean(0) for text in texts])
    found = Pooled("mean", backbone).encode([Item(text) for text in texts])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def searched(backbone: Backbone, recipe: Recipe, data: Dataset, folder: Path) -> list[Hits]:
    """Rank all documents of a dataset for each query, with a store."""
    retriever = FreeRet(backbone, recipe)
    retriever.index(data.documents, folder)
    return retriever.search_many(data.queries, len(data.documents))


@pytest.mark.parametrize("candidates", [100, 2])
def test_the_hybrid_system_ranks_as_a_store_does(
    candidates: int, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where most documents are among the candidates of neither leg."""
    for module in ("freeret.search.corpus", "freeret.evaluate.systems.words"):
        monkeypatch.setattr(f"{module}.CANDIDATES", candidates)
    one = system("hybrid", lambda: tiny("llama"), lambda: RECIPE)
    assert one.recipe is not None
    assert one.recipe.lexical == LEXICAL
    data = dataset()
    run = one.run(data)
    hits = searched(tiny("llama"), one.recipe, data, tmp_path / "s")
    for query, expected in zip(data.queries, hits, strict=True):
        found = run[query.id or ""]
        assert list(found) == [hit.id for hit in expected]
        np.testing.assert_allclose(list(found.values()), [h.score for h in expected], atol=1e-4)


def test_bm25_is_the_lexical_leg_of_a_store(tiny: Tiny, tmp_path: Path) -> None:
    data = dataset()
    run = BM25().run(data)
    hits = searched(tiny("llama"), RECIPE.hybrid(), data, tmp_path / "s")
    for query, expected in zip(data.queries, hits, strict=True):
        scores = {hit.id: hit.legs.bm25 for hit in expected if hit.legs}
        assert run[query.id or ""] == pytest.approx(scores, abs=1e-5)
        assert max(scores.values()) > 0


def test_bm25_of_words_that_no_document_has() -> None:
    small = dataset(queries=1)
    unknown = Dataset("x", [Item("zebra", id="q0")], small.documents, {"q0": {"d0": 1}})
    assert len(BM25().run(unknown)["q0"]) == 12


def test_an_item_that_a_system_cannot_read_is_named(tiny: Tiny) -> None:
    picture = Item(images=[Image.new("RGB", (8, 8))], id="p")
    seen = Dataset("seen", [Item("a", id="q")], [picture], {"q": {"p": 1}})
    with pytest.raises(BadSetting, match="BM25 reads text, and item 'p' holds image"):
        BM25().run(seen)
    with pytest.raises(BadSetting, match="Echo repeats text, and item 'p'"):
        Pooled("echo", tiny("qwen2.5-vl")).run(seen)
    with pytest.raises(BadSetting, match="no system 'nonsense'"):
        system("nonsense", lambda: tiny("llama"), Recipe.paper)


@pytest.mark.filterwarnings("ignore")
def test_a_sentence_transformers_model_by_name(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Normalize

    model = SentenceTransformer(
        modules=[BoW(vocab=[*WORDS, *(f"number{i:02d}" for i in range(12))]), Normalize()]
    )
    model.save(str(tmp_path / "words"))
    found = SentenceTransformers(str(tmp_path / "words"))
    assert found.name == "st-words"
    small = dataset()
    texts = [d.text for d in small.documents]
    expected = model.encode(texts[:6]) @ model.encode(texts).T
    own = found.run(small)
    for row, ranking in zip(expected, own.values(), strict=True):
        np.testing.assert_allclose([ranking[f"d{i}"] for i in range(12)], row, atol=1e-5)
    with pytest.raises(BadSetting, match="no model"):
        SentenceTransformers(str(tmp_path / "none")).run(small)


def colour(name: str) -> Image.Image:
    return Image.new("RGB", (48, 48), name)


COLOURS = ["red", "green", "blue", "white", "black", "teal"]


ACROSS: dict[str, list[Item]] = {
    "text": [Item(c, id=f"t{i}") for i, c in enumerate(COLOURS)],
    "image": [Item(images=[colour(c)], id=f"p{i}") for i, c in enumerate(COLOURS)],
    "image+text": [Item("a", images=[colour(c)], id=f"b{i}") for i, c in enumerate(COLOURS)],
    "video": [Item(videos=[[colour(c)] * 2], id=f"v{i}") for i, c in enumerate(COLOURS)],
}


@pytest.mark.parametrize("asked", ACROSS)
@pytest.mark.parametrize("stored", ["text", "image"])
def test_kinds_that_a_pool_does_not_hold_are_centred_as_the_retriever_does(
    asked: str, stored: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Scores do not depend on the other queries, and no query finds itself."""
    backbone, recipe = tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", None)
    queries, documents = ACROSS[asked], ACROSS[stored]
    retriever = FreeRet(backbone, recipe)
    retriever.index(documents, tmp_path / "store")
    judged = {q.id or "": {documents[0].id or "": 1} for q in queries}
    evaluated = PromptedSystem.of("recipe", backbone, recipe)
    ranking = evaluated.run(Dataset("across", queries, documents, judged))
    alone = evaluated.run(Dataset("alone", queries[:1], documents, judged))
    found = retriever.search_many(queries, top_n=6)
    for query, hits in zip(queries, found, strict=True):
        scores = {hit.id: hit.score for hit in hits if hit.id != query.id}
        assert ranking[query.id or ""] == pytest.approx(scores, abs=1e-5)
    assert alone[queries[0].id or ""] == pytest.approx(ranking[queries[0].id or ""], abs=1e-5)
