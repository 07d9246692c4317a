"""A vector is the state at its site, whatever stood beside it in the batch."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from probes import Backbone, ControlPrompt, Item, record
from probes.errors import BadItem
from probes.prompts import NAMED, as_prompt
from tests.models import TEXT, tokenizer

Tiny = Callable[[str], Backbone]
WORDS = ["the word", "Yes", "one of the image " * 5, "日本 🙂", "a", "n" * 90, "<|im_end|>"]


def alone(backbone: Backbone, prompt: Any, site: str, item: Any, side: Any = "document") -> Tensor:
    """The state of one item, alone in a plain batch that shares no prefix."""
    asked = as_prompt(prompt).apply(Item(item) if isinstance(item, str) else item, side)
    return record(backbone, backbone.encode([asked]), [site])[site][0].float()


def apart(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm(dim=-1) / b.norm(dim=-1)).max().item()


@pytest.mark.parametrize("prompt", NAMED)
@pytest.mark.parametrize("site", ["attn[-1]", "mlp[1]", "norm", "embed"])
def test_a_vector_is_the_state_at_its_site(prompt: str, site: str, tiny: Tiny) -> None:
    backbone = tiny("llama")
    vectors = Embedder(backbone, site, prompt).encode(WORDS)
    expected = torch.stack([alone(backbone, prompt, site, word) for word in WORDS])
    assert vectors.dtype == torch.float32
    assert apart(vectors, expected) <= 1e-5


def test_the_papers_setting_is_the_default(tiny: Tiny) -> None:
    backbone = tiny("llama")
    expected = alone(backbone, ControlPrompt(), "attn[-1]", "the word")
    assert apart(Embedder(backbone).encode("the word")[0], expected) <= 1e-5
    by_recipe = Embedder.from_recipe(backbone, Recipe.e5v())
    assert (str(by_recipe.site), by_recipe.prompts) == ("norm", [NAMED["e5v"]])


def test_each_side_has_its_own_words(tiny: Tiny) -> None:
    backbone, prompt = tiny("llama"), ControlPrompt(task="question")
    embedder = Embedder(backbone, prompt=prompt)
    query, document = embedder.encode_query("the word"), embedder.encode_document("the word")
    assert apart(query[0], alone(backbone, prompt, "attn[-1]", "the word", "query")) <= 1e-5
    assert apart(document[0], alone(backbone, prompt, "attn[-1]", "the word")) <= 1e-5
    assert apart(query, document) > 0.01
    same = Embedder(backbone, prompt=ControlPrompt())
    assert apart(same.encode_query("a"), same.encode_document("a")) <= 1e-5


def test_several_prompts_are_averaged_as_unit_vectors(tiny: Tiny) -> None:
    backbone = tiny("llama")
    prompts = ["e5v", "prompteol", ControlPrompt(task=None)]
    found = Embedder(backbone, prompt=prompts).encode(WORDS)
    each = np.stack([Embedder(backbone, prompt=p).encode(WORDS).numpy() for p in prompts])
    expected = (each / np.linalg.norm(each, axis=-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_similarity_is_the_cosine(tiny: Tiny) -> None:
    a, b = torch.randn(3, 64) * 9, torch.randn(5, 64) / 9
    expected = (a @ b.T) / a.norm(dim=1)[:, None] / b.norm(dim=1)[None]
    torch.testing.assert_close(Embedder.similarity(a, b), expected, atol=1e-6, rtol=0)


def test_what_may_be_given(tiny: Tiny) -> None:
    embedder = Embedder(tiny("llama"))
    expected = embedder.encode(["the word"])
    for form in ("the word", Item("the word"), {"text": "the word", "id": "x"}, iter(["the word"]),
                 [[{"role": "user", "content": "the word"}]]):  # fmt: skip
        assert torch.equal(embedder.encode(form), expected)
    assert embedder.encode([]).shape == (0, 64)


def test_kinds_mix_in_one_list(tiny: Tiny) -> None:
    backbone = tiny("qwen2.5-vl")
    picture = Image.new("RGB", (48, 48), "teal")
    items = [Item("the word"), Item(images=[picture]), Item("what", images=[picture]), Item("Yes")]
    found = Embedder(backbone).encode(items)
    expected = torch.stack([alone(backbone, "control", "attn[-1]", item) for item in items])
    assert apart(found, expected) <= 1e-5


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@given(data=st.data())
@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_vector_does_not_depend_on_its_batch(name: str, tiny: Tiny, data: st.DataObject) -> None:
    backbone = tiny(name)
    chosen = data.draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9))
    budget = data.draw(st.sampled_from([1, 60, 150, 10_000]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "loading", replace(backbone.loading, token_budget=budget))
        together = Embedder(backbone).encode(chosen)
    one_by_one = Embedder(backbone)
    expected = torch.cat([one_by_one.encode([word]) for word in chosen])
    assert apart(together, expected) <= 1e-5


def test_rows_made_before_give_the_same(tiny: Tiny) -> None:
    embedder = Embedder(tiny("llama"), prompt=["e5v", "control"])
    rows = [embedder.rows(Item(word), "query") for word in WORDS]
    assert torch.equal(embedder.encode_rows(rows), embedder.encode_query(WORDS))


def test_identity_says_all_that_decides_a_vector(tiny: Tiny) -> None:
    def identity(**settings: Any) -> dict[str, Any]:
        return Embedder(tiny("llama"), **settings).identity()

    same = [identity(), identity(site="attn[3]"), identity(prompt=ControlPrompt())]
    other = [identity(site="attn[2]"), identity(site="mlp[-1]"), identity(prompt="e5v"),
             identity(prompt=["control", "e5v"]), identity(prompt=ControlPrompt(denoise=False)),
             identity(prompt=ControlPrompt(task="question"))]  # fmt: skip
    assert all(one == same[0] for one in same)
    assert len({str(one) for one in [same[0], *other]}) == 1 + len(other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"site": "attn[4]"}, "4 layers"),
        ({"site": "layer"}, "not a site"),
        ({"prompt": "nonsense"}, "no prompt 'nonsense'"),
        ({"prompt": ["e5v", "nonsense"]}, "no prompt 'nonsense'"),
    ],
)
def test_settings_that_name_nothing_are_refused(
    settings: dict[str, Any], said: str, tiny: Tiny
) -> None:
    with pytest.raises(ValueError, match=said):
        Embedder(tiny("llama"), **settings)


def test_the_bad_item_of_a_list_is_named(tiny: Tiny) -> None:
    embedder = Embedder(tiny("llama"))
    with pytest.raises(BadItem, match="'second'"):
        embedder.encode([{"id": "first", "text": "a"}, {"id": "second", "text": " "}])
    picture = Item(images=[Image.new("RGB", (8, 8))], id="second")
    with pytest.raises(BadItem, match=r"'second'.*text only"):
        embedder.encode(["a", picture])


def test_a_base_model_embeds_too() -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=False, bos="<s>"))
    vectors = Embedder(backbone, prompt="prompteol").encode(WORDS)
    expected = torch.stack([alone(backbone, "prompteol", "attn[-1]", word) for word in WORDS])
    assert apart(vectors, expected) <= 1e-5


def test_a_recipes_task_that_its_prompt_does_not_state_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="states no task"):
        Embedder.from_recipe(tiny("llama"), Recipe("prompteol", task="question"))
    asked = Embedder.from_recipe(tiny("llama"), Recipe("control", task="question"))
    assert asked.prompts == [ControlPrompt(task="question")]
