"""Writes: what every sublayer adds to the state at the last position of one input, and how much of
the predicted word each of them brings (direct logit attribution).

The residual stream is a sum. The state that the final norm reads is the embedding and the write of
every sublayer, the state after it less the state before,

    mlp[-1] = embed + Σ_l ((attn[l] - mlp[l-1]) + (mlp[l] - attn[l])),

exactly so for every backbone, since it is read from recorded states. With the scale of the final
norm held fixed at this state (`FrozenNorm`), the logit of the predicted word y* before the softcap
is linear in the writes,

    logit = Σ_w d · w + constant,    d = the row w_y* of the LM head, taken back through the norm,

where the constant is what the biases of norm and head add (nostalgebraist, 2020; Elhage et al.,
2021). Lengths along w_y* and across it are those of the write itself: they say what turns the state
toward the word, as β does, which is the cosine with w_y*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from probes.display import data_frame, shortened
from probes.errors import BadSetting
from probes.measure.lexicalization import curve_sites
from probes.microscope.frozen import FrozenNorm
from probes.microscope.heads import head_writes, output_projections
from probes.model.backbone import Backbone
from probes.model.encoding import Batch
from probes.model.offloading import loaded
from probes.model.sites import as_layers
from probes.model.trace import record, record_inputs
from probes.prompts import Source

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False)
class Write:
    """What the embedding, a sublayer or an attention head adds to the state."""

    name: str
    """`embed`, a site such as `mlp[3]`, or a head such as `attn[3] head 0`; `attn[3] bias` is what
    an attention module adds without any head."""
    vector: Float[Tensor, " hidden"]
    """float64, on the CPU."""
    logit: float
    """What it adds to the logit of the predicted word, before the softcap."""
    along: float
    """Its length along w_y*, signed."""
    across: float
    """The length of the rest of it, at right angles to w_y*."""

    @property
    def length(self) -> float:
        """Its norm."""
        return float(self.vector.norm())

    @property
    def cosine(self) -> float:
        """Its cosine with w_y*; 0 for a write of length 0."""
        return self.along / self.length if self.length else 0.0


@dataclass(frozen=True, eq=False)
class Writes:
    """All writes at the last position of one input."""

    word: str
    """The predicted word y*."""
    parts: list[Write]
    """The embedding and the write of each sublayer, in order of execution. Their vectors sum to
    `state`, and their logits and `constant` to `logit`."""
    heads: dict[int, list[Write]]
    """By layer, where asked for: the write of each head, and last that of the biases. They sum to
    the write of the attention."""
    constant: float
    """What the biases of final norm and LM head add to the logit."""
    logit: float
    """The logit of y* before the softcap, where the model has one."""
    state: Float[Tensor, " hidden"]
    """The state that the final norm reads: `mlp[-1]`, float64."""

    def __getitem__(self, name: str) -> Write:
        """A write by its name. Raises BadSetting where there is none of this name."""
        for write in self._all():
            if write.name == name:
                return write
        names = ", ".join(write.name for write in self._all())
        raise BadSetting(f"there is no write {name!r}; there are {names}")

    def __repr__(self) -> str:
        best = max(self.parts, key=lambda write: write.logit)
        return (
            f"Writes({len(self.parts)} writes, {shortened(self.word)} at logit {self.logit:.2f}, "
            f"most of it by {best.name}: {best.logit:+.2f})"
        )

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each write, heads after the write that they split, and
        the columns write, logit, along, across, length and cosine. Raises BadSetting where pandas
        is not installed."""
        measures = ("logit", "along", "across", "length", "cosine")
        return data_frame(
            {"write": write.name, **{name: getattr(write, name) for name in measures}}
            for write in self._all()
        )

    def _all(self) -> Iterator[Write]:
        for write in self.parts:
            yield write
            for layer, heads in self.heads.items():
                if write.name == f"attn[{layer}]":
                    yield from heads


def writes(backbone: Backbone, source: Source, *, heads: int | Sequence[int] = ()) -> Writes:
    """Split the state at the last position of an input into what every sublayer wrote.

    Args:
        backbone: The model to read.
        source: One item or prompted exchange, in any form that `Backbone.encode` takes.
        heads: Layers whose attention is split into heads. Negative ones count from the end.

    Returns:
        The embedding and all writes with what they add to the logit of the predicted word.

    Raises:
        BadItem: The source cannot be read.
        BadSetting: It is several sources, or the backbone has no such layer.
        UnsupportedBackbone: The final norm is no RMSNorm or LayerNorm, or the write of an attention
            module is not a sum over heads.
    """
    rows = backbone.rows(source)
    if len(rows) != 1:
        raise BadSetting(f"writes are those of one input, not of {len(rows)}")
    projections = output_projections(backbone, as_layers(heads, backbone.num_layers))
    batch, anatomy = backbone.collate(rows), backbone.anatomy
    sites = curve_sites(backbone.num_layers)
    states = record(backbone, batch, sites, logits=True)
    assert states.logits is not None
    word = states.logits[0].argmax()
    final = states["mlp[-1]"][0]
    stream = torch.stack([states[site][0].cpu() for site in sites[:-1]]).double()
    norm = FrozenNorm.at(backbone.model.get_submodule(anatomy.norm), final)
    row = backbone.word_rows(word[None])[0].cpu().double()
    bias, scale = _head_bias(backbone, int(word)), anatomy.logit_scale
    direction = scale * norm.pull_back(row)

    def measured(name: str, vector: Float[Tensor, " hidden"]) -> Write:
        along = float(vector @ row / row.norm())
        across = float((vector - along * row / row.norm()).norm())
        return Write(name, vector, float(vector @ direction), along, across)

    vectors = [stream[0], *stream.diff(dim=0)]
    parts = [measured(str(site), vector) for site, vector in zip(sites, vectors, strict=False)]
    return Writes(
        word=backbone.tokenizer.decode([int(word)]),
        parts=parts,
        heads={
            layer: [measured(*named) for named in _named(layer, vectors)]
            for layer, vectors in _split(backbone, batch, projections, stream).items()
        },
        constant=scale * (float(norm.bias @ row) + bias),
        logit=scale * (float(states["norm"][0].cpu().double() @ row) + bias),
        state=stream[-1],
    )


def _head_bias(backbone: Backbone, word: int) -> float:
    with backbone.lock, loaded(backbone.model, backbone.anatomy.head) as head:
        bias = getattr(head, "bias", None)
        return 0.0 if bias is None else float(bias[word])


def _split(
    backbone: Backbone,
    batch: Batch,
    projections: dict[int, str],
    stream: Float[Tensor, "sites hidden"],
) -> dict[int, Float[Tensor, "terms hidden"]]:
    """The write of each head, by layer; attn[l] is the state 2·l + 1 of the stream."""
    if not projections:
        return {}
    entering = record_inputs(backbone, batch, list(projections.values()))
    return {
        layer: head_writes(backbone, path, values[0], stream[2 * layer], stream[2 * layer + 1])
        for (layer, path), values in zip(projections.items(), entering, strict=True)
    }


def _named(
    layer: int, vectors: Float[Tensor, "terms hidden"]
) -> list[tuple[str, Float[Tensor, " hidden"]]]:
    names = [*(f"head {head}" for head in range(len(vectors) - 1)), "bias"]
    return [(f"attn[{layer}] {name}", v) for name, v in zip(names, vectors, strict=True)]
