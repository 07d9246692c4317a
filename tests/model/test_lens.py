"""The logit lens ends with the model's own logits; words and labels are rows of the LM head.

What a model does after its last layer is written here by architecture, and not taken from the
anatomy: the final norm, the LM head, Granite's scaling and Gemma's softcap.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probes.errors import BadSetting
from probes.model.backbone import Backbone
from probes.model.sites import Site, all_sites
from probes.model.trace import record
from tests.model.test_trace import DECODER, NORM, reference, relative, sources_for
from tests.models import MULTIMODAL, TEXT
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
PROMPTS = ["the word", "Yes", "one word of the image: 日本, naïve and 12345 others 🙂"]


def unembed(name: str, model: Any, state: Tensor, *, normed: bool = False) -> Tensor:
    """Logits of a state, before or after the final norm."""
    with torch.no_grad():
        if not normed:
            decoder = model.get_submodule(DECODER.get(name, "model"))
            state = getattr(decoder, NORM.get(name, "norm"))(state)
        logits = model.lm_head(state)
    if name == "granite":
        logits = logits / 2.0
    if name == "gemma2":
        logits = 30.0 * torch.tanh(logits / 30.0)
    return logits


def check_lens(name: str, backbone: Backbone, sources: list) -> None:
    """At every site, with states of plain hooks and the model's own norm and head."""
    expected = reference(name, backbone.model, backbone.encode(sources))
    states, own = expected.sites, expected.logits.float()
    stream = [site for site in states if site != "norm"]
    stacked = torch.stack([states[site] for site in stream])
    logits = dict(zip(stream, unembed(name, backbone.model, stacked), strict=True)) | {"norm": own}
    found = {site: backbone.lens(state, site) for site, state in states.items()}
    assert {lens.dtype for lens in found.values()} == {torch.float32}
    for site, lens in found.items():
        assert relative(lens, logits[site]) <= 1e-6, site
    assert relative(found[stream[-1]], own) <= 1e-6
    assert torch.equal(backbone.lens(states["norm"], Site("norm")), found["norm"])
    twice = unembed(name, backbone.model, states["norm"])
    assert relative(twice, own) > 0.01, "the norm applied twice would pass for it"


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_the_lens_at_the_norm_gives_the_models_own_logits(name: str, tiny: Tiny) -> None:
    check_lens(name, tiny(name), PROMPTS)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_lens_reads_states_of_media(name: str, tiny: Tiny) -> None:
    check_lens(name, tiny(name), list(items_for(name).values()))


@pytest.mark.parametrize("site", ["mlp[4]", "attn[-5]", "lm_head", Site("attn", 9)])
def test_the_lens_of_no_site_is_an_error(site: str | Site, tiny: Tiny) -> None:
    with pytest.raises(BadSetting, match=r"is not a site|is out of range"):
        tiny("llama").lens(torch.zeros(1, 64), site)


# ---------------------------------------------------------------------------- rows of the head


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_word_rows_are_those_of_the_head(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    ids = [7, 0, 399, 7]
    head = backbone.model.lm_head.weight
    assert torch.equal(backbone.word_rows(torch.tensor(ids)), torch.stack([head[i] for i in ids]))
    assert not torch.equal(head[7], head[8])


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_label_logits_are_a_few_of_the_models_own(name: str, tiny: Tiny) -> None:
    backbone, ids = tiny(name), [300, 5, 399]
    states = record(backbone, backbone.encode(PROMPTS), ["norm"], logits=True)
    assert states.logits is not None
    found = backbone.label_logits(states["norm"], ids)
    assert found.dtype == torch.float32
    scale = states.logits.abs().max().item()
    torch.testing.assert_close(found, states.logits[:, ids], rtol=0, atol=1e-5 * scale)


def test_the_bias_of_a_head_counts(tiny: Tiny) -> None:
    model = TEXT["llama"].__wrapped__()
    head = nn.Linear(64, 400)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(torch.linspace(-3, 3, 400))
    model.lm_head = head
    backbone = Backbone.load(model, tokenizer=tiny("llama").tokenizer)
    states = record(backbone, backbone.encode(PROMPTS), ["norm"], logits=True)
    assert states.logits is not None
    found = backbone.label_logits(states["norm"], [399, 0])
    torch.testing.assert_close(found, states.logits[:, [399, 0]], rtol=0, atol=1e-4)
    without = tiny("llama").label_logits(states["norm"], [399, 0])
    torch.testing.assert_close(found - without, torch.tensor([[3.0, -3.0]]).expand(3, 2))
    torch.testing.assert_close(
        backbone.lens(states["norm"], "norm"), states.logits, rtol=0, atol=1e-4
    )


# ------------------------------------------------------------------------------ real weights


def test_the_lens_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    check_lens(name, backbone, sources_for(name))


def test_the_word_is_the_same_at_the_last_mlp_and_at_the_norm(smollm2: Backbone) -> None:
    sites = all_sites(smollm2.num_layers)
    states = record(smollm2, smollm2.encode(["The capital of France is"]), sites)
    top = {}
    for site in sites:
        p = smollm2.lens(states[site], site).softmax(-1)[0]
        top[str(site)] = (smollm2.tokenizer.decode([int(p.argmax())]), p.max().item())
    assert top["norm"][0] == " Paris"
    assert top["norm"][1] == pytest.approx(0.773, abs=0.01)
    assert top["mlp[29]"] == (" Paris", pytest.approx(top["norm"][1], abs=1e-5))
    assert top["embed"][0] != " Paris"


# --------------------------------------------------------------------------------- generation


@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2.5-vl"])
def test_generation_is_greedy(name: str, tiny: Tiny) -> None:
    backbone, eos = tiny(name), tiny(name).tokenizer.eos_token_id
    ids = backbone.row("the word").ids
    expected: list[int] = []
    with torch.no_grad():
        while len(expected) < 6 and eos not in expected:
            logits = backbone.model(torch.tensor([[*ids, *expected]])).logits[0, -1]
            expected.append(int(logits.argmax()))
    words = backbone.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert words
    assert backbone.generate("the word", max_new_tokens=6) == words
