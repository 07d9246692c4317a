"""Recipe: what to read, under which prompt, in which geometry, and how to ask.

Chosen from a probe report alone: no judgement of any benchmark is seen.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from probes import FRAMES, ProbeReport, Setting, Site
from probes.errors import BadFile
from probes.files import read_json, write_json, wrong_field
from probes.framing import best_frame
from probes.geometry import Kind
from probes.prompts import NAMED
from probes.sites import all_sites

PAPER_SITE = "attn[-1]"


@dataclass(frozen=True)
class Recipe:
    """A choice for both stages. `frame=None` means that the backbone cannot rerank."""

    prompt: str = "control"
    site: str = PAPER_SITE
    geometry: Kind = "none"
    frame: str | None = "mcq"
    fusion: float | None = None
    """Weight of stage 2's log-odds against the standardised stage-1 score; None: stage 2 alone
    decides among the reranked."""
    reasons: tuple[str, ...] = field(default=("the paper's fixed choice",), compare=False)

    @classmethod
    def paper(cls) -> "Recipe":
        """FreeRet as the paper fixes it: control prompt, h^Attn_L, no geometry, A/B question."""
        return cls()

    @classmethod
    def e5v(cls) -> "Recipe":
        """The E5-V extraction: its prompt, read at the final norm."""
        return cls("e5v", "norm", "none", frame=None, reasons=("the E5-V extraction",))

    @classmethod
    def from_report(cls, report: ProbeReport) -> "Recipe":
        """The choice that a report supports, each part with a sentence that quotes the figures."""
        setting, why_setting = _choose_setting(report)
        frame, fusion, why_frame = _choose_frame(report)
        return cls(
            prompt=setting.prompt,
            site=setting.site,
            geometry=setting.geometry,
            frame=frame,
            fusion=fusion,
            reasons=(_describe_lexicalization(report), *why_setting, why_frame),
        )

    def save(self, path: str | Path) -> Path:
        return write_json(Path(path), self.to_json())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Raises BadFile when the file is missing, cut off or names what does not exist."""
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def from_json(cls, data: Any, source: str = "recipe") -> "Recipe":
        try:
            recipe = TypeAdapter(cls).validate_python(data)
            Site.parse(recipe.site)
        except (ValidationError, ValueError) as error:
            raise BadFile(f"{source} is not a recipe ({wrong_field(error)})") from None
        if recipe.prompt not in NAMED or recipe.frame not in (None, *FRAMES):
            raise BadFile(f"{source} names a prompt or frame that does not exist")
        return recipe


def _choose_setting(report: ProbeReport) -> tuple[Setting, list[str]]:
    """The best reciprocal rank; its site gives way to one nearer the paper's that is as good within
    a standard error: a short diagnostic cannot see what the paper's figures saw."""
    best = max(report.diagnostic, key=lambda s: s.quality)
    layers = len(report.curves.alpha_mlp.mean)
    order = all_sites(layers)

    def place(site: str) -> int:
        return order.index(Site.parse(site).resolve(layers))

    noise = _noise(best)
    peers = [
        s
        for s in report.diagnostic
        if (s.prompt, s.geometry) == (best.prompt, best.geometry)
        and s.quality >= best.quality - noise
    ]
    chosen = min(peers, key=lambda s: (abs(place(s.site) - place(PAPER_SITE)), -s.quality))
    reference = _find(report, "e5v", "norm", "none")
    paper = _find(report, "control", PAPER_SITE, "none")
    reasons = [
        f"Paraphrases: {_name(chosen)} finds the partner with reciprocal rank "
        f"{chosen.reciprocal_rank}; the E5-V extraction {reference.reciprocal_rank}, the paper's "
        f"control prompt at {PAPER_SITE} {paper.reciprocal_rank}.",
        *_describe_pictures(chosen, reference, paper),
        f"Of {len(peers)} sites as good within noise, {chosen.site} is the nearest to the paper's "
        f"{PAPER_SITE}.",
    ]
    return chosen, reasons


def _noise(setting: Setting) -> float:
    """Standard error of `quality`: that of a mean of one or two independent means."""
    found = [i for i in (setting.reciprocal_rank, setting.pictures) if i is not None]
    errors = [float(i.high - i.low) / 2 / 1.96 for i in found]
    return math.hypot(*errors) / len(errors)


def _choose_frame(report: ProbeReport) -> tuple[str | None, float | None, str]:
    """Frame and fusion weight, or no frame where stage 2 does not earn its cost."""
    best = best_frame(report.framing)
    if not best.discriminates:
        reason = (
            f"No reranking: the best frame, {best.frame}, tells matches from near-misses with AUC "
            f"{best.auc}, which reaches chance (0.5)."
        )
        return None, None, reason
    # The surest gain, not the largest: the best of several noisy means flatters itself.
    fusion = max(report.reranking, key=lambda f: f.gain.low)
    weight = "stage 2 alone" if fusion.weight is None else f"weight {fusion.weight}"
    said = (
        f"frame {best.frame} has AUC {best.auc}; judging stage 1's candidates ({weight}) changes "
        f"the reciprocal rank by {fusion.gain}"
    )
    if fusion.gain.low <= 0:
        return None, None, f"No reranking: {said}, no gain beyond noise."
    return best.frame, fusion.weight, f"Reranking: {said}."


def _describe_lexicalization(report: ProbeReport) -> str:
    curves = report.curves
    mlp, norm = curves.alpha_mlp.mean[-1], curves.alpha_norm.mean[0]
    where = "the last MLP" if mlp < norm else "the final norm"
    return (
        f"Lexicalization: the state turns most in {where} "
        f"(α of the last MLP {mlp:.2f}, of the final norm {norm:.2f}), after {curves.onset}."
    )


def _find(report: ProbeReport, prompt: str, site: str, geometry: str) -> Setting:
    wanted = (prompt, site, geometry)
    return next(s for s in report.diagnostic if (s.prompt, s.site, s.geometry) == wanted)


def _name(setting: Setting) -> str:
    return f"prompt {setting.prompt} at {setting.site}, geometry {setting.geometry},"


def _describe_pictures(chosen: Setting, reference: Setting, paper: Setting) -> list[str]:
    if chosen.pictures is None:
        return []
    return [
        f"Scenes: a caption finds its picture with reciprocal rank {chosen.pictures}; the E5-V "
        f"extraction {reference.pictures}, the paper's choice {paper.pictures}. Texts and pictures "
        "count alike."
    ]
