"""The SentenceTransformer of a recipe: its vectors are those of stage 1, in every way of asking."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import freeret
from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.sentence_transformers import Stage1
from probes import Backbone, Item
from probes.errors import BadItem, BadSetting, Mismatch
from probes.geometry import unit
from tests.samples import picture

Tiny = Callable[[str], Backbone]
RECIPE = Recipe("prompteol", "attn[-1]", "none", None)
TEXTS = ["the word", "one of the image", "Yes", "what of it and No one " * 9, "what"]


@pytest.fixture
def model(tiny: Tiny) -> SentenceTransformer:
    return freeret.sentence_transformer(tiny("llama"), RECIPE)


def expected(backbone: Backbone, items: Any, side: Any = "document", **prior: Any) -> np.ndarray:
    embedder = Embedder(backbone, RECIPE.site, prior.get("prompt", RECIPE.prompt))
    return unit(embedder.for_task(prior.get("task")).encode(items, side)).numpy()


def test_rows_are_those_of_the_embedder(model: SentenceTransformer, tiny: Tiny) -> None:
    assert isinstance(model, SentenceTransformer)
    vectors = model.encode(TEXTS, show_progress_bar=False)
    assert isinstance(vectors, np.ndarray)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(tiny("llama"), TEXTS), atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 64])
@pytest.mark.parametrize("geometry", ["none", "whiten"])
def test_the_batch_changes_nothing(size: int, geometry: Any, tiny: Tiny) -> None:
    recipe = dataclasses.replace(RECIPE, geometry=geometry)
    model = freeret.sentence_transformer(tiny("llama"), recipe)
    together, alone = model.encode(TEXTS, batch_size=size), [model.encode(text) for text in TEXTS]
    np.testing.assert_allclose(together, np.stack(alone), atol=1e-5)
    stage1: Any = model[0]
    kept = stage1.embedder.geometry(Embedder(tiny("llama"), RECIPE.site, RECIPE.prompt))
    assert not any(mean.is_inference() for mean in kept.means.values()), "no one could use it"


def test_each_side_has_its_words(tiny: Tiny) -> None:
    model = freeret.sentence_transformer(tiny("llama"), Recipe.paper(), task="question")
    how: dict[str, Any] = {"prompt": "control", "task": "question"}
    for encode, side in (
        (model.encode_query, "query"), (model.encode_document, "document"),
        (model.encode, "document"),
    ):  # fmt: skip
        np.testing.assert_allclose(
            encode(TEXTS), expected(tiny("llama"), TEXTS, side, **how), atol=1e-6
        )
    assert np.abs(model.encode_query(TEXTS) - model.encode_document(TEXTS)).max() > 1e-3


def test_a_prompt_of_sentence_transformers_is_the_task(tiny: Tiny) -> None:
    """MTEB asks by its types of task; people ask by a key of TASKS or in words."""
    model = freeret.sentence_transformer(tiny("llama"), Recipe.paper())
    asked = [
        model.encode(TEXTS, prompt="classification"),
        model.encode(TEXTS, prompt_name="Classification"),
        model.encode(TEXTS, prompt="Find the class that the input belongs to."),
    ]
    words = expected(tiny("llama"), TEXTS, prompt="control", task="classification")
    np.testing.assert_allclose(asked[0], words, atol=1e-6)
    np.testing.assert_allclose(asked[1], words, atol=1e-6)
    assert np.abs(asked[2] - words).max() > 1e-4, "a document of the class is asked otherwise"


def test_a_task_that_would_change_nothing_is_refused(
    model: SentenceTransformer, tiny: Tiny
) -> None:
    assert set(model.prompts) == {"query", "document"}
    with pytest.raises(BadSetting, match="prompteol states no task"):
        model.encode("the word", prompt="Represent this sentence: ")
    with pytest.raises(BadSetting, match="prompteol states no task"):
        freeret.sentence_transformer(tiny("llama"), RECIPE, task="question")


def test_forms_of_the_answer(model: SentenceTransformer) -> None:
    plain = model.encode(TEXTS)
    tensor = model.encode(TEXTS, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(plain, tensor.numpy())
    rows = model.encode(TEXTS, convert_to_numpy=False)
    assert isinstance(rows, list)
    assert isinstance(rows[0], torch.Tensor)
    np.testing.assert_allclose(model.encode(TEXTS, normalize_embeddings=True), plain, atol=1e-6)
    short = model.encode(TEXTS, truncate_dim=8)
    np.testing.assert_array_equal(short, plain[:, :8])
    assert model.encode("the word").shape == (model.get_embedding_dimension(),)
    assert model.encode([]).shape == (0,)


def test_similarities_are_cosines(model: SentenceTransformer) -> None:
    vectors = model.encode(TEXTS)
    assert model.similarity_fn_name == "cosine"
    np.testing.assert_allclose(model.similarity(vectors, vectors), vectors @ vectors.T, atol=1e-5)


def test_a_text_without_characters_is_embedded(model: SentenceTransformer) -> None:
    assert np.isfinite(model.encode(["", " \n", "the word"])).all()


def test_pictures_and_mixes_of_them(tiny: Tiny) -> None:
    backbone = tiny("qwen2.5-vl")
    model = freeret.sentence_transformer(backbone, RECIPE)
    assert model.supports("image")
    assert model.supports(("image", "text"))
    inputs = [picture(), "the word", {"image": picture(seed=1), "text": "one of"},
              {"text": "Yes", "image": [picture(), picture(seed=2)]}]  # fmt: skip
    items = [Item(images=[picture()]), "the word", inputs[2], inputs[3]]
    np.testing.assert_allclose(model.encode(inputs), expected(backbone, items), atol=1e-5)
    np.testing.assert_allclose(
        model.encode("photo.jpg"), expected(backbone, [Item("photo.jpg")])[0], atol=1e-6
    )


def test_media_that_are_not_read_are_refused(model: SentenceTransformer) -> None:
    with pytest.raises(ValueError, match="image"):
        model.encode([picture()])
    with pytest.raises(BadItem):
        model.encode([{"text": "the word"}, {"smell": 1}])


def test_the_length_can_be_limited(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    from tests.models import TEXT, tokenizer

    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    model = freeret.sentence_transformer(backbone, RECIPE)
    long = "the word of it " * 30
    whole = model.encode(long)
    model.max_seq_length = 64
    assert model.max_seq_length == backbone.encoder.max_tokens == 64
    assert np.abs(model.encode(long) - whole).max() > 1e-4
    assert "cut from" in caplog.text
    with pytest.raises(BadSetting, match="max_seq_length"):
        model.max_seq_length = 0


def test_facts_that_libraries_ask_for(model: SentenceTransformer, tiny: Tiny) -> None:
    assert model.device == tiny("llama").device
    assert model.dtype == torch.float32
    assert model.tokenizer is tiny("llama").tokenizer
    assert model.config.hidden_size == model.get_embedding_dimension()  # pyright: ignore
    with pytest.warns(FutureWarning, match="renamed"):
        assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension()
    assert model.model_card_data.model_name == f"freeret/{Path(tiny('llama').name).name}"
    assert "prompteol at attn[-1], geometry none" in repr(model)


def test_a_saved_model_is_loaded_by_name(smollm2: Backbone, tmp_path: Path) -> None:
    """Weights stay where they are; sentence-transformers asks for leave to import freeret."""
    model = freeret.sentence_transformer(smollm2, RECIPE)
    model.save(str(tmp_path), create_model_card=False)
    assert not list(tmp_path.glob("*.safetensors"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path), device="cpu")
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(again.encode(TEXTS[:2]), model.encode(TEXTS[:2]), atol=1e-6)
    settings = tmp_path / "freeret.json"
    digest = smollm2.fingerprint()["weights"]
    settings.write_text(settings.read_text().replace(digest, "0" * len(digest)))
    with pytest.raises(Mismatch, match="has other weights"):
        Stage1.load(str(tmp_path))
