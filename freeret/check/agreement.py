"""Whether two ways to compute the same states agree: within what rounding alone does to them.

No constant fits every backbone: bfloat16 moves a state of SmolLM2 by 2% and one of a deeper model
by more, while a true mistake may be as small as 10%. So the rounding error is measured. The stream
that enters the first layer is moved by less than one unit in the last place, and the distance by
which the state at `attn[-1]` then moves is the noise of the backbone on these rows. The same rows
in another order would not do for this: on a CPU they give the very same bits.
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
"""Agreement that is never asked to be closer (relative; the rule for float32)."""
MARGIN = 3.0
"""Two ways to compute differ by at most so many times the noise."""

States = Float[Tensor, "rows hidden"]


def states(backbone: Backbone, batch: Batch) -> States:
    """The states of one batch."""
    return record(backbone, batch, [SITE])[SITE].float().cpu()


def alone(backbone: Backbone, rows: Sequence[Row]) -> States:
    """The states of rows, each computed in a batch of its own."""
    return torch.cat([states(backbone, backbone.collate([row])) for row in rows])


def distance(left: States, right: States) -> float:
    """The largest distance of two states, relative to the second."""
    return ((left - right).norm(dim=-1) / right.norm(dim=-1)).max().item()


def noise(backbone: Backbone, rows: Sequence[Row], expected: States) -> float:
    """How far rows move from `expected`, their states alone, in another rounding."""
    with rounded_otherwise(backbone):
        return distance(alone(backbone, rows), expected)


def tolerance(noise: float) -> float:
    """The largest distance that counts as agreement."""
    return max(EXACT, MARGIN * noise)


@contextmanager
def rounded_otherwise(backbone: Backbone) -> Iterator[None]:
    """Every value that enters the first layer moved by up to half a unit in its last place."""
    pick = torch.Generator().manual_seed(0)

    def move(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        stream = args[0] if args else kwargs["hidden_states"]
        shift = torch.rand(stream.shape, generator=pick).to(stream.device) - 0.5
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
    """A line that passes when two ways to compute the same states agree."""
    error = distance(left, right)
    found = f"relative error {error:.1e}, limit {limit:.1e}"
    return Check(what, found, "ok" if error <= limit else "FAILED", error, limit)
