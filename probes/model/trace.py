"""record(): states of a traced forward at the last position. The only file that imports nnsight."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nnsight
import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import BadSetting, NotRecorded
from probes.model.backbone import Backbone, OutOfMemory, Source
from probes.model.encoding import Batch
from probes.model.sites import Site, as_sites


class Traced(nnsight.NNsight):
    """The traced model. nnsight would move inputs to the device of the first parameter, which is
    none where that is offloaded; a batch is where it belongs already."""

    device = None  # type: ignore[assignment]


@dataclass(frozen=True)
class States:
    """What a trace recorded, each `[batch, ·]` at the last position."""

    by_site: dict[Site, Float[Tensor, "batch hidden"]]
    logits: Float[Tensor, "batch vocabulary"] | None
    num_layers: int

    def __repr__(self) -> str:
        kept = [f"{site} {list(state.shape)}" for site, state in self.by_site.items()]
        if self.logits is not None:
            kept.append(f"logits {list(self.logits.shape)}")
        return f"States({', '.join(kept)})"

    def __getitem__(self, site: str | Site) -> Float[Tensor, "batch hidden"]:
        """The states at one site, in the model's dtype. Raises NotRecorded."""
        key = Site.parse(site).resolve(self.num_layers)
        if key not in self.by_site:
            raise NotRecorded(
                f"{site} was not recorded; recorded: {', '.join(map(str, self.by_site))}"
            )
        return self.by_site[key]

    def sites(self) -> list[Site]:
        return list(self.by_site)


def record(
    backbone: Backbone,
    batch: Batch | Source | Sequence[Source],
    sites: str | Site | Sequence[str | Site],
    *,
    logits: bool = False,
) -> States:
    """Run one forward and keep the last-position state of each site.

    `batch` is what `backbone.encode` gives, or what it takes.

    The forward ends after the deepest site asked for: at `attn[-1]` the last MLP, the final norm
    and the LM head do not run. With `logits=True` it runs to the end and the model's own logits of
    the last position are kept, in float32.
    Raises BadSetting for a site that the backbone does not have, and OutOfMemory.
    """
    depth = backbone.num_layers
    wanted = sorted({s.resolve(depth) for s in as_sites(sites)}, key=lambda s: s.depth(depth))
    if not wanted and not logits:
        raise BadSetting("nothing to record: name at least one site, or ask for logits")
    batch = batch if isinstance(batch, Batch) else backbone.encode(batch)
    with backbone.lock, torch.no_grad():
        try:
            kept, head = _trace(backbone, batch, wanted, logits)
        except torch.OutOfMemoryError as error:
            raise OutOfMemory.of(backbone.device, f"record {len(batch)} rows") from error
    return States(
        dict(zip(wanted, kept, strict=True)), None if head is None else head[:, -1].float(), depth
    )


def _trace(backbone: Backbone, batch: Batch, wanted: list[Site], logits: bool) -> tuple:
    if backbone.traced is None:
        with warnings.catch_warnings():  # of towers with a submodule that is called "output"
            warnings.filterwarnings("ignore", "Module .* has a submodule named")
            backbone.traced = Traced(backbone.model)
    traced, anatomy = backbone.traced, backbone.anatomy
    layers, norm = traced.get(anatomy.layers), traced.get(anatomy.norm)
    inputs: dict[str, Any] = {"use_cache": False, **batch.inputs}
    if logits:
        inputs["logits_to_keep"] = 1
    head, size = None, len(batch)
    with traced.trace(**inputs) as tracer:
        kept = nnsight.save([])
        for site in wanted:
            if site.kind == "embed":
                value = layers[0].input
            elif site.kind == "attn":
                value = layers[site.layer].get(anatomy.mid).input
            elif site.kind == "mlp":
                value = layers[site.layer].output
            else:
                value = norm.output
            kept.append(_last(value, size))
        if logits:
            head = nnsight.save(traced.output.logits)
        else:
            tracer.stop()
    return kept, head


def _last(value: Any, batch: int) -> Tensor:
    """A copy of the last position: a view would keep the whole tensor alive."""
    value = value[0] if isinstance(value, tuple) else value
    # OPT's MLP reads [batch·time, hidden].
    return value.reshape(batch, -1, value.shape[-1])[:, -1].clone()
