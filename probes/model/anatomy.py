"""Anatomy: the sublayers of a model, found in its module tree and confirmed numerically at load.

Names alone can be silently wrong: Olmo2's `post_attention_layernorm` is inside the attention
branch, and a parallel GPT-NeoX has every expected name and no middle state. So a small left-padded
random batch is run with plain PyTorch hooks, and a module is accepted as the reader of h^Attn only
if

    mid = in + c · attention        (1)

holds for the tensors that flowed through it, where c is 1 or the config's `residual_multiplier`.
The final norm and the LM head are confirmed in the same way. The error of

    out = mid + c · MLP             (2)

is measured and reported, since (2) need not hold: Gemma 4 adds a per-layer input after its MLP and
scales the sum. h^Attn is the same state there, and `mlp[l]` is the layer's output in any case.

"Attention" stands for any module that mixes positions: layers of a hybrid model may have a linear
attention, a convolution or a state-space module in its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import UnsupportedBackbone

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
"""Names of a module that mixes positions by attention weights."""
MIXERS = (*ATTENTION, "linear_attn", "conv", "mamba", "temporal_block")
"""Names of the module that mixes positions; the layers of a model may have different ones."""


@dataclass(frozen=True)
class Anatomy:
    """Dotted module paths, as `model.get_submodule` reads them, and how the head scales logits."""

    layers: str
    """The list of decoder layers; layer l's output is `mlp[l]`."""
    mid: str
    """The module inside a layer whose *input* is `attn[l]`."""
    norm: str
    """The final norm; its output is `norm`."""
    head: str
    """The LM head; row y of its weight is the direction w_y of a word."""
    num_layers: int
    hidden_size: int
    residual_scale: float
    """c of equations (1) and (2)."""
    logit_scale: float
    """logits = softcap(head(norm) · logit_scale)."""
    softcap: float | None
    residual_error: float
    """The largest |error| of (1) in any layer, relative to the largest |branch|."""
    output_error: float
    """The same for (2), which need not hold."""
    logit_error: float
    """The same for the logits that are computed from `norm`."""
    notes: tuple[str, ...] = ()
    """Where layers deviate from equation (2), and the meaning of the sites then."""

    def logits(self, head_output: Tensor) -> Tensor:
        """The model's logits from the output of its LM head, in float32."""
        logits = head_output.float() * self.logit_scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def resolve(model: Any, inputs: dict[str, Tensor]) -> Anatomy:
    """Find the anatomy of a model and confirm it.

    Args:
        model: The transformers model.
        inputs: Its keyword arguments for a left-padded batch of text.

    Raises:
        UnsupportedBackbone: The message names the module and the equation that failed.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedBackbone(
            f"{type(model).__name__} is an encoder-decoder: its decoder does not read the prompt "
            "in its own residual stream; use a decoder-only model"
        )
    text_config = config.get_text_config(decoder=True)
    if getattr(text_config, "use_bidirectional_attention", None) is True:
        raise UnsupportedBackbone(
            f"{type(model).__name__} reads its prompt in both directions: a state is not that of "
            "the text before it; use a decoder-only model"
        )
    decoder, layers = _find_layers(model, text_config.num_hidden_layers)
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedBackbone(
            f"{type(model).__name__} has no LM head: load it with a class that generates"
        )
    every = {id(module): path for path, module in model.named_modules(remove_duplicate=False)}
    paths = every | {id(module): path for path, module in model.named_modules()}

    flow = _run(model, decoder, layers, head, inputs)
    layer_path = paths[id(layers)]
    scale = float(getattr(text_config, "residual_multiplier", 1.0))
    mid, residual_error, output_error = _find_mid(layers, layer_path, flow, scale)
    norm = _find_norm(decoder, layers, flow)
    anatomy = Anatomy(
        layers=layer_path,
        mid=mid,
        norm=paths[id(norm)],
        head=paths[id(head)],
        num_layers=len(layers),
        hidden_size=flow.outputs[id(layers[-1])].shape[-1],
        residual_scale=scale,
        logit_scale=1.0,
        softcap=getattr(text_config, "final_logit_softcapping", None),
        residual_error=residual_error,
        output_error=output_error,
        logit_error=0.0,
        notes=() if output_error <= flow.tolerance else (_output_note(output_error),),
    )
    return _confirm_logits(anatomy, _logit_scales(text_config), head, flow)


def attention_modules(model: Any, anatomy: Anatomy) -> dict[int, str]:
    """The dotted path of the attention of each layer that has one."""
    layers = model.get_submodule(anatomy.layers)
    return {
        index: f"{anatomy.layers}.{index}.{name}"
        for index, layer in enumerate(layers)
        for name, _ in layer.named_children()
        if name in ATTENTION
    }


@dataclass
class _Flow:
    """Inputs and outputs of the hooked modules by `id(module)`, each `[batch, time, ·]`."""

    inputs: dict[int, Tensor]
    outputs: dict[int, Tensor]
    order: list[int]
    logits: Tensor
    tolerance: float


def _find_layers(model: Any, num_layers: int) -> tuple[nn.Module, nn.ModuleList]:
    try:
        root = model.get_decoder()
    except (AttributeError, NotImplementedError):
        root = model
    for module in root.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == num_layers:
                return module, child
    raise UnsupportedBackbone(
        f"{type(model).__name__}: no list of {num_layers} layers found under "
        f"{type(root).__name__}; the text decoder must keep its layers in one ModuleList"
    )


def _logit_scales(config: Any) -> tuple[float, float]:
    """The scales that a config may mean: Muse-Glimmer multiplies its logits, and HyperCLOVAX
    multiplies by the factor that Granite divides by."""
    factor, scaling = (
        float(getattr(config, name, None) or 1.0)
        for name in ("output_multiplier", "logits_scaling")
    )
    return factor / scaling, factor * scaling


def _output_note(error: float) -> str:
    return (
        f"out = mid + MLP does not hold (relative error {error:.1e}): the layers scale their "
        "output or add to it after the MLP. attn[l] is the state after attention all the same; "
        "mlp[l] is the layer's output as the next layer or the final norm reads it"
    )


def _run(
    model: nn.Module, decoder: nn.Module, layers: nn.ModuleList, head: nn.Module, inputs
) -> _Flow:
    batch, time = inputs["input_ids"].shape
    flow = _Flow({}, {}, [], torch.empty(0), 0.0)

    def as_3d(value: Any) -> Tensor | None:
        value = value[0] if isinstance(value, tuple) and value else value
        if not isinstance(value, Tensor):
            return None
        # OPT flattens [batch, time] before its MLP.
        return value.reshape(batch, time, -1) if value.numel() % (batch * time) == 0 else None

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        entering = as_3d(args[0] if args else kwargs.get("hidden_states"))
        leaving = as_3d(output)
        if entering is not None and leaving is not None:
            flow.inputs[id(module)] = entering.detach().clone()
            flow.outputs[id(module)] = leaving.detach().clone()
            flow.order.append(id(module))

    watched = [decoder, head, *decoder.children()]
    watched += [module for layer in layers for module in (layer, *layer.children())]
    unique = {id(module): module for module in watched if not isinstance(module, nn.ModuleList)}
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in unique.values()]
    try:
        with torch.no_grad():
            flow.logits = model(**inputs, use_cache=False).logits.float()
    finally:
        for handle in handles:
            handle.remove()
    dtype = next(iter(flow.outputs.values())).dtype
    flow.tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    return flow


def _error(left: Tensor, right: Tensor, plus: Tensor | None = None) -> float:
    """max |left - (right + plus)| relative to max |plus|, else to max |left|; infinite where shapes
    differ. `plus` is the branch that was added: relative to a large stream, the error of a missing
    branch would look small."""
    if any(left.shape != other.shape for other in (right, plus) if other is not None):
        return float("inf")
    right = right.to(left.device)  # layers of a sharded model are on different devices
    total = right if plus is None else right + plus.to(left.device)
    scale = left if plus is None else plus
    difference = left.float() - total.float()
    return difference.abs().max().item() / max(scale.float().abs().max().item(), 1e-12)


def _find_mid(
    layers: nn.ModuleList, layer_path: str, flow: _Flow, scale: float
) -> tuple[str, float, float]:
    """The name of the child that reads mid in every layer, and the largest error of (1), of (2)."""
    name, residual_error, output_error = "", 0.0, 0.0
    for index, layer in enumerate(layers):
        where = f"{layer_path}.{index}"
        reader, opening, closing = _mid_of_layer(layer, where, flow, scale)
        if name and reader != name:
            raise UnsupportedBackbone(
                f"{where}: h^Attn enters {reader!r}, but {name!r} in the layers before it; "
                "layers of different make cannot be traced by one anatomy"
            )
        name = reader
        residual_error, output_error = max(residual_error, opening), max(output_error, closing)
        if index and _error(flow.inputs[id(layer)], flow.outputs[id(layers[index - 1])]) > 0.0:
            raise UnsupportedBackbone(
                f"{where}: in = out of the layer before failed: something changes the stream "
                "between two layers, so their states are not one residual stream"
            )
    return name, residual_error, output_error


def _mid_of_layer(
    layer: nn.Module, where: str, flow: _Flow, scale: float
) -> tuple[str, float, float]:
    children = {id(child): name for name, child in layer.named_children()}
    ran = [key for key in flow.order if key in children]
    mixer = next((i for i, key in enumerate(ran) if children[key] in MIXERS), None)
    if mixer is None:
        raise UnsupportedBackbone(
            f"{where}: no attention module that ran (looked for {', '.join(MIXERS)}); "
            "every layer must add attention, then an MLP"
        )
    after = ran[mixer:]
    stream_in, stream_out = flow.inputs[id(layer)], flow.outputs[id(layer)]

    best = ("", float("inf"))
    for position, reader in enumerate(after[1:], start=1):
        mid = flow.inputs[reader]
        # The branch may pass a norm of its own before it is added (Gemma, Olmo2).
        opening = min(_error(mid, stream_in, scale * flow.outputs[key]) for key in after[:position])
        if opening < best[1]:
            best = (children[reader], opening)
        if opening <= flow.tolerance:
            branches = after[position:]
            closing = min(_error(stream_out, mid, scale * flow.outputs[key]) for key in branches)
            return children[reader], opening, closing
    raise UnsupportedBackbone(
        f"{where}: mid = in + attention failed: no module reads it (closest {best[0]!r}, relative "
        f"error {best[1]:.1e}); attention and MLP probably run in parallel (out = in + attention "
        "+ MLP), so there is no state between them to read"
    )


def _find_norm(decoder: nn.Module, layers: nn.ModuleList, flow: _Flow) -> nn.Module:
    last = flow.outputs[id(layers[-1])]
    for child in decoder.children():
        if id(child) in flow.outputs and _error(flow.inputs[id(child)], last) == 0.0:
            return child
    raise UnsupportedBackbone(
        f"{type(decoder).__name__}: no final norm reads the last layer's output; models that "
        "normalise after each residual sum (post-norm) are not supported"
    )


def _confirm_logits(
    anatomy: Anatomy, scales: Sequence[float], head: nn.Module, flow: _Flow
) -> Anatomy:
    """The anatomy with the scale that rebuilds the logits best."""
    output = flow.outputs[id(head)]
    candidates = [replace(anatomy, logit_scale=scale) for scale in scales]
    errors = [_error(flow.logits, candidate.logits(output)) for candidate in candidates]
    error, best = min(errors), candidates[errors.index(min(errors))]
    if error > flow.tolerance:
        raise UnsupportedBackbone(
            f"{anatomy.head}: logits = softcap(head(norm) · scale) failed, relative error "
            f"{error:.1e}; the model changes its logits in a way that is not known here"
        )
    return replace(best, logit_error=error)
