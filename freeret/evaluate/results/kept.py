"""A result file that grows dataset by dataset, with the ranking of each beside it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import SPEARMAN, Run, grades, score_run
from freeret.evaluate.results.file import DatasetResult, Measured, Result, read_trec, write_trec
from freeret.evaluate.skipping import Skipped
from freeret.evaluate.systems.vectors import Prompts, Ranking
from freeret.store.identity import differences, in_words
from probes.errors import StoreMismatch


@dataclass
class Kept:
    """One run: its file, and what that holds so far."""

    file: Path
    result: Result

    @classmethod
    def open(cls, file: Path, blank: Result) -> "Kept":
        """What an earlier call left, or the blank. Raises StoreMismatch when that is something
        else."""
        blank = Result.model_validate(blank.model_dump(mode="json"))
        if not file.is_file():
            return cls(file, blank)
        kept = Result.load(file)
        found, wanted = kept.identity(), blank.identity()
        if different := differences(found, wanted):
            raise StoreMismatch(
                f"{file} {in_words(found, wanted, different)}. Give another --out, or delete it"
            )
        return cls(file, kept)

    def has(self, dataset: Dataset) -> bool:
        entry = self.result.datasets.get(dataset.name)
        return entry is not None and entry.digest == dataset.digest()

    def beside(self, dataset: Dataset, ending: str) -> Path:
        """A file that belongs to one dataset of this run."""
        return self.file.with_suffix("") / f"{slug(dataset.name)}.{ending}"

    def add(
        self,
        dataset: Dataset,
        run: Run,
        prompts: Prompts,
        skipped: list[Skipped],
        timing: dict[str, Any],
    ) -> None:
        """Measure a ranking and write it down, whole or not at all."""
        write_trec(self.beside(dataset, "trec"), run, self.result.run)
        ids = [query.id or "" for query in dataset.queries]
        metrics = {}
        for metric in dataset.metrics:
            found = score_run(dataset, run, metric)
            metrics[metric] = Measured(
                interval=tuple(map(float, found.interval(self.result.seed))),  # type: ignore[arg-type]
                per_query=dict(zip(ids, found.values.tolist(), strict=True)),
            )
        graded = grades(dataset, SPEARMAN) if SPEARMAN in dataset.metrics else None
        entry = DatasetResult(
            digest=dataset.digest(),
            group=dataset.group,
            task=dataset.task,
            note=dataset.note,
            queries=len(dataset.queries),
            documents=len(dataset.documents) + len(dataset.unreadable),
            metrics=metrics,
            grades=None if graded is None else dict(zip(ids, graded.tolist(), strict=True)),
            prompts=prompts,
            skipped=skipped,
        )
        self.result.add(dataset.name, entry, timing)
        self.result.save(self.file)

    def ranking(self, dataset: Dataset) -> Ranking | None:
        """The ranking of a dataset that was kept; None unless its file has the kept figures."""
        if not self.has(dataset):
            return None
        run = read_trec(self.beside(dataset, "trec"), dataset)
        if run is None:
            return None
        for metric, measured in self.result.datasets[dataset.name].metrics.items():
            values = list(measured.per_query.values())
            if not np.array_equal(score_run(dataset, run, metric).values, values):
                return None
        return run


def slug(name: str) -> str:
    """A name as that of a file."""
    return re.sub(r"[^\w.+-]+", "_", name)
