"""What each attention head writes into the residual stream.

An attention module concatenates the outputs z_h of its heads and multiplies them by its output
projection W. That is a sum over heads, each with its columns of W,

    attention = Σ_h W_h z_h + bias,

and stays one behind a norm of the branch (Gemma, Olmo2), whose scale is held fixed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.errors import UnsupportedBackbone
from probes.microscope.frozen import FrozenNorm
from probes.model.anatomy import attention_modules
from probes.model.backbone import Backbone

PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense")
"""Names of the output projection in an attention module."""


def output_projections(backbone: Backbone, layers: Sequence[int]) -> dict[int, str]:
    """The dotted path of the output projection of each of the layers. Raises UnsupportedBackbone
    where a layer has no attention, or no such projection was found."""
    attention, paths = attention_modules(backbone.model, backbone.anatomy), {}
    for layer in layers:
        if layer not in attention:
            raise UnsupportedBackbone(f"layer {layer} of {backbone.name} has no attention heads")
        children = dict(backbone.model.get_submodule(attention[layer]).named_children())
        names = [name for name in PROJECTIONS if name in children]
        if not names:
            raise UnsupportedBackbone(
                f"{attention[layer]} has no output projection (looked for "
                f"{', '.join(PROJECTIONS)}), so its write cannot be split into heads"
            )
        paths[layer] = f"{attention[layer]}.{names[0]}"
    return paths


@torch.no_grad()
def head_writes(
    backbone: Backbone,
    projection: str,
    entering: Float[Tensor, " width"],
    before: Float[Tensor, " hidden"],
    after: Float[Tensor, " hidden"],
) -> Float[Tensor, "terms hidden"]:
    """Split the write of an attention module into its heads.

    Args:
        backbone: The model.
        projection: The dotted path of its output projection.
        entering: What the projection reads at the position.
        before: The state there before attention is added, float64 on the CPU.
        after: The state after it.

    Returns:
        The write of each head, and last that of the biases, float64 on the CPU. Their sum is
        `after - before`, up to rounding in the dtype of the model.

    Raises:
        UnsupportedBackbone: The sum is not the write, so the module does more than this file knows.
    """
    model, anatomy = backbone.model, backbone.anatomy
    heads = model.config.get_text_config(decoder=True).num_attention_heads
    if len(entering) % heads:
        raise UnsupportedBackbone(
            f"{projection} reads {len(entering)} values, which {heads} heads cannot share equally"
        )
    # By linearity the projection of one head's values alone, and of none for the bias.
    alone = torch.block_diag(*entering.view(heads, -1).cpu()).to(entering)
    *terms, bias, total = model.get_submodule(projection)(
        torch.stack([*alone, torch.zeros_like(entering), entering])
    )
    parts = torch.stack([*(term - bias for term in terms), bias]).cpu().double()
    layer = model.get_submodule(projection.rpartition(".")[0].rpartition(".")[0])
    write = after - before
    rounding = torch.finfo(entering.dtype).eps
    tolerance = rounding * (32 * write.abs().max() + 4 * after.abs().max())
    for norm in (None, *_norms(layer)):
        split = parts
        if norm is not None:
            frozen = FrozenNorm.at(norm, total)
            split = frozen.apply(parts)
            split[-1] += frozen.bias
        split = anatomy.residual_scale * split
        if (split.sum(0) - write).abs().max() <= tolerance:
            return split
    raise UnsupportedBackbone(
        f"the heads of {projection} do not sum to what their layer adds to the stream, so it "
        "changes them in a way that is not known here"
    )


def _norms(layer: nn.Module) -> list[Any]:
    """The children of a layer that may norm a branch: those without a matrix."""
    return [
        child
        for child in layer.children()
        if [*child.parameters()] and all(weight.ndim == 1 for weight in child.parameters())
    ]
