"""The file of `freeret ablate`, and the regret of the recipe's choices."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from freeret.evaluate.ablation.measure import RECIPE, STAGE1, Ablation, Ablator, Point
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.configuration import from_end
from freeret.evaluate.datasets import pools_of
from freeret.evaluate.failures import Failure, Unfinished
from freeret.evaluate.loaders import Loader
from freeret.evaluate.results.kept import slug
from freeret.evaluate.run import hardware
from freeret.recipe import Recipe
from freeret.store.identity import differences, in_words
from probes.display import Results, Tabular
from probes.errors import FreeRetError, Mismatch
from probes.files import read_validated, write_json
from probes.geometry import GeometryKind
from probes.prompts import NAMED
from probes.stats import Interval

FORMAT = 1


@dataclass(frozen=True)
class Choice:
    """One choice on one dataset: a row of the table of ablations."""

    dataset: str
    metric: str
    part: str
    choice: str
    value: Interval
    difference: Interval
    """Minus the paper's choice, paired."""
    p: float
    auc: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Ablations(Tabular):
    """All datasets of one backbone and one recipe. Its table has a row for each choice on each
    dataset."""

    fingerprint: dict[str, Any]
    recipe: Recipe
    prompts: list[str]
    depths: list[int]
    seed: int
    datasets: dict[str, Ablation]
    timings: dict[str, dict[str, Any]]
    format: int = FORMAT
    weights: list[float] = field(default_factory=list)
    """Weights of the lexical leg in the grid; empty in a file of an earlier version, whose grid is
    by vectors alone."""
    loading: dict[str, Any] = field(default_factory=dict)
    """How the backbone was loaded. Not part of the identity: the device and the batch size do not
    change a result."""

    def __repr__(self) -> str:
        return f"Ablations({self.fingerprint['model']!r}, {len(self.datasets)} datasets)"

    def _table(self) -> Results[Choice]:
        return Results(
            Choice(
                name, ablation.metric, row.part, row.label, Interval(*row.interval),
                Interval(*row.difference), row.p, row.auc, row.accuracy,
            )
            for name, ablation in self.datasets.items()
            for row in ablation.rows
        )  # fmt: skip

    def save(self, path: Path) -> Path:
        return write_json(path, _ADAPTER.dump_python(self, mode="json"))

    def identity(self) -> dict[str, Any]:
        """Everything that must be equal for a call to resume from this file."""
        explanations = {"reasons", "why_not_reranked", "provenance"}
        left_out = {"datasets": True, "timings": True, "loading": True, "recipe": explanations}
        return _ADAPTER.dump_python(self, mode="json", exclude=left_out)

    @classmethod
    def load(cls, path: str | Path) -> "Ablations":
        """Raises BadFile when the file is missing, cut off, or of another format."""
        return read_validated(
            path, FORMAT, "an ablation", "freeret ablate", _ADAPTER.validate_python, "ablate again"
        )


_ADAPTER = TypeAdapter(Ablations)


def ablate_all(ablator: Ablator, loaders: Iterable[Loader], file: Path) -> Ablations:
    """Ablate every dataset in turn.

    A finished dataset is written to the file at once, and within a dataset every finished prompt
    and every judged query is kept in a folder beside it; the same call resumes from both.

    Raises:
        Mismatch: The file was made with other settings.
        Unfinished: Datasets that cannot be loaded or measured; raised when the others are done.
    """
    backbone = ablator.backbone
    ablations = Ablations(
        backbone.fingerprint(), ablator.recipe, list(ablator.prompts), list(ablator.depths),
        ablator.seed, {}, {}, weights=ablator.weights, loading=backbone.loading.given(),
    )  # fmt: skip
    identity = ablations.identity()
    if file.is_file():
        ablations = Ablations.load(file)
        made = ablations.identity()
        if different := differences(made, identity):
            raise Mismatch(
                f"{file} {in_words(made, identity, different)}. Give another --out, or delete it"
            )
    failures: list[Failure] = []
    for load in loaders:
        dataset = None
        try:
            dataset = load()
            known = ablations.datasets.get(dataset.name)
            if known is not None and known.digest == dataset.digest():
                continue
            made = json.dumps([dataset.digest(), identity, ablator.skip], sort_keys=True)
            digest = hashlib.sha256(made.encode()).hexdigest()
            scratch = Scratch(file.with_suffix("") / slug(dataset.name), digest)
            earlier, start = scratch.seconds(), time.perf_counter()
            ablations.datasets[dataset.name] = ablator.measure(dataset, scratch)
            seconds = round(earlier + time.perf_counter() - start, 2)
            timing = {"seconds": seconds, "hardware": hardware()}
            ablations.timings[dataset.name] = {**timing, **({"resumed": True} if earlier else {})}
            ablations.save(file)
            scratch.remove()
        except (FreeRetError, torch.OutOfMemoryError, MemoryError) as error:
            failures.append(Failure.of(error, dataset.name if dataset else ""))
    if failures:
        raise Unfinished(failures, [file] if file.is_file() else [])
    return ablations


@dataclass(frozen=True)
class Regret:
    """The cost of a choice on one dataset: best minus chosen."""

    dataset: str
    part: str
    """`site`: among sites, by vectors alone, at the recipe's prompt and geometry. `setting`: among
    all prompts, geometries and lexical weights, at the recipe's site; `prompt`, `geometry` and
    `lexical`: among those of one kind, the rest as in the recipe. `frame`: among frames, where
    stage 2 was measured."""
    chosen: str
    value: float
    best: str
    best_value: float
    worst: str
    worst_value: float
    held_out: float | None = None
    """The regret where the best is picked on half of the queries and compared on the other half,
    the mean over both halves; below 0 where the pick is worse than the choice. The best of many on
    the queries that it is measured on is partly luck, and a pick on half of them is no better than
    the truly best, so that in expectation the regret of the truly best lies between `held_out` and
    `regret`. None where no halves were measured."""

    @property
    def regret(self) -> float:
        return self.best_value - self.value


def regrets(ablations: Ablations, recipe: Recipe | None = None) -> list[Regret]:
    """The regret of a recipe's site, setting and frame on every dataset; the pools of one task
    count as one, with the mean of their values.

    Args:
        recipe: One whose prompt is among those measured; None: the one that was ablated. At another
            site than that of the ablated one there are no lexical weights to choose among.
    """
    recipe, layers = recipe or ablations.recipe, int(ablations.fingerprint["layers"])
    site = from_end(recipe.site, layers)
    rows = []
    groups = {name: ablation.group for name, ablation in ablations.datasets.items()}
    for name, pools in pools_of(groups).items():
        points = _mean_points([ablations.datasets[pool].grid for pool in pools])
        grid = list(points.values())
        by_vectors = points[site, recipe.prompt, recipe.geometry, 0.0]
        chosen = points.get((site, recipe.prompt, recipe.geometry, recipe.lexical), by_vectors)
        sites = [p for p in grid if _differs(p, by_vectors) <= {"site"}]
        if len(sites) > 1:  # else no other was measured
            rows.append(_among(name, "site", by_vectors, sites, "{0.site}"))
        settings = [p for p in grid if p.site == site and p.prompt in NAMED]
        label = "{0.prompt}, {0.geometry}, BM25 {0.lexical:g}"
        rows.append(_among(name, "setting", chosen, settings, label))
        for part in ("prompt", "geometry", "lexical"):
            peers = [p for p in settings if _differs(p, chosen) <= {part}]
            rows.append(_among(name, part, chosen, peers, f"{{0.{part}}}"))
        for pool in pools:
            rows += _frames(pool, ablations.datasets[pool], recipe)
    return rows


def mean_regret(regrets: Sequence[Regret], part: str) -> float:
    """Mean over datasets, in the metric's unit."""
    return float(np.mean([r.regret for r in regrets if r.part == part]))


def mean_held_out(regrets: Sequence[Regret], part: str) -> float:
    """Mean of `Regret.held_out` over the datasets that have it, in the metric's unit."""
    measured = [r.held_out for r in regrets if r.part == part and r.held_out is not None]
    return float(np.mean(measured)) if measured else math.nan


def worst_regret(regrets: Sequence[Regret], part: str) -> float:
    """The largest over datasets, in the metric's unit."""
    return max(r.regret for r in regrets if r.part == part)


def _differs(point: Point, other: Point) -> set[str]:
    """The choices in which two settings differ."""
    parts = ("site", "prompt", "geometry", "lexical")
    return {part for part in parts if getattr(point, part) != getattr(other, part)}


def _mean_points(
    grids: Sequence[Sequence[Point]],
) -> dict[tuple[str, str, GeometryKind, float], Point]:
    """The settings that were measured in every grid, with the mean of their values: site, prompt,
    geometry and lexical weight -> point."""
    columns = [{(p.site, p.prompt, p.geometry, p.lexical): p for p in grid} for grid in grids]
    means = {}
    for key, point in columns[0].items():
        if not all(key in column for column in columns):
            continue
        same = [column[key] for column in columns]
        value, both = float(np.mean([p.value for p in same])), None
        if len(halves := [p.halves for p in same if p.halves is not None]) == len(same):
            first, second = np.mean(halves, axis=0)
            both = float(first), float(second)
        means[key] = replace(point, value=value, halves=both)
    return means


def _among(dataset: str, part: str, chosen: Point, points: Sequence[Point], label: str) -> Regret:
    """The regret of one setting among several, which `label` words."""
    best, worst = (pick(points, key=lambda p: p.value) for pick in (max, min))
    return Regret(
        dataset, part, label.format(chosen), chosen.value, label.format(best), best.value,
        label.format(worst), worst.value, _held_out(chosen, points),
    )  # fmt: skip


def _held_out(chosen: Point, points: Sequence[Point]) -> float | None:
    """`Regret.held_out`. Settings that are equally good on a half are averaged."""
    if chosen.halves is None:
        return None
    gains = []
    for picked_on, compared_on in ((0, 1), (1, 0)):
        halves = [p.halves for p in points if p.halves is not None]
        top = max(half[picked_on] for half in halves)
        best = [half[compared_on] for half in halves if half[picked_on] == top]
        gains.append(np.mean(best) - chosen.halves[compared_on])
    return float(np.mean(gains))


def _frames(name: str, ablation: Ablation, recipe: Recipe) -> list[Regret]:
    """Regrets at each depth; a recipe without a frame chose stage 1 alone."""
    frames = [row for row in ablation.rows if row.part == "frame"]
    regrets = []
    for depth in dict.fromkeys(row.depth for row in frames):
        rows = {row.name: (row.label, row.interval[0]) for row in frames if row.depth == depth}
        label, value = rows[RECIPE if recipe.frame else STAGE1]
        ranked = sorted(rows.values(), key=lambda row: row[1])
        (worst, low), (best, high) = ranked[0], ranked[-1]
        regrets.append(Regret(name, "frame", label, value, best, high, worst, low))
    return regrets
