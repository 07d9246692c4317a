"""A method in comparable terms: how stage 1 reads, compares and fuses, and how stage 2 judges."""

from dataclasses import dataclass, replace

from probes.model.sites import PAPER_SITE, Site


@dataclass(frozen=True)
class Configuration:
    """An extraction, and the frame and depth of stage 2 where there is one."""

    prompt: str
    site: str
    """As `from_end` writes it."""
    geometry: str
    frame: str | None = None
    depth: int = 0
    """Candidates per query that are reranked; 0 without stage 2."""
    lexical: float = 0.0
    """Weight of the lexical leg; 0 for a ranking by vectors alone."""

    def __str__(self) -> str:
        geometry = "" if self.geometry == "none" else f", {self.geometry}"
        words = f", with {self.lexical:g} times BM25" if self.lexical else ""
        stage2 = f", top {self.depth} by {self.frame}" if self.depth else ""
        return f"{self.prompt} at {self.site}{geometry}{words}{stage2}"


PAPER = Configuration("control", PAPER_SITE, "none")
E5V = Configuration("e5v", "norm", "none")


def from_end(site: str, layers: int) -> str:
    """A site with its layer counted from the end, as in `attn[-1]`."""
    resolved = Site.parse(site).resolve(layers)
    return str(replace(resolved, layer=resolved.layer - layers))
