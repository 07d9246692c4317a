"""The tiny models are what the other tests take them for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.models import MULTIMODAL, REFUSED, TEXT, VOCAB
from tests.tiny_tokenizer import LABELS, WORDS, tokenizer

BUILDERS = TEXT | MULTIMODAL | REFUSED


def weights(built: Any) -> dict[str, torch.Tensor]:
    model = built[0] if isinstance(built, tuple) else built
    return model.state_dict()


@pytest.mark.parametrize("word", LABELS + WORDS)
def test_a_label_is_one_token(word: str) -> None:
    tok = tokenizer()
    bare, spaced = (tok.encode(text, add_special_tokens=False) for text in (word, f" {word}"))
    assert len(bare) == len(spaced) == 1
    assert bare != spaced


def test_the_tokenizer_returns_any_text() -> None:
    text = "naïve 日本 Yes\n\t🙂 of the image"
    assert tokenizer().decode(tokenizer().encode(text)) == text


@pytest.mark.parametrize("name", BUILDERS)
def test_a_fresh_model_equals_the_shared_one(name: str) -> None:
    builder: Callable[[], Any] = BUILDERS[name]
    torch.manual_seed(len(name))
    state = torch.get_rng_state()
    ours, fresh = weights(builder()), weights(builder.__wrapped__())
    assert torch.equal(torch.get_rng_state(), state), "building drew from the caller's generator"
    assert all(torch.equal(ours[key], fresh[key]) for key in ours)


@pytest.mark.parametrize("name", BUILDERS)
def test_no_weight_is_constant(name: str) -> None:
    """With a norm of ones or a bias of zeros, a wrong tensor could equal the right one."""
    built = BUILDERS[name]()
    model = built[0] if isinstance(built, tuple) else built
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert [key for key, weight in model.named_parameters() if weight.std() < 0.01] == []


@pytest.mark.parametrize("name", TEXT)
def test_every_layer_rotates_the_residual_stream(name: str) -> None:
    inputs = tokenizer()(["the word of the image, in one word"], return_tensors="pt")
    with torch.inference_mode():
        states = TEXT[name]()(**inputs, output_hidden_states=True).hidden_states
    last = torch.stack(states[:-1])[:, 0, -1]
    assert (torch.cosine_similarity(last[:-1], last[1:], dim=-1) < 0.95).all()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_every_placeholder_is_in_the_vocabulary(name: str) -> None:
    model, processor = MULTIMODAL[name]()
    assert len(processor.tokenizer) < VOCAB
    assert model.config.image_token_id in processor.image_token_ids
    assert model.get_input_embeddings().num_embeddings == VOCAB
    for token in processor.all_special_multimodal_tokens:
        assert len(processor.tokenizer.encode(token, add_special_tokens=False)) == 1
