"""A result file that grows by one dataset at a time, with the ranking of each beside it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import score_run
from freeret.evaluate.rankings import Ranking, Run, read_trec, write_trec
from freeret.evaluate.results.file import DatasetResult, Measured, Result
from freeret.evaluate.skipping import Skipped
from freeret.evaluate.systems.vectors import Prompts
from freeret.store.identity import differences, in_words
from probes.errors import Mismatch


@dataclass
class Kept:
    """A run in progress: its file, and the result so far."""

    file: Path
    result: Result

    @classmethod
    def open(cls, file: Path, blank: Result) -> "Kept":
        """The file of an earlier call, or the blank. Raises Mismatch when the file is that of
        another run."""
        blank = Result.model_validate(blank.model_dump(mode="json"))
        if not file.is_file():
            return cls(file, blank)
        result = Result.load(file)
        made, asked = result.identity(), blank.identity()
        if different := differences(made, asked):
            raise Mismatch(
                f"{file} {in_words(made, asked, different)}. Give another --out, or delete it"
            )
        return cls(file, result)

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
        """Score a ranking, and enter it into the file."""
        write_trec(self.beside(dataset, "trec"), run, self.result.run)
        ids = [query.id or "" for query in dataset.queries]
        scores = {metric: score_run(dataset, run, metric) for metric in dataset.metrics}
        metrics = {
            metric: Measured(
                interval=tuple(map(float, one.interval(self.result.seed))),  # type: ignore[arg-type]
                per_query=dict(zip(ids, one.values.tolist(), strict=True)),
            )
            for metric, one in scores.items()
        }
        grades = next((one.grades for one in scores.values() if one.grades is not None), None)
        entry = DatasetResult(
            digest=dataset.digest(),
            group=dataset.group,
            task=dataset.task,
            note=dataset.note,
            queries=len(dataset.queries),
            documents=len(dataset.documents) + len(dataset.unreadable),
            metrics=metrics,
            drawn_from=dataset.drawn_from,
            grades=None if grades is None else dict(zip(ids, grades.tolist(), strict=True)),
            prompts=prompts,
            skipped=skipped,
        )
        self.result.add(dataset.name, entry, timing)
        self.result.save(self.file)

    def ranking(self, dataset: Dataset) -> Ranking | None:
        """The kept ranking of a dataset; None unless its file has the scores in the result."""
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
    """A name made safe as that of a file."""
    return re.sub(r"[^\w.+-]+", "_", name)
