"""Evaluate systems on datasets; what is finished is kept, so a killed run goes on.

OUT/recipe.json                 one JSON a run
OUT/recipe/captions.trec        its ranking of each dataset
OUT/recipe/captions.margins     margins of stage 2, query by query, until the dataset is done
OUT/recipe-top10.json           the same after stage 2 over the first 10
"""

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from freeret.evaluate.actors import Actors
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.failures import Failure, Unfinished
from freeret.evaluate.journal import MarginFile
from freeret.evaluate.loaders import Loader
from freeret.evaluate.rankings import Run
from freeret.evaluate.results.file import Result
from freeret.evaluate.results.kept import Kept, slug
from freeret.evaluate.skipping import Skipped, skipped_documents
from freeret.evaluate.stage2 import Judge, judge_run, rerank_run
from freeret.evaluate.systems.vectors import System, VectorSystem
from freeret.reranker import Reranker
from probes.arguments import check_choice
from probes.errors import BadSetting, FreeRetError, Mismatch
from probes.measure.judges.named import judge_prompt

log = logging.getLogger(__name__)
PACKAGES = (
    "torch",
    "transformers",
    "nnsight",
    "numpy",
    "scipy",
    "ir-measures",
    "lancedb",
    "freeret",
)
QUERIES_AN_ACTOR = 8
"""Queries that each actor reranks before their margins are kept."""


def evaluate(
    loaders: Iterable[Loader],
    system: System,
    out: Path,
    *,
    rerank: Sequence[int] = (),
    seed: int = 0,
    on_error: str = "raise",
    progress: bool = False,
    actors: Actors | None = None,
) -> list[Path]:
    """One system over all datasets, each loaded when its turn comes.

    Args:
        system: What is evaluated. One whose recipe has no frame is not reranked, with a warning.
        out: Folder of the result files; those of an earlier call are gone on with.
        on_error: With "skip" a bad query scores 0, a bad document is not in the pool, and a pair
            that cannot be judged stands below those that are; the result lists them. With "raise"
            the first of them ends its dataset.
        actors: Share the work, and leave no trace but in the timings.

    Returns:
        The result files, that of stage 1 first.

    Raises:
        Unfinished: Datasets that cannot be loaded or measured; raised when the others are done.
        Mismatch: A result file in `out` is that of another run.
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    reranker: Judge | None = _reranker(system) if rerank else None
    kept = {}
    for depth in [0, *sorted(set(rerank))] if reranker else [0]:
        blank = _blank(system, depth, seed)
        kept[depth] = Kept.open(out / f"{slug(blank.run)}.json", blank)
    work = _Work(system, reranker, kept, skip=on_error == "skip", progress=progress)
    if actors is not None and isinstance(system, VectorSystem):
        work.system = actors.system(system)
        work.reranker = actors.judge(reranker) if isinstance(reranker, Reranker) else None
        work.engine = {"engine": "ray", "actors": len(actors)}
        work.together = QUERIES_AN_ACTOR * len(actors)
    seen: set[str] = set()
    failures: list[Failure] = []
    for load in loaders:
        dataset = None
        try:
            dataset = load()
            if dataset.name in seen:
                raise BadSetting(f"two datasets are called {dataset.name!r}; evaluate them apart")
            seen.add(dataset.name)
            work.measure(dataset)
        except Mismatch:
            raise
        except (FreeRetError, torch.OutOfMemoryError, MemoryError) as error:
            failures.append(Failure.of(error, dataset.name if dataset else ""))
    files = [one.file for one in kept.values()]
    if failures:
        raise Unfinished(failures, [file for file in files if file.is_file()])
    return files


@dataclass
class _Work:
    """All that is the same from dataset to dataset."""

    system: System
    reranker: Judge | None
    kept: dict[int, Kept]
    """By the depth of stage 2."""
    skip: bool
    progress: bool
    engine: dict[str, Any] = field(default_factory=dict)
    together: int = 1
    """Queries that are reranked before their margins are kept."""

    def measure(self, dataset: Dataset) -> None:
        """Evaluate a dataset at the depths at which it has not been yet."""
        depths = [depth for depth, kept in self.kept.items() if not kept.has(dataset)]
        if not depths:
            return
        first = self.kept[0]
        run = first.ranking(dataset)
        if run is None:
            start = time.perf_counter()
            skipped = skipped_documents(dataset, self.skip)
            run = self.system.run(dataset, progress=self.progress, skipped=skipped)
            prompts = self.system.prompts_for(dataset)
            first.add(dataset, run, prompts, skipped or [], self._timing(_since(start)))
        skipped = list(first.result.datasets[dataset.name].skipped)
        if self.reranker is not None and (deeper := [depth for depth in depths if depth]):
            self._rerank(dataset, run, skipped, deeper)

    def _rerank(
        self, dataset: Dataset, run: Run, skipped: list[Skipped], depths: list[int]
    ) -> None:
        """Add all depths from one judgement of the deepest."""
        assert self.reranker is not None
        prompts = self.system.prompts_for(dataset)
        if not dataset.has_choice:
            for depth in depths:
                self.kept[depth].add(dataset, run, prompts, skipped, self._timing(0.0))
            return
        first = self.kept[0]
        identity = json.dumps([dataset.digest(), first.result.identity()], sort_keys=True)
        file = MarginFile(
            first.beside(dataset, "margins"), hashlib.sha256(identity.encode()).hexdigest()
        )
        earlier, start = file.seconds, time.perf_counter()
        fusion, cascade = None, None
        if self.system.recipe is not None:
            fusion, cascade = self.system.recipe.fusion, self.system.recipe.cascade
        margins = judge_run(
            dataset, run, self.reranker, depths[-1], cascade=cascade, kept=file,
            skipped=skipped if self.skip else None, together=self.together, progress=self.progress,
        )  # fmt: skip
        timing = self._timing(earlier + _since(start))
        if earlier:
            timing["resumed"] = True
        if len(depths) > 1:
            timing["shared_by_depths"] = depths
        prompts = {**prompts, "pair": self._judge_prompt(dataset, run)}
        if cascade is not None:
            timing["queries_judged"] = sum(map(bool, margins.values()))
        for depth in depths:
            reranked = rerank_run(run, margins, depth, fusion)
            self.kept[depth].add(dataset, reranked, prompts, skipped, timing)
        file.remove()

    def _timing(self, seconds: float) -> dict[str, Any]:
        return {"seconds": round(seconds, 2), "hardware": hardware(), **self.engine}

    def _judge_prompt(self, dataset: Dataset, run: Run) -> dict[str, list[str]]:
        """The prompt of stage 2 for the first query and its first candidate, by their
        signatures."""
        system = self.system
        if system.recipe is None or system.recipe.frame is None or system.backbone is None:
            return {}
        documents = {document.id: document for document in dataset.documents}
        for query in dataset.queries:
            for id in run.get(query.id or "", {}):
                prompted = judge_prompt(system.recipe.frame, query, documents[id])
                signatures = f"{query.signature} → {documents[id].signature}"
                return {signatures: [system.backbone.encoder.wording(prompted)]}
        return {}


def _since(start: float) -> float:
    return time.perf_counter() - start


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
            "cascade": system.recipe.cascade,
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


def hardware() -> dict[str, Any]:
    """Where a time was measured."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }
