"""Do two ways to compute the same states agree, up to the rounding error of the backbone?

No constant tolerance fits every backbone: bfloat16 moves a state of SmolLM2 by 2% and one of a
deeper model by more, while a real mistake may be as small as 10%. So the rounding error is
measured: the residual stream that enters the first layer is perturbed by less than one unit in the
last place, and the distance by which the state at `attn[-1]` moves is the noise of the backbone on
these rows. Reordering the rows would not measure it: on a CPU that gives identical bits.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from freeret.check.line import Check
from probes import Backbone, record
from probes.model.encoding import Batch, Row

SITE = "attn[-1]"
EXACT = 1e-5
"""Relative error that always counts as agreement, the project's rule for float32."""
MARGIN = 3.0
"""Largest relative error that counts as agreement, in multiples of the noise."""

States = Float[Tensor, "rows hidden"]


def states(backbone: Backbone, batch: Batch) -> States:
    """States of one batch."""
    return record(backbone, batch, [SITE])[SITE].float().cpu()


def alone(backbone: Backbone, rows: Sequence[Row]) -> States:
    """States of rows, each computed in a batch by itself."""
    return torch.cat([states(backbone, backbone.collate([row])) for row in rows])


def distance(left: States, right: States) -> float:
    """Largest distance between two states, relative to the norm of the second."""
    return ((left - right).norm(dim=-1) / right.norm(dim=-1)).max().item()


def noise(backbone: Backbone, rows: Sequence[Row], expected: States) -> float:
    """Distance of the perturbed states of rows from `expected`, their states alone."""
    with perturbed(backbone):
        return distance(alone(backbone, rows), expected)


def tolerance(noise: float) -> float:
    """Largest relative error that counts as agreement."""
    return max(EXACT, MARGIN * noise)


@contextmanager
def perturbed(backbone: Backbone) -> Iterator[None]:
    """Perturb every value that enters the first layer by up to half a unit in its last place."""
    generator = torch.Generator().manual_seed(0)

    def move(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        stream = args[0] if args else kwargs["hidden_states"]
        shift = torch.rand(stream.shape, generator=generator).to(stream.device) - 0.5
        moved = stream.float() * (1 + torch.finfo(stream.dtype).eps * shift)
        moved = moved.to(stream.dtype)
        return ((moved, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": moved})

    first = backbone.model.get_submodule(backbone.anatomy.layers)[0]
    with backbone.lock:
        handle = first.register_forward_pre_hook(move, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def agreement(what: str, left: States, right: States, limit: float) -> Check:
    """A line that passes if two ways to compute the same states agree."""
    error = distance(left, right)
    words = f"relative error {error:.1e}, limit {limit:.1e}"
    return Check(what, words, "ok" if error <= limit else "FAILED", error, limit)
