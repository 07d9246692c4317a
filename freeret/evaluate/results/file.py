"""Result files: one JSON per run, with everything that a comparison needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from freeret.evaluate.metrics import Scores, difference, mean_of, parse_metric
from freeret.evaluate.skipping import Skipped
from probes.display import Results, Tabular
from probes.errors import Mismatch
from probes.files import read_validated, write_json
from probes.stats import Interval

FORMAT = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Measured(_Model):
    """One metric on one dataset."""

    interval: tuple[float, float, float]
    """Mean (or correlation) and its 95% bootstrap interval over queries."""
    per_query: dict[str, float]


class DatasetResult(_Model):
    """One system on one dataset."""

    digest: str
    group: str
    task: str
    note: str
    queries: int
    documents: int
    metrics: dict[str, Measured]
    """The first one stands for the dataset."""
    drawn_from: tuple[int, int] | None = None
    """Numbers of queries and documents of the dataset of which only some were drawn."""
    grades: dict[str, float] | None
    """Grade of each pair, where Spearman is among the metrics."""
    prompts: dict[str, dict[str, list[str]]] = {}
    """Side (of stage 2: `pair`) -> modality signature -> the prompts as they are tokenised, with
    `{text}` or `{image}` for content."""
    skipped: list[Skipped] = []
    """Items and pairs that were left out because they are bad; `queries` and `documents` count
    them too."""

    @property
    def main(self) -> str:
        """The name of the metric that stands for the dataset."""
        return next(iter(self.metrics))

    def scores(self, metric: str) -> Scores:
        """The values of one of the metrics, by its name."""
        grades = None if self.grades is None else np.array(list(self.grades.values()))
        values = np.array(list(self.metrics[metric].per_query.values()))
        return Scores(parse_metric(metric), values, grades)


@dataclass(frozen=True)
class Value:
    """One metric of a run on one dataset: a row of its table."""

    dataset: str
    metric: str
    value: Interval
    queries: int
    documents: int


class Result(Tabular, _Model):
    """One run: a system, with or without stage 2, over some datasets. Its table has a row for each
    dataset and metric."""

    format: int = FORMAT
    run: str
    system: dict[str, Any]
    fingerprint: dict[str, Any] | None
    """Of the backbone; None for a system without one."""
    loading: dict[str, Any] | None = None
    """How the backbone was loaded. Not part of the identity: the device and the batch size do not
    change a result."""
    versions: dict[str, str]
    seed: int
    stage2: dict[str, Any] | None
    """Depth, frame and fusion, and the identity of the first stage; None without stage 2."""
    datasets: dict[str, DatasetResult] = {}
    means: dict[str, tuple[float, float, float]] = {}
    """Means of the main metric over all datasets, and over each group of several; none where their
    main metrics differ."""
    timings: dict[str, dict[str, Any]] = {}
    """Dataset -> seconds and hardware: the only part that differs between two equal runs. The
    seconds of a reranking cover the judgement of the deepest depth of the call, which all depths
    share; of an interrupted one they include the earlier calls."""

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Raises BadFile when the file is missing, cut off, or no result of this format."""
        return read_validated(
            path, FORMAT, "a result", "freeret eval", cls.model_validate, "evaluate again"
        )

    def save(self, path: Path) -> Path:
        return write_json(path, self.model_dump(mode="json"))

    def __repr__(self) -> str:
        return f"Result({self.run!r}, {len(self.datasets)} datasets)"

    def _table(self) -> Results[Value]:
        return Results(
            Value(name, metric, Interval(*measured.interval), entry.queries, entry.documents)
            for name, entry in self.datasets.items()
            for metric, measured in entry.metrics.items()
        )

    def identity(self) -> dict[str, Any]:
        """Everything that must be equal for a run to resume from this file."""
        left_out = {"loading", "datasets", "means", "timings"}
        identity = self.model_dump(mode="json", exclude=left_out)
        first_stage = (identity["stage2"] or {}).get("first_stage", {})
        for system in (identity["system"], first_stage):
            (system.get("recipe") or {}).pop("why_not_reranked", None)  # explains, decides nothing
        return identity

    def add(self, name: str, entry: DatasetResult, timing: dict[str, Any]) -> None:
        """Enter a dataset, and renew the means."""
        self.datasets[name] = entry
        self.timings[name] = timing
        members: dict[str, list[str]] = {"all": list(self.datasets)}
        for other, one in self.datasets.items():
            members.setdefault(one.group, []).append(other)
        self.means = {
            group: tuple(self.mean(names))
            for group, names in members.items()
            if (group == "all" or len(names) > 1) and len(self.main_metrics(names)) == 1
        }

    def main_metrics(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Main metric -> the datasets among `names` that it stands for."""
        metrics: dict[str, list[str]] = {}
        for name in names:
            metrics.setdefault(self.datasets[name].main, []).append(name)
        return metrics

    def mean(self, names: Sequence[str]) -> Interval:
        """The mean of the main metric over some datasets, with its 95% interval."""
        entries = [self.datasets[name] for name in names]
        return mean_of([entry.scores(entry.main) for entry in entries], self.seed)


@dataclass(frozen=True)
class Comparison:
    """One metric of two runs on the same queries."""

    dataset: str
    metric: str
    a: float
    b: float
    difference: Interval
    p: float
    queries: int


def compare(a: Result, b: Result) -> Results[Comparison]:
    """Compare two runs query by query, a minus b.

    Returns:
        Every metric of every dataset that both have; then, for each main metric of several
        datasets, the mean over them.

    Raises:
        Mismatch: There is no common dataset, or one differs between the two in its queries,
            documents or judgements.
    """
    common = [name for name in a.datasets if name in b.datasets]
    if not common:
        raise Mismatch(f"{a.run!r} and {b.run!r} have no dataset in common")
    rows: Results[Comparison] = Results()
    for name in common:
        one, other = a.datasets[name], b.datasets[name]
        if one.digest != other.digest or _queries(one) != _queries(other):
            raise Mismatch(
                f"{name}: the two runs saw other queries, documents or judgements "
                f"({one.queries} queries over {one.documents} documents, {one.digest}; "
                f"{other.queries} over {other.documents}, {other.digest}); evaluate both again"
            )
        for metric in one.metrics:
            rows.append(_row(name, metric, [(one.scores(metric), other.scores(metric))], a.seed))
    for metric, names in a.main_metrics(common).items():
        if len(names) > 1:
            pairs = [(a.datasets[n].scores(metric), b.datasets[n].scores(metric)) for n in names]
            rows.append(_row("mean", metric, pairs, a.seed))
    return rows


def _queries(entry: DatasetResult) -> list[str]:
    return list(entry.metrics[entry.main].per_query)


def _row(name: str, metric: str, pairs: Sequence[tuple[Scores, Scores]], seed: int) -> Comparison:
    gap, p = difference(pairs, seed)
    first, second = (float(np.mean([pair[side].value for pair in pairs])) for side in (0, 1))
    return Comparison(name, metric, first, second, gap, p, sum(len(x.values) for x, _ in pairs))
