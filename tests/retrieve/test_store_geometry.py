"""The geometry of a store: fitted, changed, helped by reference items where items are few."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from probes.errors import BadSetting
from probes.geometry import CorpusGeometry, unit
from probes.measure.reference import (
    captions,
    everyday,
    reference_items,
    sentences,
)
from probes.prompts import Side
from tests.retrieve.corpora import PLAIN, counted, ids, texts

Tiny = Callable[[str], Backbone]
CENTRED = Recipe("e5v", "attn[-1]", "centre", None)


def test_queries_are_centred_by_the_mean_of_examples(backbone: Backbone, tmp_path: Path) -> None:
    """The mean of the examples replaces the estimate from the corpus, whatever its size."""
    asked = ["the word", "17 of", "of the word"]
    plain = FreeRet(backbone, CENTRED)
    plain.index(texts(120), tmp_path / "s")
    retriever = FreeRet.load(tmp_path / "s", backbone, examples=asked)
    scores = {hit.id: hit.score for hit in retriever.search("17 of", top_n=120)}
    raw = retriever.embedder.encode_query(asked)
    geometry = retriever.corpus.store.geometry()
    assert geometry is not None
    centred = unit(unit(raw) - unit(raw).mean(0))[1]
    loaded = retriever.corpus.store.vectors()
    pool = geometry.map(loaded.vectors, loaded.signatures, "document")
    expected = dict(zip(loaded.ids, (pool @ centred).tolist(), strict=True))
    assert scores == pytest.approx(expected, abs=1e-5)
    with pytest.raises(BadSetting, match="one example of text"):
        FreeRet(backbone, CENTRED, examples=["alone"])
    raw_store = FreeRet(backbone, PLAIN)
    raw_store.index(texts(10), tmp_path / "plain")
    given = FreeRet.load(tmp_path / "plain", backbone, examples=asked)
    assert given.search("17 of") == raw_store.search("17 of"), "no geometry, nothing is centred"


def test_geometry_changes_without_encoding_again(backbone: Backbone, tmp_path: Path) -> None:
    first = FreeRet(backbone, PLAIN)
    first.index(texts(120), tmp_path / "s")
    other = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    with counted(backbone) as tokens:
        other.index([], tmp_path / "s")
    assert tokens == []
    fresh = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    fresh.index(texts(120), tmp_path / "fresh")
    np.testing.assert_allclose(
        [h.score for h in other.search("the word", top_n=9)],
        [h.score for h in fresh.search("the word", top_n=9)],
        atol=1e-5,
    )
    kept = FreeRet.load(tmp_path / "s", backbone).corpus.store.geometry()
    assert kept is not None
    assert kept.kind == "whiten"


def test_the_means_of_a_small_corpus_are_shrunk_towards_reference_items(
    backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", "whiten", "mcq"))
    retriever.index(texts(10), tmp_path / "s")
    encode = retriever.embedder.encode
    rows = encode([item["text"] for item in texts(10)])
    reference = {"document": encode(sentences()), "query": encode([*sentences(), *captions()])}
    ids = [item["id"] for item in texts(10)]
    fitted = CorpusGeometry.of(
        "whiten", ids, ["text"] * 10, rows, lambda side, signature: reference[side]
    )
    kept = retriever.corpus.store.geometry()
    assert kept is not None
    for side in ("document", "query"):
        ours, theirs = (g.means[side, "text"] for g in (kept, fitted))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    query = fitted.map(encode(["the word"], "query"), ["text"], "query")
    pool = fitted.map(rows, ["text"] * 10, "document")
    expected = dict(zip(ids, (pool @ query[0]).tolist(), strict=True))
    scores = {hit.id: hit.score for hit in retriever.search("the word")}
    assert scores == pytest.approx(expected, abs=1e-4)


COLOURS = ("teal", "red", "blue")


def pictures(size: int = 48) -> list[dict[str, Any]]:
    return [{"id": colour, "image": Image.new("RGB", (size, size), colour)} for colour in COLOURS]


def test_queries_of_a_signature_that_is_not_stored_take_the_reference_mean(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Text queries over a store of pictures: their mean is that of sentences and captions."""
    backbone = tiny("qwen2.5-vl")
    retriever = FreeRet(backbone, CENTRED)
    retriever.index(pictures(), tmp_path / "s")
    encode = retriever.embedder.encode
    stored = encode([Item(images=[p["image"]]) for p in pictures()])
    reference = {
        ("document", "image"): encode(reference_items("document", "image")),
        ("query", "image"): encode(reference_items("query", "image"), "query"),
        ("query", "text for media"): encode([*sentences(), *captions(), *everyday()], "query"),
    }
    geometry = CorpusGeometry.of(
        "centre", COLOURS, ["image"] * 3, stored, lambda *key: reference.get(key)
    ).with_queries(["text"], lambda *key: reference.get(key))
    query = geometry.map(encode(["the word"], "query"), ["text"], "query")
    expected = query @ geometry.map(stored, ["image"] * 3, "document").T
    scores = {hit.id: hit.score for hit in retriever.search("the word")}
    assert scores == pytest.approx(dict(zip(COLOURS, expected[0].tolist(), strict=True)), abs=1e-5)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that is empty."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def encodings(retriever: FreeRet, monkeypatch: pytest.MonkeyPatch) -> list[Item]:
    """The items that the retriever encodes from now on."""
    encoded: list[Item] = []
    rows = retriever.embedder.rows

    def noted(item: Item, side: Side = "document") -> Any:
        encoded.append(item)
        return rows(item, side)

    monkeypatch.setattr(retriever.embedder, "rows", noted)
    return encoded


def test_the_first_search_by_text_encodes_its_query_alone(
    tiny: Tiny, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of a store of pictures has encoded the reference queries, before anyone waits."""
    retriever = FreeRet(tiny("qwen2.5-vl"), CENTRED)
    encoded = encodings(retriever, monkeypatch)
    retriever.index(pictures(), tmp_path / "s")
    assert Counter(item.signature for item in encoded) == {
        "image": 3 + len(reference_items("document", "image")),
        "text": len(sentences()) + len(captions()) + len(everyday()),
    }
    later = FreeRet.load(tmp_path / "s", retriever.backbone)
    encoded = encodings(later, monkeypatch)
    later.search("the word")
    assert encoded == [Item("the word")]


def test_an_empty_store_needs_no_reference(
    tiny: Tiny, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = FreeRet(tiny("qwen2.5-vl"), CENTRED)
    encoded = encodings(retriever, monkeypatch)
    retriever.index([], tmp_path / "s")
    assert encoded == []


def test_stores_of_pictures_and_of_texts_have_their_reference_texts_in_common(
    tiny: Tiny, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sentences stand for queries of the one and for documents of the other."""
    backbone = tiny("qwen2.5-vl")
    FreeRet(backbone, CENTRED).index(pictures(), tmp_path / "pictures")
    retriever = FreeRet(backbone, CENTRED)
    encoded = encodings(retriever, monkeypatch)
    retriever.index(["the word", "17 of"], tmp_path / "texts")
    retriever.search("of the word")
    assert [item.text for item in encoded] == ["the word", "17 of", "of the word"]


def test_reference_items_are_encoded_once_for_a_backbone(
    tiny: Tiny, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their states are cached on disk, for all stores and processes; one file for each prompt."""
    backbone = tiny("qwen2.5-vl")
    first = FreeRet(backbone, CENTRED)
    first.index(pictures(), tmp_path / "s")
    hits = first.search("the word")
    for store in ("s", "t"):
        later = FreeRet(backbone, CENTRED)
        encoded = encodings(later, monkeypatch)
        later.index(pictures(), tmp_path / store)
        again = later.search("the word")
        assert len(encoded) == (1 if store == "s" else 4), "what is asked, and what is stored"
        assert [h.score for h in again] == pytest.approx([h.score for h in hits], abs=1e-5)
    assert len(list((cache / "reference").iterdir())) == 1
    FreeRet(backbone, Recipe("prompteol", "attn[-1]", "centre", None)).index(pictures())
    assert len(list((cache / "reference").iterdir())) == 2


def test_a_damaged_reference_is_made_again(tiny: Tiny, cache: Path, tmp_path: Path) -> None:
    scores = []
    for name in "st":
        retriever = FreeRet(tiny("qwen2.5-vl"), CENTRED)
        retriever.index(pictures(), tmp_path / name)
        scores.append([hit.score for hit in retriever.search("the word")])
        for file in (cache / "reference").iterdir():
            file.write_bytes(file.read_bytes()[:100])
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_a_search_works_where_the_cache_cannot_be_written(
    tiny: Tiny, cache: Path, tmp_path: Path
) -> None:
    cache.write_text("no folder can be made here")
    retriever = FreeRet(tiny("qwen2.5-vl"), CENTRED)
    retriever.index(pictures(), tmp_path / "s")
    first = retriever.search("the word")
    assert ids(retriever.search("the word")) == ids(first)
    assert {hit.id for hit in first} == set(COLOURS)


@pytest.mark.parametrize("memory", [4.0, 0.0])
@pytest.mark.parametrize("ann", [False, True])
def test_signatures_are_put_on_one_scale(
    memory: float, ann: bool, tiny: Tiny, tmp_path: Path
) -> None:
    """The score is gain · cosine + shift, in memory, streamed and with an approximate index."""
    backbone = tiny("qwen2.5-vl")
    rng = np.random.default_rng(0)
    shown = [
        {"id": f"p{i}", "image": rng.integers(0, 255, (56, 56, 3), dtype=np.uint8)}
        for i in range(40)
    ]
    retriever = FreeRet(backbone, CENTRED, memory=memory)
    retriever.index([*shown, *texts(230)], tmp_path / "s")
    if ann:
        retriever.build_ann()
    geometry, loaded = retriever.corpus.store.geometry(), retriever.corpus.store.vectors()
    assert geometry is not None
    query = geometry.map(retriever.embedder.encode_query(["17 of"]), ["text"], "query")
    calibration = geometry.calibration(query)
    pool = geometry.map(loaded.vectors, loaded.signatures, "document")
    expected = {
        id: float(calibration[s].gain * cosine + calibration[s].shift)
        for id, s, cosine in zip(
            loaded.ids, loaded.signatures, (pool @ query[0]).tolist(), strict=True
        )
    }
    hits = retriever.search("17 of", top_n=30, ann=ann)
    ranked = sorted(expected, key=lambda id: -expected[id])[:30]
    assert {hit.id: hit.score for hit in hits} == pytest.approx(
        {id: expected[id] for id in ids(hits)}, abs=1e-5
    )
    assert len(set(ids(hits)) & set(ranked)) >= (28 if ann else 30)
    assert any(id.startswith("p") for id in ids(hits))
    assert any(not id.startswith("p") for id in ids(hits))


def test_text_and_picture_queries_find_items_of_both_modalities(tiny: Tiny, tmp_path: Path) -> None:
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe("e5v", "attn[-1]", "centre", "mcq"))
    pictures = [{"id": c, "image": Image.new("RGB", (48, 48), c)} for c in ("teal", "red")]
    retriever.index([*pictures, *texts(4)], tmp_path / "s")
    loaded = FreeRet.load(tmp_path / "s", tiny("qwen2.5-vl"))
    for query in ("the word", Image.new("RGB", (48, 48), "teal")):
        found, expected = (r.search(query, rerank=3) for r in (loaded, retriever))
        assert sorted(ids(found)) == sorted(["teal", "red", *(t["id"] for t in texts(4))])
        assert ids(found) == ids(expected)
