"""Ablation: what each part of the method is worth on one dataset.

Stage 1 is a grid of prompt × site × geometry by vectors alone, and at the recipe's site of prompt ×
geometry × weight of the lexical leg; every prompt is encoded once, all sites in one pass. Stage 2
reranks the recipe's first stage with every frame at every depth, by the judgement alone, and with
the recipe's judge and fusion. The reference of every difference is the paper's choice for
the same stage: the control prompt at attn[-1] without geometry, and the A/B question.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from freeret.embedder import texts_with_words
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.configuration import E5V, PAPER, Configuration, from_end
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import Scores, difference, parse_metric, score_run
from freeret.evaluate.rankings import Run, read_trec, write_trec
from freeret.evaluate.skipping import Skipped, skipped_documents
from freeret.evaluate.stage2 import Margins, judge_run, rerank_run
from freeret.evaluate.systems.vectors import encode_sides, rank
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import FRAMES, Backbone, ControlPrompt, Item
from probes.geometry import GEOMETRY_KINDS, GeometryKind
from probes.measure.diagnostic.hybrid import LEXICAL_WEIGHTS
from probes.measure.reference import Reference, at_column, reference_vectors
from probes.model.batches.states import prompted_states
from probes.model.sites import embedding_sites
from probes.prompts import NAMED, Prompt, Side, as_prompt
from probes.stats import auc

log = logging.getLogger(__name__)
STAGE1, RECIPE = "stage 1 alone", "recipe"
"""Names of rows beside the frames."""
PRIORS: dict[str, ControlPrompt] = {
    "control, no task": ControlPrompt(task=None),
    "no grounding": ControlPrompt(grounding=False),
    "no denoising": ControlPrompt(denoise=False),
    "no prior": ControlPrompt(task=None, grounding=False, denoise=False),
}
"""The control prompt with a prior switched off, and with all of them off."""
PROMPTS: dict[str, Prompt] = {**NAMED, **PRIORS}

Grid = dict[Configuration, Scores]


@dataclass(frozen=True)
class Row:
    """One choice of one part, beside the paper's."""

    part: str
    """choice, site, prior, prompt, geometry, lexical, frame"""
    name: str
    interval: tuple[float, float, float]
    difference: tuple[float, float, float]
    """Minus the reference, paired."""
    p: float
    auc: float | None = None
    """Of stage 2 over the judged candidates, matches against the others."""
    accuracy: float | None = None
    """Share of candidates on the right side of p = 0.5, which calibration changes."""
    depth: int | None = None
    """Candidates per query that stage 2 judged; None in stage 1."""

    @property
    def label(self) -> str:
        return self.name if self.depth is None else f"{self.name}, top {self.depth}"


@dataclass(frozen=True)
class Point:
    """A setting of stage 1's grid, and its value."""

    prompt: str
    site: str
    geometry: GeometryKind
    value: float
    lexical: float = 0.0
    """Weight of the lexical leg."""
    halves: tuple[float, float] | None = None
    """Its values over every other query, and over the rest; None in a file of an earlier version,
    and where there is only one query."""


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
    group: str = ""
    drawn_from: tuple[int, int] | None = None
    """Numbers of queries and documents of the dataset of which only some were drawn."""
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True)
class Ablator:
    """Measures the parts of the method with one backbone, against one recipe.

    Args:
        prompts: Names in PROMPTS; those of the recipe, the paper and E5-V are always measured.
        depths: Candidates per query that stage 2 reranks; without them there is no stage 2.
        skip: Leave out bad items, as `evaluate` does with `on_error="skip"`.
    """

    backbone: Backbone
    recipe: Recipe
    prompts: Sequence[str] = tuple(PROMPTS)
    depths: Sequence[int] = ()
    seed: int = 0
    skip: bool = False
    progress: bool = False
    references: dict[Prompt, Reference] = field(default_factory=dict, repr=False, compare=False)
    """States of the reference items by prompt, which the datasets share."""

    @property
    def weights(self) -> list[float]:
        """The weights of the lexical leg that a recipe is chosen among, and the recipe's."""
        return sorted({0.0, *LEXICAL_WEIGHTS, self.recipe.lexical})

    def chosen(self, dataset: Dataset) -> Configuration:
        """The recipe's stage 1. Words are a leg of search: pairs are compared by vectors alone."""
        site = from_end(self.recipe.site, self.backbone.num_layers)
        lexical = self.recipe.lexical if dataset.has_choice else 0.0
        return Configuration(self.recipe.prompt, site, self.recipe.geometry, lexical=lexical)

    def measure(self, dataset: Dataset, scratch: Scratch) -> Ablation:
        """Measure all parts on one dataset, and keep each finished one in `scratch`.

        Raises BadItem for an item that cannot be read, BadFile for missing media, unless bad items
        are skipped.
        """
        skipped = skipped_documents(dataset, self.skip)
        grid, first = self._stage1(dataset, scratch, skipped)
        rows = _rows(grid, self.chosen(dataset), self.seed)
        if self.depths and dataset.has_choice:
            rows += self._stage2(dataset, first, scratch, skipped)
        return Ablation(
            digest=dataset.digest(),
            metric=dataset.metrics[0],
            queries=len(dataset.queries),
            documents=len(dataset.documents),
            note=dataset.note,
            rows=rows,
            grid=[
                Point(c.prompt, c.site, c.geometry, s.value, c.lexical, _halves(s))  # type: ignore[arg-type]
                for c, s in grid.items()
            ],
            group=dataset.group,
            drawn_from=dataset.drawn_from,
            skipped=skipped or [],
        )

    def _stage1(
        self, dataset: Dataset, scratch: Scratch, skipped: list[Skipped] | None
    ) -> tuple[Grid, Run]:
        """The scores of every setting, and the ranking of the recipe's."""
        chosen = self.chosen(dataset)
        metric, journal = parse_metric(dataset.metrics[0]), scratch.grid
        grades = metric.grades(dataset)
        first = read_trec(scratch.first, dataset)
        rows = {row["prompt"]: row for row in journal.rows}
        if first is None:
            rows.pop(self.recipe.prompt, None)
        names = dict.fromkeys([PAPER.prompt, E5V.prompt, self.recipe.prompt, *self.prompts])
        if kept := [name for name in names if name in rows]:
            log.info(
                "%s: %d of %d prompts are kept from an earlier call",
                dataset.name, len(kept), len(names),
            )  # fmt: skip
        grid: Grid = {}
        for name in names:
            row = rows.get(name)
            if row is None:
                bad = None if skipped is None else list(skipped)
                runs = self._runs(dataset, name, bad)
                if chosen in runs:
                    write_trec(scratch.first, runs[chosen], "recipe")
                    first = runs[chosen]
                scores = {c: metric.per_query(dataset, run) for c, run in runs.items()}
                row = {
                    "prompt": name,
                    "scores": [
                        [c.site, c.geometry, c.lexical, v.tolist()] for c, v in scores.items()
                    ],
                    "skipped": [asdict(one) for one in bad or []],
                }
                journal.add(row)
            for site, geometry, lexical, values in row["scores"]:
                key = Configuration(name, site, geometry, lexical=lexical)
                grid[key] = Scores(metric, np.array(values), grades)
            if skipped is not None:
                bad = [Skipped(**one) for one in row["skipped"]]
                skipped += [one for one in bad if one not in skipped]
        return grid, first or {}

    def _runs(
        self, dataset: Dataset, name: str, skipped: list[Skipped] | None
    ) -> dict[Configuration, Run]:
        """The rankings of one prompt at every late site, in every geometry; at the recipe's site
        with every weight of the lexical leg."""
        late = embedding_sites(self.backbone.num_layers)
        chosen = self.chosen(dataset)
        sites = list(dict.fromkeys([*late, chosen.site]))
        prompt = as_prompt(PROMPTS[name], dataset.task)

        def encode(items: Sequence[Item], side: Side) -> Tensor:
            title = f"{name}: {side}" if self.progress else None
            return prompted_states(self.backbone, prompt, items, side, sites, progress=title)

        at_all_sites = self.references.setdefault(prompt, reference_vectors(encode))
        good, queries, documents = encode_sides(encode, dataset, skipped)
        norm = sites.index("norm")
        read: dict[Side, dict[str | None, str]] = {
            "query": self._words(good.queries, queries[:, norm]),
            "document": self._words(good.documents, documents[:, norm]),
        }

        def words(items: Sequence[Item], side: Side) -> list[str]:
            return [read[side][item.id] for item in items]

        return {
            Configuration(name, site, kind, lexical=weight): rank(
                good, queries[:, i], documents[:, i], kind, at_column(at_all_sites, i), weight,
                words,
            )
            for i, site in enumerate(sites)
            for kind in GEOMETRY_KINDS
            for weight in (self.weights if site == chosen.site and dataset.has_choice else [0.0])
        }  # fmt: skip

    def _words(
        self, items: Sequence[Item], states: Float[Tensor, "items hidden"]
    ) -> dict[str | None, str]:
        """What the lexical leg reads of items, by id, from their states at `norm`."""
        media = [bool(item.media) for item in items]
        words = texts_with_words(self.backbone, items, states[media])
        return dict(zip((item.id for item in items), words, strict=True))

    def _stage2(
        self, dataset: Dataset, first: Run, scratch: Scratch, skipped: list[Skipped] | None
    ) -> list[Row]:
        """Rows of every frame; the A/B question also with its options last, in both orders, and
        calibrated."""
        depths, metric = sorted(set(self.depths)), dataset.metrics[0]

        def judge(name: str, reranker: Reranker) -> Margins:
            return judge_run(
                dataset, first, reranker, depths[-1], kept=scratch.margins(name), skipped=skipped,
                progress=self.progress,
            )  # fmt: skip

        margins = {name: judge(name, Reranker(self.backbone, name)) for name in FRAMES}
        last = "mcq, options last"
        margins[last] = judge(last, Reranker(self.backbone, "mcq", layout="options last"))
        both, calibrated = (
            Reranker(self.backbone, order="swap"),
            Reranker(self.backbone, calibrate=True),
        )
        if self.recipe.frame is not None and self.recipe.frame not in margins:
            named = Reranker.from_recipe(self.backbone, self.recipe)
            margins[self.recipe.frame] = judge(self.recipe.frame, named)
        orders = [margins["mcq"], margins["mcq_swapped"]]
        margins["mcq, both orders"] = _combine(both, orders)
        margins["mcq, calibrated"] = _combine(calibrated, orders[:1])
        stage1 = score_run(dataset, first, metric)
        rows = []
        for depth in depths:
            scores = {
                name: score_run(dataset, rerank_run(first, judged, depth), metric)
                for name, judged in margins.items()
            }
            paper = scores["mcq"]
            rows.append(_row("frame", STAGE1, stage1, paper, self.seed, depth=depth))
            if self.recipe.frame is not None:
                judged = margins[self.recipe.frame]
                fused = rerank_run(first, judged, depth, self.recipe.fusion)
                scored = score_run(dataset, fused, metric)
                rows.append(_row("frame", RECIPE, scored, paper, self.seed, depth=depth))
            for name, judged in margins.items():
                log_odds, right = _judgements(dataset, first, judged, depth)
                quality = {
                    "auc": auc(log_odds, right) if 0 < right.sum() < len(right) else None,
                    "accuracy": float(((log_odds > 0) == right).mean()) if len(right) else None,
                }
                rows.append(
                    _row("frame", name, scores[name], paper, self.seed, depth=depth, **quality)
                )
        return rows


def _rows(grid: Grid, recipe: Configuration, seed: int) -> list[Row]:
    """Rows of stage 1, those of which the configuration was measured."""

    def at(prompt: str = PAPER.prompt, site: str = PAPER.site, geometry: str = PAPER.geometry):
        return Configuration(prompt, site, geometry)

    sites = [c.site for c in grid if c == at(site=c.site)]
    weighted = [c for c in grid if c == replace(recipe, lexical=c.lexical)]
    wanted: dict[str, dict[str, Configuration]] = {
        "choice": {"E5-V extraction": E5V, "FreeRet-embed": PAPER, "recipe": recipe},
        "site": {site: at(site=site) for site in sites},
        "prior": {name: at(prompt=name) for name in PRIORS},
        "prompt": {name: at(prompt=name) for name in NAMED},
        "geometry": {
            **{kind: at(geometry=kind) for kind in GEOMETRY_KINDS},
            **{f"recipe, {k}": replace(recipe, geometry=k) for k in GEOMETRY_KINDS},
        },
        "lexical": {f"recipe, {c.lexical:g}": c for c in weighted if len(weighted) > 1},
    }
    return [
        _row(part, name, grid[key], grid[PAPER], seed)
        for part, lines in wanted.items()
        for name, key in lines.items()
        if key in grid
    ]


def _halves(scores: Scores) -> tuple[float, float] | None:
    """The metric over every other query, and over the rest."""
    places = np.arange(len(scores.values))
    if len(places) < 2:
        return None
    first, second = (float(scores.over(places[start::2][None])[0]) for start in (0, 1))
    return first, second


def _row(part: str, name: str, scores: Scores, reference: Scores, seed: int, **more: Any) -> Row:
    gap, p = difference([(scores, reference)], seed)
    return Row(part, name, _plain(scores.interval(seed)), _plain(gap), p, **more)


def _plain(interval: Sequence[float]) -> tuple[float, float, float]:
    mean, low, high = map(float, interval)
    return mean, low, high


def _combine(reranker: Reranker, parts: Sequence[Margins]) -> Margins:
    """The margins that a reranker makes of those of its frames, where all frames judged."""
    return {
        query: {
            id: float(reranker.combine([part[query][id] for part in parts]))
            for id in row
            if all(id in part[query] for part in parts)
        }
        for query, row in parts[0].items()
    }


def _judgements(
    dataset: Dataset, first: Run, judged: Margins, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds of all judged candidates down to a depth, and whether each is a match."""
    places = [
        (query, id)
        for query, row in first.items()
        for id in list(row)[:depth]
        if id in judged.get(query, {})
    ]
    log_odds = [judged[query][id] for query, id in places]
    right = [dataset.judgements[query].get(id, 0) > 0 for query, id in places]
    return np.array(log_odds), np.array(right)
