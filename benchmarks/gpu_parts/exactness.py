"""States against plain hooks, bit for bit; and what else moves the vector of an item: its batch, a
shared prefix, the number format itself."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from freeret.embedder import Embedder
from gpu_parts.models import Made
from gpu_parts.others import plain_vectors, rendered
from gpu_parts.run import Results, Run, pictures, texts
from probes import ControlPrompt, record
from probes.prompts import Prompted

SITES = ("attn[-1]", "mlp[1]", "norm")
PROMPT = ControlPrompt()


def exactness(run: Run) -> Iterator[Results]:
    """Relative distances of vectors, at `norm` where plain transformers takes part."""
    size = next(iter(run.scale.pictures[run.family]))
    written = texts(run.made, 12, 5, 120)
    seen = pictures(size, 3, seed=9999)
    for kind, items in (("texts", written), ("pictures", [*seen, *written[:3]])):
        exchanges = [PROMPT.apply(item) for item in items]
        yield {f"{kind}: trace, largest error": trace_error(run.made, exchanges)}

        whole = norms(run, exchanges)
        alone = torch.cat([norms(run, [exchange]) for exchange in exchanges])
        prepared = [rendered(run.made, exchange) for exchange in exchanges]
        yield {
            f"{kind}: finite": bool(whole.isfinite().all()),
            f"{kind}: in a batch, from alone": apart(whole, alone),
            f"{kind}: in another order": apart(norms(run, exchanges[::-1]).flip(0), whole),
            f"{kind}: embedder, from alone": apart(
                Embedder(run.backbone, "norm", PROMPT).encode(items), alone
            ),
            f"{kind}: plain transformers alone, from alone": apart(
                plain_vectors(run.made, prepared, 1), alone
            ),
            f"{kind}: plain transformers in a batch, from alone": apart(
                plain_vectors(run.made, prepared, len(prepared)), alone
            ),
        }
    few = written[:4]
    prepared = [rendered(run.made, PROMPT.apply(text)) for text in few]
    exact = in_float32(run.made, lambda: plain_vectors(run.made, prepared, 1))
    yield {"rounding of the number format": apart(plain_vectors(run.made, prepared, 1), exact)}


def norms(run: Run, exchanges: Sequence[Prompted]) -> Tensor:
    """States at `norm` of one batch of whole rows, float32 on the CPU."""
    return record(run.backbone, exchanges, "norm")["norm"].float().cpu()


def trace_error(made: Made, exchanges: Sequence[Prompted]) -> float:
    batch = made.backbone.encode(exchanges)
    states = record(made.backbone, batch, SITES)
    hooked = plain_hooks(made, batch.inputs)
    return max((states[s].float() - hooked[s].float()).abs().max().item() for s in SITES)


@torch.no_grad()
def plain_hooks(made: Made, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same places of the untouched twin, read by hooks of PyTorch in a whole forward."""
    anatomy, kept = made.backbone.anatomy, dict[str, Tensor]()
    layers: Any = made.plain.get_submodule(anatomy.layers)

    def keep(site: str, value: Any) -> None:
        kept[site] = (value[0] if isinstance(value, tuple) else value)[:, -1].clone()

    mid, norm = layers[-1].get_submodule(anatomy.mid), made.plain.get_submodule(anatomy.norm)
    handles = [
        mid.register_forward_pre_hook(lambda _, args: keep("attn[-1]", args)),
        layers[1].register_forward_hook(lambda _, __, output: keep("mlp[1]", output)),
        norm.register_forward_hook(lambda _, __, output: keep("norm", output)),
    ]
    made.plain(**batch, use_cache=False, logits_to_keep=1)
    for handle in handles:
        handle.remove()
    return kept


def in_float32(made: Made, work: Any) -> Tensor:
    """The result of `work` with the same weights in float32."""
    kept = [(weight, weight.data) for weight in made.plain.parameters()]
    try:
        for weight, data in kept:
            weight.data = data.float()
        return work()
    finally:
        for weight, data in kept:
            weight.data = data


def apart(a: Tensor, b: Tensor) -> dict[str, float]:
    """Distances relative to the length of the vectors of `b`."""
    distances = (a - b).norm(dim=-1) / b.norm(dim=-1)
    return {"median": distances.median().item(), "max": distances.max().item()}
