"""Every family's residual stream is found where it is, and nothing is taken for one that is not."""

import dataclasses
from collections.abc import Callable
from typing import Any

import nnsight
import pytest
import torch
from torch import Tensor, nn

from probes.errors import UnsupportedBackbone
from probes.model.anatomy import Anatomy, resolve
from probes.model.backbone import Backbone
from tests.models import GEMMA as GEMMA_SIZES
from tests.models import MULTIMODAL, REFUSED, TEXT, causal, tokenizer

Tiny = Callable[[str], Backbone]

LLAMA = ("model.layers", "post_attention_layernorm", "model.norm")
MULTI = ("model.language_model.layers", "post_attention_layernorm", "model.language_model.norm")
IDEFICS = ("model.text_model.layers", "post_attention_layernorm", "model.text_model.norm")
GEMMA = ("model.layers", "pre_feedforward_layernorm", "model.norm")
GEMMA_VL = ("model.language_model.layers", "pre_feedforward_layernorm", MULTI[2])
# The list of layers, the module whose input is h^Attn, the final norm.
FOUND = (
    dict.fromkeys(TEXT, LLAMA)
    | dict.fromkeys(MULTIMODAL, MULTI)
    | {"gemma2": GEMMA, "gemma3-text": GEMMA, "gemma3-vl": GEMMA_VL}
    | {"olmo2": ("model.layers", "mlp", "model.norm")}
    | {"gpt2": ("transformer.h", "ln_2", "transformer.ln_f")}
    | {"opt": ("model.decoder.layers", "final_layer_norm", "model.decoder.final_layer_norm")}
    | {"idefics3": IDEFICS, "smolvlm": IDEFICS}
)
BOTH = "mid = in + attention failed"


def fresh(name: str) -> Any:
    """A fresh text model, which the test may modify."""
    return (TEXT | REFUSED)[name].__wrapped__()


def inputs(rows: int = 2, time: int = 9) -> dict[str, Tensor]:
    """A left-padded batch of plain tokens."""
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 250, (rows, time), generator=draw)
    mask = torch.ones_like(ids)
    mask[1:, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def modules(anatomy: Anatomy) -> tuple[str, str, str]:
    return anatomy.layers, anatomy.mid, anatomy.norm


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_the_equations_hold_in_every_family(name: str, tiny: Tiny) -> None:
    anatomy = tiny(name).anatomy
    assert modules(anatomy) == FOUND[name]
    assert anatomy.head == "lm_head"
    assert (anatomy.num_layers, anatomy.hidden_size) == (4, 64)
    assert (anatomy.residual_error, anatomy.output_error, anatomy.logit_error) == (0.0, 0.0, 0.0)
    assert anatomy.notes == ()


@pytest.mark.parametrize("name", ["smollm2", "gemma", "qwen"])
def test_the_equations_hold_on_real_weights(name: str, request: pytest.FixtureRequest) -> None:
    anatomy = request.getfixturevalue(name).anatomy
    assert modules(anatomy) == (GEMMA if name == "gemma" else LLAMA)
    assert (anatomy.residual_error, anatomy.output_error, anatomy.logit_error) == (0.0, 0.0, 0.0)
    assert anatomy.notes == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", TEXT)
def test_the_anatomy_is_the_same_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """Rounding errors are large there: too loose a tolerance would accept a wrong module."""
    anatomy = resolve(fresh(name).to(dtype), inputs())
    assert modules(anatomy) == FOUND[name]
    assert anatomy.residual_error == 0.0


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", REFUSED)
def test_no_state_between_the_sublayers_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedBackbone) as caught:
        Backbone.load(REFUSED[name](), tokenizer=tokenizer())
    said = ["encoder-decoder"] if name == "t5" else [BOTH, "layers.0" if "." in name else ".0"]
    assert all(words in str(caught.value) for words in said)


PARALLEL = [name for name in REFUSED if name != "t5"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 30, 1000])
@pytest.mark.parametrize("name", PARALLEL)
def test_a_large_stream_hides_no_parallel_block(name: str, size: int, dtype: torch.dtype) -> None:
    """Relative to a residual stream as large as in released models, a missing branch is small."""
    model = fresh(name).to(dtype)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(size)
    with pytest.raises(UnsupportedBackbone, match="mid = in \\+ attention failed"):
        resolve(model, inputs())


def test_a_class_is_judged_by_its_computation() -> None:
    """GPT-NeoX has the same module names whether its sublayers are parallel or not."""
    sequential = resolve(causal("gpt_neox", use_parallel_residual=False), inputs())
    assert sequential.mid == "post_attention_layernorm"
    with pytest.raises(UnsupportedBackbone, match=r"gpt_neox\.layers\.0"):
        resolve(fresh("gpt-neox-parallel"), inputs())


def test_a_post_norm_model_is_refused() -> None:
    """OPT-350M normalises after each residual sum, so no state is a plain sum."""
    model = causal("opt", ffn_dim=96, word_embed_proj_dim=64, do_layer_norm_before=False)
    with pytest.raises(UnsupportedBackbone, match=r"OPTDecoder: .*\(post-norm\)"):
        resolve(model, inputs())


def test_a_wrapper_of_nnsight_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="give the transformers model in it"):
        Backbone.load(nnsight.NNsight(fresh("llama")), tokenizer=tokenizer())


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    model = causal("gemma3_text", **GEMMA_SIZES, use_bidirectional_attention=True)
    with pytest.raises(UnsupportedBackbone, match="reads its prompt in both directions"):
        resolve(model, inputs())


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(UnsupportedBackbone, match="has no LM head"):
        resolve(fresh("llama").model, inputs())


# ------------------------------------------------------------------- what a spoiled model shows


def spoil(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change the output of a module."""
    forward = module.forward

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    module.forward = spoiled


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt", "olmo2"])
@pytest.mark.parametrize("layer", [0, 2, 3])
@pytest.mark.parametrize("size", [1.0, 1e-2])
def test_something_added_after_the_mlp_is_reported(name: str, layer: int, size: float) -> None:
    """h^Attn is unchanged; the layer's output is not mid + MLP."""
    model = fresh(name)
    layers = model.get_submodule(FOUND[name][0])
    spoil(layers[layer], lambda out: out + size * out.std())
    anatomy = resolve(model, inputs())
    assert modules(anatomy) == FOUND[name]
    assert anatomy.residual_error == 0.0
    assert anatomy.output_error > size / 10
    assert "out = mid + MLP does not hold" in anatomy.notes[0]


def test_something_added_before_the_mlp_is_refused() -> None:
    model = fresh("llama")
    layer = model.model.layers[2]
    norm, forward = layer.post_attention_layernorm, layer.forward

    def spoiled(*args: Any, **kwargs: Any) -> Any:
        handle = norm.register_forward_pre_hook(lambda _, args: (args[0] + 0.1,))
        try:
            return forward(*args, **kwargs)
        finally:
            handle.remove()

    layer.forward = spoiled
    with pytest.raises(UnsupportedBackbone, match=r"model\.layers\.2: mid = in \+ attention"):
        resolve(model, inputs())


def test_something_changed_between_two_layers_is_refused() -> None:
    """mlp[1] must be the input of layer 2, or it is not the residual stream."""
    model = fresh("llama")
    model.model.layers[2].register_forward_pre_hook(lambda _, args: (3 * args[0], *args[1:]))
    with pytest.raises(UnsupportedBackbone, match=r"model\.layers\.2"):
        resolve(model, inputs())


def test_layers_of_different_make_are_refused() -> None:
    model, other = fresh("llama"), fresh("olmo2")
    model.model.layers[1] = other.model.layers[1]
    with pytest.raises(UnsupportedBackbone, match=r"model\.layers\.1.*'mlp'.*different make"):
        resolve(model, inputs())


def test_a_norm_that_reads_something_else_is_refused() -> None:
    model = fresh("llama")
    model.model.norm.register_forward_pre_hook(lambda _, args: (args[0] + 0.1,))
    with pytest.raises(UnsupportedBackbone, match="no final norm reads the last layer's output"):
        resolve(model, inputs())


def test_logits_that_are_changed_are_refused() -> None:
    model = fresh("llama")
    forward = model.forward

    def spoiled(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = output.logits * 1.01
        return output

    model.forward = spoiled
    with pytest.raises(UnsupportedBackbone, match=r"lm_head: logits = .* failed"):
        resolve(model, inputs())


def test_the_scale_of_the_logits_is_the_one_that_reproduces_them() -> None:
    """Granite divides by `logits_scaling`, HyperCLOVAX multiplies by it."""
    model = fresh("granite")
    assert resolve(model, inputs()).logit_scale == 0.5
    forward = model.forward

    def multiplied(**kwargs: Any) -> Any:
        output = forward(**kwargs)
        output.logits = output.logits * 4  # 1/2 · 4 = 2
        return output

    model.forward = multiplied
    assert resolve(model, inputs()).logit_scale == 2.0


def test_granite_needs_its_multipliers() -> None:
    model = fresh("granite")
    anatomy = resolve(model, inputs())
    assert (anatomy.residual_scale, anatomy.logit_scale) == (0.22, 0.5)
    model.config.residual_multiplier = 1.0  # the layers keep the one they were made with
    with pytest.raises(UnsupportedBackbone, match=r"model\.layers\.0: mid = in"):
        resolve(model, inputs())


@pytest.mark.parametrize(
    ("name", "without"), [("gemma2", {"softcap": None}), ("granite", {"logit_scale": 1.0})]
)
def test_the_heads_output_alone_is_not_the_logits(name: str, without: dict, tiny: Tiny) -> None:
    backbone = tiny(name)
    raw: list[Tensor] = []
    head = backbone.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *args: raw.append(args[2]))
    with torch.no_grad():
        logits = backbone.model(**inputs()).logits
    handle.remove()
    wrong = dataclasses.replace(backbone.anatomy, **without).logits(raw[0])
    assert torch.equal(backbone.anatomy.logits(raw[0]), logits)
    assert (wrong - logits).abs().max() > 0.01


def test_resolving_leaves_no_hook_behind() -> None:
    for name in ("llama", "phi"):
        model = fresh(name)
        try:
            resolve(model, inputs())
        except UnsupportedBackbone:
            assert name == "phi"
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
