"""Ablation: what each part of the method is worth on one dataset.

Stage 1 is a grid of prompt × site × geometry; every prompt is encoded once, all sites in one pass.
Stage 2 is every frame at every depth, over the recipe's first stage, judging alone, and the
recipe's frame with its fusion. The reference
of every difference is the paper's choice of the same stage: the control prompt at attn[-1] without
geometry, and the A/B question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import SPEARMAN, Run, Scores, difference, score_run
from freeret.evaluate.stage2 import Margins, judge_run, rerank_run
from freeret.evaluate.systems.vectors import rank
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import FRAMES, Backbone, ControlPrompt, Item, late_sites
from probes.geometry import GEOMETRY_KINDS, GeometryKind
from probes.measure.framing import content_free_margin
from probes.measure.reference import at_column, reference_vectors
from probes.model.batching import prompted_states
from probes.model.sites import Site
from probes.prompts import NAMED, Prompt, Side, as_prompt
from probes.stats import auc

LAYERS = 5
STAGE1, RECIPE = "stage 1 alone", "recipe"
"""Names of rows beside the frames."""
PRIORS: dict[str, ControlPrompt] = {
    "no task": ControlPrompt(task=None),
    "no grounding": ControlPrompt(grounding=False),
    "no denoising": ControlPrompt(denoise=False),
    "no prior": ControlPrompt(task=None, grounding=False, denoise=False),
}
"""The control prompt with a prior switched off, and with all of them off."""
PROMPTS: dict[str, Prompt] = {**NAMED, **PRIORS}

Extraction = tuple[str, str, GeometryKind]
"""Prompt, site, geometry."""
PAPER_EXTRACTION: Extraction = ("control", "attn[-1]", "none")
E5V_EXTRACTION: Extraction = ("e5v", "norm", "none")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    part: str
    """choice, site, prior, prompt, geometry, frame"""
    name: str
    interval: tuple[float, float, float]
    difference: tuple[float, float, float]
    """Minus the reference, paired."""
    p: float
    auc: float | None = None
    """Of stage 2 over the candidates judged, matches against the others."""
    accuracy: float | None = None
    """Share of candidates on the right side of p = 0.5: what calibration is for."""
    depth: int | None = None
    """How many candidates of each query stage 2 judged; None in stage 1."""

    @property
    def label(self) -> str:
        return self.name if self.depth is None else f"{self.name}, top {self.depth}"


@dataclass(frozen=True)
class Point:
    """One cell of stage 1's grid."""

    prompt: str
    site: str
    geometry: GeometryKind
    value: float


@dataclass(frozen=True)
class Ablation:
    """Everything measured on one dataset."""

    digest: str
    metric: str
    queries: int
    documents: int
    note: str
    rows: list[Row]
    grid: list[Point]


def ablate(
    backbone: Backbone,
    recipe: Recipe,
    dataset: Dataset,
    *,
    prompts: Sequence[str] = tuple(PROMPTS),
    depths: Sequence[int] = (),
    seed: int = 0,
    progress: bool = False,
) -> Ablation:
    """All parts on one dataset. `prompts` are names in PROMPTS; those of the recipe, the paper and
    E5-V are always among them. Without `depths` there is no stage 2.

    Raises BadItem for an item that cannot be read.
    """
    dataset.check_readable()
    needed = dict.fromkeys([PAPER_EXTRACTION[0], E5V_EXTRACTION[0], recipe.prompt, *prompts])
    chosen: Extraction = (recipe.prompt, _late(backbone, recipe.site), recipe.geometry)
    figures: dict[Extraction, Scores] = {}
    first: Run = {}
    for name in needed:
        runs = _grid(backbone, dataset, name, chosen[1], progress)
        figures |= {key: score_run(dataset, run, dataset.metrics[0]) for key, run in runs.items()}
        first = runs.get(chosen, first)
    rows = _rows(figures, chosen, seed)
    if depths and dataset.metrics[0] != SPEARMAN:
        rows += _frames(backbone, dataset, recipe, first, sorted(set(depths)), seed, progress)
    return Ablation(
        digest=dataset.digest(),
        metric=dataset.metrics[0],
        queries=len(dataset.queries),
        documents=len(dataset.documents),
        note=dataset.note,
        rows=rows,
        grid=[Point(*key, found.value) for key, found in figures.items()],
    )


def _grid(
    backbone: Backbone, dataset: Dataset, name: str, extra: str, progress: bool
) -> dict[Extraction, Run]:
    """Runs of one prompt at every late site, in every geometry."""
    sites = list(dict.fromkeys([*late_sites(min(LAYERS, backbone.num_layers)), extra]))
    prompt = as_prompt(PROMPTS[name], dataset.task)

    def encode(items: Sequence[Item], side: Side) -> Tensor:
        title = f"{name}: {side}" if progress else None
        return prompted_states(backbone, prompt, items, side, sites, progress=title)

    at_all_sites = reference_vectors(encode)

    queries = encode(dataset.queries, "query")
    documents = encode(dataset.documents, "document")
    return {
        (name, site, kind): rank(
            dataset, queries[:, column], documents[:, column], kind, at_column(at_all_sites, column)
        )
        for column, site in enumerate(sites)
        for kind in GEOMETRY_KINDS
    }


def _late(backbone: Backbone, site: str) -> str:
    """A site as `late_sites` writes it: counted from the end."""
    found = Site.parse(site).resolve(backbone.num_layers)
    return str(replace(found, layer=found.layer - backbone.num_layers)) if found.layer else site


def _rows(figures: Mapping[Extraction, Scores], recipe: Extraction, seed: int) -> list[Row]:
    prompt, at, geometry = PAPER_EXTRACTION
    sites = [key[1] for key in figures if (key[0], key[2]) == (prompt, geometry)]
    wanted: dict[str, dict[str, Extraction]] = {
        "choice": {
            "E5-V extraction": E5V_EXTRACTION,
            "FreeRet-embed": PAPER_EXTRACTION,
            "recipe": recipe,
        },
        "site": {site: (prompt, site, geometry) for site in sites},
        "prior": {name: (name, at, geometry) for name in PRIORS},
        "prompt": {name: (name, at, geometry) for name in NAMED},
        "geometry": {
            **{kind: (prompt, at, kind) for kind in GEOMETRY_KINDS},
            **{f"recipe, {kind}": (recipe[0], recipe[1], kind) for kind in GEOMETRY_KINDS},
        },
    }
    return [
        _row(part, name, figures[key], figures[PAPER_EXTRACTION], seed)
        for part, lines in wanted.items()
        for name, key in lines.items()
        if key in figures
    ]


def _row(part: str, name: str, found: Scores, reference: Scores, seed: int, **more: Any) -> Row:
    gap, p = difference([(found, reference)], seed)
    return Row(part, name, _plain(found.interval(seed)), _plain(gap), p, **more)


def _plain(interval: Sequence[float]) -> tuple[float, float, float]:
    mean, low, high = map(float, interval)
    return mean, low, high


def _frames(
    backbone: Backbone,
    dataset: Dataset,
    recipe: Recipe,
    first: Run,
    depths: Sequence[int],
    seed: int,
    progress: bool,
) -> list[Row]:
    """Every frame; the A/B question with its options last, both their orders, and calibrated."""
    margins = {
        name: judge_run(dataset, first, Reranker(backbone, frame), depths[-1], progress=progress)
        for name, frame in FRAMES.items()
    }
    last = Reranker(backbone, "mcq", layout="options last")
    margins["mcq, options last"] = judge_run(dataset, first, last, depths[-1], progress=progress)
    margins["mcq, both orders"] = _combine(margins["mcq"], margins["mcq_swapped"], 0.5, 0.0)
    blank = content_free_margin(backbone, FRAMES["mcq"])
    margins["mcq, calibrated"] = _combine(margins["mcq"], margins["mcq"], 0.5, blank)
    metric = dataset.metrics[0]
    stage1 = score_run(dataset, first, metric)
    rows = []
    for depth in depths:
        found = {
            name: score_run(dataset, rerank_run(first, judged, depth), metric)
            for name, judged in margins.items()
        }
        alone = _row("frame", STAGE1, stage1, found["mcq"], seed, depth=depth)
        rows.append(alone)
        if recipe.frame is not None:
            fused = rerank_run(first, margins[recipe.frame], depth, recipe.fusion)
            own = score_run(dataset, fused, metric)
            rows.append(_row("frame", RECIPE, own, found["mcq"], seed, depth=depth))
        for name, judged in margins.items():
            scores, right = _judged(dataset, first, judged, depth)
            more = {
                "auc": auc(scores, right) if 0 < right.sum() < len(right) else None,
                "accuracy": float(((scores > 0) == right).mean()),
            }
            rows.append(_row("frame", name, found[name], found["mcq"], seed, depth=depth, **more))
    return rows


def _combine(a: Margins, b: Margins, weight: float, shift: float) -> Margins:
    return {
        query: {id: weight * (x + b[query][id]) - shift for id, x in row.items()}
        for query, row in a.items()
    }


def _judged(
    dataset: Dataset, first: Run, judged: Margins, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of all candidates down to a depth, and whether each is a match."""
    places = [(query, id) for query, row in first.items() for id in list(row)[:depth]]
    scores = [judged[query][id] for query, id in places]
    right = [dataset.judgements[query].get(id, 0) > 0 for query, id in places]
    return np.array(scores), np.array(right)
