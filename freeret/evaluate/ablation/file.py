"""The file of `freeret ablate`, and the regret of the recipe's choices."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from freeret.evaluate.ablation.measure import RECIPE, STAGE1, Ablation, Ablator, Point
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.failures import Failure, Unfinished
from freeret.evaluate.loaders import Loader
from freeret.evaluate.results.kept import slug
from freeret.evaluate.run import hardware
from freeret.recipe import Recipe
from freeret.store.identity import differences, in_words
from probes import Site
from probes.display import Results
from probes.errors import BadFile, FreeRetError, Mismatch
from probes.files import read_format, write_json, wrong_field
from probes.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

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
class Ablations:
    """All datasets of one backbone and one recipe."""

    fingerprint: dict[str, Any]
    recipe: Recipe
    prompts: list[str]
    depths: list[int]
    seed: int
    datasets: dict[str, Ablation]
    timings: dict[str, dict[str, Any]]
    format: int = FORMAT
    loading: dict[str, Any] = field(default_factory=dict)
    """How the backbone was loaded. Not part of the identity: the device and the batch size do not
    change a result."""

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each choice on each dataset. Raises BadSetting where
        pandas is not installed."""
        return self._table().to_dataframe()

    def __repr__(self) -> str:
        return f"Ablations({self.fingerprint['model']!r}, {len(self.datasets)} datasets)"

    def _repr_html_(self) -> str:
        return self._table()._repr_html_()

    def _table(self) -> "Results[Choice]":
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
        data = read_format(path, FORMAT, "an ablation", "freeret ablate")
        try:
            return _ADAPTER.validate_python(data)
        except ValidationError as error:
            raise BadFile(
                f"{path} is not a whole ablation ({wrong_field(error)}); ablate again"
            ) from None


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
        ablator.seed, {}, {}, loading=backbone.loading.given(),
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
    """`site`: among sites, at the recipe's prompt and geometry. `setting`: among everything in
    stage 1's grid. `frame`: among frames, where stage 2 was measured."""
    chosen: str
    value: float
    best: str
    best_value: float
    worst: str
    worst_value: float

    @property
    def regret(self) -> float:
        return self.best_value - self.value


def regrets(ablations: Ablations, recipe: Recipe | None = None) -> list[Regret]:
    """The regret of a recipe's site, extraction and frame on every dataset.

    Args:
        ablations: The measured choices.
        recipe: One whose prompt is among those measured; None: the one that was ablated.
    """
    recipe, layers = recipe or ablations.recipe, int(ablations.fingerprint["layers"])
    rows = []
    for name, ablation in ablations.datasets.items():
        grid = {point: point.value for point in ablation.grid}
        chosen = next(point for point in grid if _is(point, recipe, layers))
        peers = {
            p: v
            for p, v in grid.items()
            if (p.prompt, p.geometry) == (recipe.prompt, recipe.geometry)
        }
        rows.append(_regret(name, "site", chosen, {p: (p.site, v) for p, v in peers.items()}))
        everything = {p: (f"{p.prompt} at {p.site}, {p.geometry}", v) for p, v in grid.items()}
        rows.append(_regret(name, "setting", chosen, everything))
        rows += _frames(name, ablation, recipe)
    return rows


def mean_regret(regrets: Sequence[Regret], part: str) -> float:
    """Mean over datasets, in the metric's unit."""
    return float(np.mean([r.regret for r in regrets if r.part == part]))


def _frames(name: str, ablation: Ablation, recipe: Recipe) -> list[Regret]:
    """Regrets at each depth; a recipe without a frame chose stage 1 alone."""
    frames = [row for row in ablation.rows if row.part == "frame"]
    regrets = []
    for depth in dict.fromkeys(row.depth for row in frames):
        rows = {row.name: (row.label, row.interval[0]) for row in frames if row.depth == depth}
        regrets.append(_regret(name, "frame", RECIPE if recipe.frame else STAGE1, rows))
    return regrets


def _regret(dataset: str, part: str, chosen: Any, options: dict[Any, tuple[str, float]]) -> Regret:
    label, value = options[chosen]
    ranked = sorted(options.values(), key=lambda option: option[1])
    (worst, low), (best, high) = ranked[0], ranked[-1]
    return Regret(dataset, part, label, value, best, high, worst, low)


def _is(point: Point, recipe: Recipe, layers: int) -> bool:
    same_site = Site.parse(point.site).resolve(layers) == Site.parse(recipe.site).resolve(layers)
    return same_site and (point.prompt, point.geometry) == (recipe.prompt, recipe.geometry)
