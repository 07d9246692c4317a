"""ReAlign as its authors' code does it."""

from collections.abc import Callable

import pytest
import torch
from PIL import Image

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.systems.realign import opening, summarize, whiten_apart
from freeret.evaluate.systems.registry import Pooled, system
from freeret.recipe import Recipe
from probes import Backbone, Item
from probes.geometry import unit
from tests.models import tokenizer

Tiny = Callable[[str], Backbone]
TEXTS = ["the word", "one of the image " * 3, "Yes"]


def published(x: torch.Tensor, alpha: float = 0.1) -> torch.Tensor:
    """The equations of the authors' `shrinkage_whiten`, in its own order and in float32."""
    centred = x - x.mean(0, keepdim=True)
    covariance = centred.T @ centred / (len(x) - 1)
    size = x.shape[1]
    shrunk = (1 - alpha) * covariance + alpha * torch.trace(covariance) / size * torch.eye(size)
    u, s, _ = torch.linalg.svd(shrunk)
    return unit(centred @ (u @ torch.diag(1.0 / torch.sqrt(s + 1e-5)) @ u.T))


@pytest.mark.parametrize("spread", [5.0, 0.02])
@pytest.mark.parametrize("count", [3, 20, 400])
def test_whitening_is_the_published_one(count: int, spread: float) -> None:
    """Fewer vectors than dimensions among them, and vectors that differ by little."""
    drawn = torch.Generator().manual_seed(count)
    noise = torch.randn(count, 32, generator=drawn) @ torch.randn(32, 32, generator=drawn)
    vectors = spread * noise + 3
    found = whiten_apart(vectors)
    torch.testing.assert_close(found, published(unit(vectors)), atol=1e-3, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(count))


def test_a_lone_vector_and_equal_ones_do_no_harm() -> None:
    lone = torch.randn(1, 8)
    torch.testing.assert_close(whiten_apart(lone), unit(lone))
    assert whiten_apart(torch.ones(5, 8)).isfinite().all()
    assert whiten_apart(torch.empty(0, 8)).shape == (0, 8)


def test_the_wording_is_that_of_each_kind() -> None:
    shot = Image.new("RGB", (8, 8))
    said = {
        summarize(item).user[-1]
        for item in (Item("a"), Item(images=[shot]), Item("a", images=[shot]))
    }
    assert said == {
        "\nSummarize the above sentence in one word: ",
        "\nSummarize the above image in one word: ",
        "\nSummarize the above image and the sentence in one word: ",
    }


@pytest.mark.parametrize("name", ["llama", "qwen2.5-vl"])
def test_the_mean_is_over_the_users_turn_alone(name: str, tiny: Tiny) -> None:
    """The template without its generation prompt, as the authors' collator renders it."""
    backbone = tiny(name)
    found = Pooled("realign", backbone).encode([Item(text) for text in TEXTS])
    for text, vector in zip(TEXTS, found, strict=True):
        said = f"{text}\nSummarize the above sentence in one word: "
        content = [{"type": "text", "text": said}] if backbone.encoder.processor else said
        templater = backbone.encoder.processor or backbone.tokenizer
        rendered = templater.apply_chat_template(
            [{"role": "user", "content": content}],
            chat_template=getattr(templater, "chat_template", None),
            tokenize=False,
        )
        ids = backbone.tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            states = backbone.model(**ids, output_hidden_states=True).hidden_states[-1][0]
        torch.testing.assert_close(vector, states.mean(0), atol=1e-5, rtol=0)
    assert opening(backbone) > 0


def test_without_a_template_nothing_is_left_out(tiny: Tiny) -> None:
    assert opening(Backbone.load(tiny("llama").model, tokenizer=tokenizer(chat=False))) == 0


def test_queries_and_candidates_are_whitened_apart(tiny: Tiny) -> None:
    """Adding a query moves the scores of the others, which no geometry of the retriever does."""
    queries = [Item(f"{text} {i}", id=f"q{i}") for i, text in enumerate(TEXTS)]
    documents = [Item(f"{text} image {i}", id=f"d{i}") for i, text in enumerate(TEXTS * 2)]
    judged = {f"q{i}": {f"d{i}": 1} for i in range(3)}
    whole = Dataset("whole", queries, documents, judged)
    one = system("realign", lambda: tiny("llama"), Recipe.paper)
    assert isinstance(one, Pooled)
    q, d = (one.encode(items) for items in (queries, documents))
    expected = published(unit(q)) @ published(unit(d)).T
    for row, scores in zip(expected, one.run(whole).values(), strict=True):
        found = torch.tensor([scores[f"d{i}"] for i in range(6)])
        torch.testing.assert_close(found, row, atol=1e-3, rtol=0)
    fewer = one.run(whole.only(queries[:2], documents))
    assert fewer["q0"] != pytest.approx(one.run(whole)["q0"], abs=1e-3)


def test_the_names_mean_two_things(tiny: Tiny) -> None:
    own = system("e5v-whiten", lambda: tiny("llama"), Recipe.paper).identity()
    assert (own["geometry"], own["prompts"][0]["name"]) == ("whiten", "e5v")
    assert system("realign", lambda: tiny("llama"), Recipe.paper).identity() == {
        "pooling": "realign", "prompt": "\nSummarize the above sentence in one word: ",
        "shrinkage": 0.1, "epsilon": 1e-5,
    }  # fmt: skip
