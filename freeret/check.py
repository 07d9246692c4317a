"""What to run before deploying a new backbone: does it compute what the method needs?"""

from dataclasses import dataclass

import torch

from freeret.sizing import tokens_per_second
from probes import FRAMES, Backbone, Item, record
from probes.framing import Labels
from probes.prefix import Prefix, common_prefix, share_error
from probes.prompts import NAMED

TEXTS = (
    "A dog sleeps.",
    "The committee postponed its decision until the following spring.",
    "Rain",
)


@dataclass(frozen=True)
class Check:
    """One line of the table: what was looked at, what was found, whether it is as it must be."""

    what: str
    found: str
    passed: bool


def check(backbone: Backbone) -> list[Check]:
    """Anatomy, its numeric confirmation, padding invariance, shared prefix, throughput, labels."""
    anatomy = backbone.anatomy
    checks = [
        Check("layers", f"{anatomy.num_layers} at {anatomy.layers}", True),
        Check("attn[l] enters", f"{anatomy.layers}.l.{anatomy.mid}", True),
        Check("final norm, LM head", f"{anatomy.norm}, {anatomy.head}", True),
        Check("mid = in + attention, out = mid + MLP", f"error {anatomy.residual_error:.1e}", True),
        Check("logits = head(norm)", f"error {anatomy.logit_error:.1e}", True),
        _padding(backbone),
        _prefix(backbone),
        _throughput(backbone),
    ]
    return [*checks, *(_labels(backbone, name) for name in FRAMES)]


def _padding(backbone: Backbone) -> Check:
    sources = [NAMED["prompteol"].apply(Item(text)) for text in TEXTS]
    together = record(backbone, backbone.encode(sources), ["attn[-1]"])["attn[-1]"].float()
    alone = torch.cat(
        [record(backbone, backbone.encode([s]), ["attn[-1]"])["attn[-1]"].float() for s in sources]
    )
    error = ((together - alone).norm(dim=-1) / alone.norm(dim=-1)).max().item()
    limit = 1e-5 if backbone.dtype == torch.float32 else 0.02
    return Check("padded batch against single rows", f"relative error {error:.1e}", error <= limit)


def _prefix(backbone: Backbone) -> Check:
    reason = share_error(backbone)
    if reason:
        return Check("shared prefix", f"not used: {reason}", True)
    rows = [backbone.row(NAMED["prompteol"].apply(Item(text))) for text in TEXTS]
    shared = Prefix(backbone, common_prefix(rows)).collate(rows)
    states = [
        record(backbone, b, ["attn[-1]"])["attn[-1]"] for b in (shared, backbone.collate(rows))
    ]
    error = ((states[0] - states[1]).norm(dim=-1) / states[1].norm(dim=-1)).max().item()
    limit = 1e-4 if backbone.dtype == torch.float32 else 0.05
    return Check("shared prefix against whole rows", f"relative error {error:.1e}", error <= limit)


def _throughput(backbone: Backbone) -> Check:
    found = f"{tokens_per_second(backbone):.0f} tokens/s on {backbone.device}, {backbone.dtype}"
    return Check("stage 1 throughput", found.replace("torch.", ""), True)


def _labels(backbone: Backbone, name: str) -> Check:
    labels = Labels.of(backbone, FRAMES[name])
    found = (
        "one token each" if labels.single_token else "more than one token: first tokens are read"
    )
    return Check(f"labels of {name}", found, labels.single_token)
