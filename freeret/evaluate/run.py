"""Evaluate systems on datasets; every finished dataset is kept, so a killed run goes on.

OUT/recipe.json                 one JSON a run
OUT/recipe/captions.trec        its ranking of each dataset
OUT/recipe-top10.json           the same after stage 2 over the first 10
"""

import logging
import os
import platform
import re
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import Loader
from freeret.evaluate.metrics import SPEARMAN, Run, figure, grades
from freeret.evaluate.results import DatasetResult, Measured, Result, write_trec
from freeret.evaluate.spread import Actors
from freeret.evaluate.stage2 import Judge, judge_run, rerank_run
from freeret.evaluate.systems import Prompts, System, Vectors
from freeret.identity import differences, in_words
from freeret.reranker import Reranker
from probes.errors import BadSetting, StoreMismatch

log = logging.getLogger(__name__)
PACKAGES = ("torch", "transformers", "nnsight", "numpy", "scipy", "ir-measures", "bm25s", "freeret")


def evaluate(
    loaders: Iterable[Loader],
    system: System,
    out: Path,
    *,
    rerank: Sequence[int] = (),
    seed: int = 0,
    progress: bool = False,
    actors: Actors | None = None,
) -> list[Path]:
    """One system over all datasets; returns the result files, that of stage 1 first.

    `rerank` are depths of stage 2; a system whose recipe has no frame is not reranked, with a
    warning. `actors` share the work, and leave no trace but in the timings. Raises StoreMismatch
    when a result file in `out` was made by something else.
    """
    reranker = _reranker(system) if rerank else None
    engine = {}
    if actors is not None and isinstance(system, Vectors):
        system, reranker = actors.system(system), reranker and actors.judge(reranker)
        engine = {"engine": "ray", "actors": len(actors)}
    depths = [0, *sorted(set(rerank))] if reranker else [0]
    blanks = {depth: _blank(system, depth, seed) for depth in depths}
    files = {depth: out / f"{_slug(blank.run)}.json" for depth, blank in blanks.items()}
    results = {depth: _go_on(files[depth], blank) for depth, blank in blanks.items()}
    seen: set[str] = set()
    for load in loaders:
        dataset = load()
        if dataset.name in seen:
            raise BadSetting(f"two datasets are called {dataset.name!r}; evaluate them apart")
        seen.add(dataset.name)
        if all(_finished(result, dataset) for result in results.values()):
            continue
        start = time.perf_counter()
        run = system.run(dataset, progress=progress)
        seconds = time.perf_counter() - start
        prompts = system.prompts_for(dataset)
        _keep(results[0], files[0], dataset, run, prompts, seconds, engine)
        if reranker is not None:
            start = time.perf_counter()
            second = _rerank(dataset, run, reranker, system, depths[1:], progress)
            seconds = time.perf_counter() - start
            for depth, reranked in second.items():
                _keep(results[depth], files[depth], dataset, reranked, prompts, seconds, engine)
    return [files[depth] for depth in depths]


def _rerank(
    dataset: Dataset,
    run: Run,
    reranker: Judge,
    system: System,
    depths: Sequence[int],
    progress: bool,
) -> dict[int, Run]:
    """All depths from one judgement of the deepest. Pairs of sentences have nothing to order."""
    if SPEARMAN in dataset.metrics:
        return dict.fromkeys(depths, run)
    margins = judge_run(dataset, run, reranker, depths[-1], progress=progress)
    fusion = system.recipe.fusion if system.recipe else None
    return {depth: rerank_run(run, margins, depth, fusion) for depth in depths}


def _reranker(system: System) -> Reranker | None:
    """Stage 2 of a system; None, with a warning, where there is none."""
    if system.recipe is None or system.backbone is None or system.recipe.frame is None:
        why = system.recipe.why_not_reranked if system.recipe else "it has no stage 2"
        log.warning("%s is not reranked: %s", system.name, why)
        return None
    return Reranker.from_recipe(system.backbone, system.recipe)


def _blank(system: System, depth: int, seed: int) -> Result:
    stage2 = None
    if depth and system.recipe is not None:
        stage2 = {
            "depth": depth,
            "frame": system.recipe.frame,
            "fusion": system.recipe.fusion,
            "first_stage": {"run": system.name, **system.identity()},
        }
    return Result(
        run=f"{system.name}-top{depth}" if depth else system.name,
        system=system.identity(),
        fingerprint=system.backbone.fingerprint() if system.backbone is not None else None,
        loading=system.backbone.loading.given() if system.backbone is not None else None,
        versions={name: version(name) for name in PACKAGES},
        seed=seed,
        stage2=stage2,
    )


def _go_on(file: Path, blank: Result) -> Result:
    """What an earlier call left, or the blank. Raises StoreMismatch when that is something else."""
    blank = Result.model_validate(blank.model_dump(mode="json"))
    if not file.is_file():
        return blank
    kept = Result.load(file)
    found, wanted = kept.identity(), blank.identity()
    if different := differences(found, wanted):
        raise StoreMismatch(
            f"{file} {in_words(found, wanted, different)}. Give another --out, or delete it"
        )
    return kept


def _finished(result: Result, dataset: Dataset) -> bool:
    entry = result.datasets.get(dataset.name)
    return entry is not None and entry.digest == dataset.digest()


def _keep(
    result: Result,
    file: Path,
    dataset: Dataset,
    run: Run,
    prompts: Prompts,
    seconds: float,
    engine: dict[str, Any],
) -> None:
    """Measure a run and write it down, whole or not at all."""
    write_trec(file.with_suffix("") / f"{_slug(dataset.name)}.trec", run, result.run)
    ids = [query.id or "" for query in dataset.queries]
    metrics = {}
    for metric in dataset.metrics:
        found = figure(dataset, run, metric)
        metrics[metric] = Measured(
            interval=tuple(map(float, found.interval(result.seed))),  # type: ignore[arg-type]
            per_query=dict(zip(ids, found.values.tolist(), strict=True)),
        )
    graded = grades(dataset, SPEARMAN) if SPEARMAN in dataset.metrics else None
    entry = DatasetResult(
        digest=dataset.digest(),
        group=dataset.group,
        task=dataset.task,
        note=dataset.note,
        queries=len(dataset.queries),
        documents=len(dataset.documents),
        metrics=metrics,
        grades=None if graded is None else dict(zip(ids, graded.tolist(), strict=True)),
        prompts=prompts,
    )
    timing = {"seconds": round(seconds, 2), "hardware": hardware(), **engine}
    result.add(dataset.name, entry, timing)
    result.save(file)


def hardware() -> dict[str, Any]:
    """Where a time was measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", name)
