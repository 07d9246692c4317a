"""A norm as the linear map that it is at one state.

RMSNorm and LayerNorm divide by a scale that depends on the whole state. With this scale held fixed
the norm is linear,

    norm(x) = s(x) · g ⊙ C x + b,

where C is the identity (RMSNorm) or takes the mean away (LayerNorm), so that what the norm makes of
a sum is the sum of what it makes of the terms ("frozen LayerNorm"; Elhage et al., 2021, A
Mathematical Framework for Transformer Circuits).
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import UnsupportedBackbone


@dataclass(frozen=True, eq=False)
class FrozenNorm:
    """The map of a norm with the scale of one state, in float64 on the CPU."""

    gain: Float[Tensor, " hidden"]
    """s(x) · g."""
    bias: Float[Tensor, " hidden"]
    centres: bool
    """Whether the mean of a vector is taken away first, as in LayerNorm."""

    @classmethod
    @torch.no_grad()
    def at(cls, norm: Any, state: Float[Tensor, " hidden"]) -> "FrozenNorm":
        """The map of a norm at a state that it reads. Raises UnsupportedBackbone where the equation
        above does not hold: the module is another kind of norm.

        g is read from what the norm does to a vector of mean 0 without zeros, s from what it does
        to the state, and the equation is checked there. So no names of parameters matter.
        """
        signs = torch.ones_like(state)
        signs[1::2] = -1
        signs -= signs.mean()
        inputs = torch.stack([torch.zeros_like(state), signs, state])
        bias, normed_signs, normed = norm(inputs).cpu().double()
        shape = (normed_signs - bias) / signs.cpu().double()
        branch, wide = normed - bias, state.cpu().double()
        tolerance = 1e-5 if state.dtype == torch.float32 else 2e-2
        for centres in (False, True):
            plain = shape * (_centred(wide) if centres else wide)
            scale = (plain @ branch) / (plain @ plain)
            if (branch - scale * plain).abs().max() <= tolerance * branch.abs().max():
                return cls(scale * shape, bias, centres)
        raise UnsupportedBackbone(
            f"{type(norm).__name__} is not linear at a fixed scale, as RMSNorm and LayerNorm are, "
            "so writes cannot be followed through it"
        )

    def apply(self, writes: Float[Tensor, "*n hidden"]) -> Float[Tensor, "*n hidden"]:
        """The linear part for terms of the state: those of all terms and `bias` sum to the norm's
        output."""
        return self.gain * (_centred(writes) if self.centres else writes)

    def pull_back(self, direction: Float[Tensor, " hidden"]) -> Float[Tensor, " hidden"]:
        """The direction before the norm that stands for one after it: the dot product of any write
        with it is that of the norm's output for this write with `direction`."""
        pulled = self.gain * direction
        return _centred(pulled) if self.centres else pulled


def _centred(vectors: Tensor) -> Tensor:
    return vectors - vectors.mean(-1, keepdim=True)
