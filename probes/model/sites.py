"""Site: a named place in the residual stream, read at the last position of a prompt.

A site such as `attn[-1]+mean` also reads the tokens of the item itself: its state is the unit
vector at the last position plus the mean of the unit vectors of these tokens. The last position has
to sum up all of a long text, which the mean does not forget (KV-Embedding pools both, arXiv
2601.01046).

| written    | in the paper     | state                                                   |
|------------|------------------|---------------------------------------------------------|
| `embed`    | h^MLP_0          | input of the first layer                                |
| `attn[l]`  | h^Attn_{l+1}     | residual stream after attention is added, before the MLP |
| `mlp[l]`   | h^MLP_{l+1}      | residual stream after the MLP is added: the layer's output |
| `norm`     | -                | the final norm's output, which the LM head reads         |

Indices are Python's: `attn[0]` is the first layer, `attn[-1]` the last (the paper's h^Attn_L).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from probes.arguments import check_count
from probes.errors import BadSetting

PAPER_SITE = "attn[-1]"
"""The site at which the paper reads its embeddings: h^Attn_L."""
LATE_LAYERS = 5
"""Layers from the end whose sites are candidates for an embedding."""
_PATTERN = re.compile(
    r"((?P<end>embed|norm)|(?P<sublayer>attn|mlp)\[(?P<layer>-?\d+)\])(?P<mean>\+mean)?"
)


@dataclass(frozen=True)
class Site:
    """A place in the residual stream: `Site.parse("attn[-1]")` reads it, `str(site)` writes it."""

    kind: Literal["embed", "attn", "mlp", "norm"]
    layer: int = 0
    mean: bool = False
    """Whether the tokens of the item are read too."""

    @classmethod
    def parse(cls, site: "str | Site") -> "Site":
        """Read `embed`, `attn[l]`, `mlp[l]` or `norm`, perhaps followed by `+mean`. Raises
        BadSetting for anything else."""
        if isinstance(site, Site):
            return site
        if isinstance(site, str) and (match := _PATTERN.fullmatch(site)):
            kind: Any = match["end"] or match["sublayer"]
            return cls(kind, int(match["layer"] or 0), match["mean"] is not None)
        raise BadSetting(
            f"{site!r} is not a site: write embed, attn[l], mlp[l] or norm, for example attn[-1], "
            "or attn[-1]+mean"
        )

    def resolve(self, num_layers: int) -> "Site":
        """The same site with a non-negative layer index. Raises BadSetting when out of range."""
        if self.kind in ("embed", "norm"):
            return replace(self, layer=0)
        if not -num_layers <= self.layer < num_layers:
            raise BadSetting(f"{self} is out of range: this backbone has {num_layers} layers")
        return replace(self, layer=self.layer % num_layers)

    def single(self, num_layers: int) -> "Site":
        """`resolve`, for what reads or changes single positions. Raises BadSetting for a site with
        a mean too."""
        if self.mean:
            raise BadSetting(
                f"{self} is read at several tokens, for an embedding: here it has to be {self.last}"
            )
        return self.resolve(num_layers)

    @property
    def last(self) -> "Site":
        """The same place, read at the last position alone."""
        return replace(self, mean=False)

    def depth(self, num_layers: int) -> tuple[int, int]:
        """Sort key in order of execution."""
        site = self.resolve(num_layers)
        layer = {"embed": -1, "norm": num_layers}.get(site.kind, site.layer)
        return layer, ("embed", "attn", "mlp", "norm").index(site.kind)

    @property
    def distance_to_end(self) -> int:
        """Sublayers between this site and `norm`, for a layer counted from the end: 0 for `norm`,
        1 for mlp[-1], 2 for attn[-1]. Raises BadSetting for a layer counted from the start."""
        if self.kind == "norm":
            return 0
        if self.kind == "embed" or self.layer >= 0:
            raise BadSetting(f"{self} is not counted from the end; write it as in attn[-1]")
        return -2 * self.layer - (self.kind == "mlp")

    def __str__(self) -> str:
        place = self.kind if self.kind in ("embed", "norm") else f"{self.kind}[{self.layer}]"
        return f"{place}+mean" if self.mean else place


def as_sites(sites: str | Site | Iterable[str | Site], num_layers: int) -> list[Site]:
    """Read sites or their names; a lone one is a list of one, and `"all"` stands for `all_sites`.
    Raises BadSetting where a name is not that of a site."""
    if isinstance(sites, str) and sites == "all":
        return all_sites(num_layers)
    if isinstance(sites, str) or not isinstance(sites, Iterable):
        sites = [sites]
    return [Site.parse(site) for site in sites]


def as_layers(layers: int | Iterable[int], num_layers: int) -> list[int]:
    """Read a selection of layers, whose indices are Python's; a lone one is a list of one. Each
    comes once, counted from the start, in ascending order. Raises BadSetting where there is no such
    layer."""
    chosen = [layers] if isinstance(layers, int) else list(layers)
    for layer in chosen:
        if not -num_layers <= layer < num_layers:
            raise BadSetting(f"there is no layer {layer}: this backbone has {num_layers} layers")
    return sorted({layer % num_layers for layer in chosen})


def all_sites(backbone: Any) -> list[Site]:
    """Every site of a backbone, from `embed` to `norm`, in order of execution.

    Args:
        backbone: The backbone, or its number of layers.

    Returns:
        2 · layers + 2 sites.

    Raises:
        BadSetting: It is neither.
    """
    count = check_count("the number of layers", getattr(backbone, "num_layers", backbone))
    layers = [Site(kind, i) for i in range(count) for kind in ("attn", "mlp")]
    return [Site("embed"), *layers, Site("norm")]


def embedding_sites(num_layers: int) -> list[str]:
    """Candidates for an embedding: late sites at the last position, and the same with the mean."""
    late = late_sites(min(LATE_LAYERS, num_layers))
    return [f"{site}{mean}" for mean in ("", "+mean") for site in late]


def late_sites(layers: int = LATE_LAYERS) -> list[str]:
    """Both sites of each of the last `layers` layers, and `norm`."""
    return [f"{kind}[{-i}]" for i in range(layers, 0, -1) for kind in ("attn", "mlp")] + ["norm"]
