"""Writes are what plain PyTorch hooks see, they sum to the state, and their logits to the logit.

What a norm does at a fixed scale and where heads are joined is written here by architecture, and
not taken from the code under test.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from probes.errors import BadSetting, UnsupportedBackbone
from probes.microscope.frozen import FrozenNorm
from probes.microscope.writes import Write, Writes, writes
from probes.model.backbone import Backbone
from probes.model.trace import record
from tests.model.test_trace import DECODER, LAYERS, NORM, POST_NORMED, SCALE, hooked, reference
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import ITEMS, items_for
from tests.zoo import HYBRIDS

Tiny = Callable[[str], Backbone]
TEXT_PROMPT = "one word of the image: 日本, naïve and 12345 others 🙂"
JOINED = {"gpt2": "attn.c_proj", "opt": "self_attn.out_proj"}
NORMED_BRANCH = ("gemma2", "gemma3-text", "gemma3-vl", "olmo2", "gemma")
PICTURED = ("llava", "qwen2.5-vl", "gemma3-vl", "internvl", "smolvlm")


def layers_of(name: str, model: Any) -> Any:
    return getattr(model.get_submodule(DECODER.get(name, "model")), LAYERS.get(name, "layers"))


def fixed_scale(norm: Any, state: Tensor, write: Tensor) -> Tensor:
    """The linear part of a norm with the scale of `state`, in float64."""
    gain = norm.weight.detach().double()
    if isinstance(norm, nn.LayerNorm):
        centred = write - write.mean(-1, keepdim=True)
        return gain * centred / (state.var(correction=0) + norm.eps).sqrt()
    if "Gemma" in type(norm).__name__:
        gain = gain + 1
    epsilon = float(getattr(norm, "eps", None) or norm.variance_epsilon)
    return gain * write / (state.pow(2).mean() + epsilon).sqrt()


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=tolerance * scale)


def check_writes(name: str, backbone: Backbone, model: Any, source: Any) -> Writes:
    batch = backbone.encode([source])
    expected, found = reference(name, model, batch), writes(backbone, source)
    norm = model.get_submodule(DECODER.get(name, "model"))
    norm = getattr(norm, NORM.get(name, "norm"))
    assert [write.name for write in found.parts] == [
        "embed",
        *(f"{kind}[{i}]" for i in range(backbone.num_layers) for kind in ("attn", "mlp")),
    ]
    # Sublayers: the outputs of their branches.
    assert torch.equal(found["embed"].vector, expected.sites["embed"][0].double())
    for write in found.parts[1:]:
        branch = SCALE.get(name, 1.0) * expected.mistakes[write.name]["the branch"][0]
        stream = expected.sites[write.name][0].abs().max().item()
        atol = 4e-7 * stream + 1e-6 * branch.abs().max().item()
        torch.testing.assert_close(write.vector, branch.double(), rtol=0, atol=atol)
    # Sums: the state, and the logit.
    state = expected.sites[f"mlp[{backbone.num_layers - 1}]"][0].double()
    near(torch.stack([write.vector for write in found.parts]).sum(0), state, 1e-12)
    assert torch.equal(found.state, state)
    total = sum(write.logit for write in found.parts) + found.constant
    assert total == pytest.approx(found.logit, rel=1e-5, abs=1e-5)
    logits = expected.logits[0].double()
    word = int(logits.argmax())
    assert found.word == backbone.tokenizer.decode([word])
    own = float(logits[word])
    softcap = 30.0 if name == "gemma2" else None
    capped = found.logit if softcap is None else float(torch.tanh(torch.tensor(found.logit / 30)))
    assert own == pytest.approx(capped * (softcap or 1), rel=1e-5, abs=1e-5)
    # Each of them.
    row = model.get_output_embeddings().weight[word].detach().double()
    unit = row / row.norm()
    for write in found.parts:
        brought = float(fixed_scale(norm, state, write.vector) @ row)
        brought /= 2.0 if name == "granite" else 1.0
        assert write.logit == pytest.approx(brought, rel=1e-4, abs=1e-5 * abs(found.logit))
        assert write.along == pytest.approx(float(write.vector @ unit), abs=1e-9)
        assert write.along**2 + write.across**2 == pytest.approx(write.length**2)
        assert write.cosine == pytest.approx(write.along / write.length)
    return found


def check_heads(name: str, backbone: Backbone, model: Any, source: Any, layers: list[int]) -> None:
    found, batch = writes(backbone, source, heads=layers), backbone.encode([source])
    assert list(found.heads) == [layer % backbone.num_layers for layer in layers]
    for layer, heads in found.heads.items():
        block = layers_of(name, model)[layer]
        join = block.get_submodule(JOINED.get(name, "self_attn.o_proj"))
        entered: list[Tensor] = []
        with hooked([join], lambda m, args, *_, kept=entered: kept.append(args[0][0, -1])):
            model(**batch.inputs, use_cache=False)
        values = entered[0].double()
        weight = join.weight.detach().double()
        weight = weight.T if name == "gpt2" else weight  # Conv1D keeps [in, out]
        bias = getattr(join, "bias", None)
        bias = torch.zeros(len(weight)).double() if bias is None else bias.detach().double()
        count = model.config.get_text_config(decoder=True).num_attention_heads
        width = len(values) // count
        assert len(heads) == count + 1
        terms = [
            weight[:, h * width : (h + 1) * width] @ values[h * width : (h + 1) * width]
            for h in range(count)
        ]
        terms.append(bias)
        if name in NORMED_BRANCH:
            post = getattr(block, POST_NORMED[0])
            whole = torch.stack(terms).sum(0)
            terms = [fixed_scale(post, whole, term) for term in terms]
        largest = max(float(term.abs().max()) for term in terms)
        for write, term in zip(heads, terms, strict=True):
            difference = (write.vector - SCALE.get(name, 1.0) * term).abs().max()
            assert difference <= 2e-6 * largest, write.name
        whole = found[f"attn[{layer}]"]
        stream = record(backbone, batch, [f"attn[{layer}]"])[f"attn[{layer}]"].abs().max().item()
        torch.testing.assert_close(
            torch.stack([write.vector for write in heads]).sum(0), whole.vector,
            rtol=0, atol=1e-6 * stream + 1e-5 * float(whole.vector.abs().max()),
        )  # fmt: skip
        brought = sum(write.logit for write in heads)
        assert brought == pytest.approx(whole.logit, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", TEXT)
def test_writes_are_what_plain_hooks_see(name: str, tiny: Tiny) -> None:
    check_writes(name, tiny(name), TEXT[name].__wrapped__(), TEXT_PROMPT)


@pytest.mark.parametrize("name", PICTURED)
def test_writes_about_pictures_are_what_plain_hooks_see(name: str, tiny: Tiny) -> None:
    model, _ = MULTIMODAL[name].__wrapped__()
    check_writes(name, tiny(name), model, items_for(name)["picture"])
    check_heads(name, tiny(name), model, items_for(name)["picture"], [1])


@pytest.mark.parametrize("name", TEXT)
def test_heads_are_what_plain_hooks_see(name: str, tiny: Tiny) -> None:
    check_heads(name, tiny(name), TEXT[name].__wrapped__(), TEXT_PROMPT, [0, -1])


@pytest.mark.parametrize("name", HYBRIDS)
def test_writes_of_hybrids_sum_to_the_state(name: str) -> None:
    """Whatever mixes positions, and also where layers end with more than their MLP."""
    backbone = Backbone.load(HYBRIDS[name](), tokenizer=tokenizer())
    found = writes(backbone, TEXT_PROMPT)
    state = record(backbone, TEXT_PROMPT, "mlp[-1]")["mlp[-1]"][0].double()
    near(torch.stack([write.vector for write in found.parts]).sum(0), state, 1e-12)
    total = sum(write.logit for write in found.parts) + found.constant
    assert total == pytest.approx(found.logit, rel=1e-5, abs=1e-5)
    assert len(writes(backbone, TEXT_PROMPT, heads=-1).heads[3]) == 5


def test_writes_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    source = ITEMS["picture"] if name == "smolsight" else "The capital of France is"
    found = check_writes(name, backbone, backbone.model, source)
    check_heads(name, backbone, backbone.model, source, [5, -1])
    if name == "smollm2":
        assert found.word == " Paris"


def test_a_bias_of_the_head_is_part_of_the_constant(tiny: Tiny) -> None:
    model = TEXT["llama"].__wrapped__()
    head = nn.Linear(64, 400)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(torch.full((400,), 3.0))
    model.lm_head = head
    found = writes(Backbone.load(model, tokenizer=tokenizer()), "the word")
    plain = writes(tiny("llama"), "the word")
    assert (found.constant, plain.constant) == (3.0, 0.0)
    assert found.logit == pytest.approx(plain.logit + 3)
    assert found["mlp[3]"].logit == pytest.approx(plain["mlp[3]"].logit)


# ------------------------------------------------------------------------------- what is refused


def test_a_layer_without_heads_is_an_error(tiny: Tiny) -> None:
    backbone = Backbone.load(HYBRIDS["lfm2"](), tokenizer=tokenizer())
    with pytest.raises(UnsupportedBackbone, match=r"layer 0 of .* has no attention heads"):
        writes(backbone, "the word", heads=[0])
    with pytest.raises(BadSetting, match="no layer 4: this backbone has 4 layers"):
        writes(tiny("llama"), "the word", heads=[4])


def test_several_inputs_are_an_error(tiny: Tiny) -> None:
    with pytest.raises(BadSetting, match="one input, not of 2"):
        writes(tiny("llama"), ["the word", "Yes"])  # pyright: ignore[reportArgumentType]


def test_a_module_that_changes_its_heads_is_an_error() -> None:
    """The output of attention is doubled behind the projection."""
    model = TEXT["llama"].__wrapped__()
    model.model.layers[2].self_attn.register_forward_hook(
        lambda module, args, output: (2 * output[0], *output[1:])
    )
    backbone = Backbone.load(model, tokenizer=tokenizer())
    assert len(writes(backbone, "the word", heads=1).heads[1]) == 5
    with pytest.raises(UnsupportedBackbone, match=r"layers.2.self_attn.o_proj do not sum"):
        writes(backbone, "the word", heads=2)


def test_another_kind_of_norm_is_an_error() -> None:
    with pytest.raises(UnsupportedBackbone, match="Tanh is not linear at a fixed scale"):
        FrozenNorm.at(nn.Tanh(), torch.randn(8, generator=torch.Generator().manual_seed(0)))


# --------------------------------------------------------------------------------- how it shows


def test_writes_show_themselves(tiny: Tiny) -> None:
    found = writes(tiny("llama"), "the word", heads=[1])
    table = found.to_dataframe()
    names = list(table["write"])
    assert names[:3] == ["embed", "attn[0]", "mlp[0]"]
    assert names[4:9] == [*(f"attn[1] head {h}" for h in range(4)), "attn[1] bias"]
    assert len(table) == 9 + 5
    assert list(table.columns) == ["write", "logit", "along", "across", "length", "cosine"]
    assert table["logit"].tolist()[1] == found["attn[0]"].logit
    best = max(found.parts, key=lambda write: write.logit)
    assert f"most of it by {best.name}" in repr(found)
    with pytest.raises(BadSetting, match=r"no write 'mlp\[9\]'; there are embed, attn\[0\]"):
        found["mlp[9]"]


def test_a_write_of_no_length_has_no_direction() -> None:
    assert Write("attn[0] bias", torch.zeros(4).double(), 0.0, 0.0, 0.0).cosine == 0.0
