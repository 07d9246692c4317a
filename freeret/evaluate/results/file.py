"""Result files: one JSON a run, everything in it that a comparison or a doubter needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import SPEARMAN, Run, Scores, difference, mean_of
from freeret.evaluate.skipping import Skipped
from probes.errors import BadFile, StoreMismatch
from probes.files import read_format, write_atomic, write_json, wrong_field
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
    grades: dict[str, float] | None
    """Of each pair, where Spearman is among the metrics."""
    prompts: dict[str, dict[str, list[str]]] = {}
    """Side -> modality signature -> what was tokenised around the content."""
    skipped: list[Skipped] = []
    """What was left out because it is bad; `queries` and `documents` count it too."""

    @property
    def main(self) -> str:
        return next(iter(self.metrics))

    def figure(self, metric: str) -> Scores:
        values = np.array(list(self.metrics[metric].per_query.values()))
        graded = metric == SPEARMAN and self.grades is not None
        return Scores(
            metric, values, np.array(list((self.grades or {}).values())) if graded else None
        )


class Result(_Model):
    """One run: a system, with or without stage 2, over some datasets."""

    format: int = FORMAT
    run: str
    system: dict[str, Any]
    fingerprint: dict[str, Any] | None
    """Of the backbone; None where there is none."""
    loading: dict[str, Any] | None = None
    """How the backbone was loaded; another device or batch size makes no other result."""
    versions: dict[str, str]
    seed: int
    stage2: dict[str, Any] | None
    """Depth, frame and fusion, and the identity of the first stage; None without stage 2."""
    datasets: dict[str, DatasetResult] = {}
    means: dict[str, tuple[float, float, float]] = {}
    """Mean of the datasets' main metrics: of all, and of each group of several."""
    timings: dict[str, dict[str, Any]] = {}
    """Dataset -> seconds and hardware: all that may differ between two runs of the same thing."""

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """Raises BadFile when the file is missing, cut off, or no result of this format."""
        data = read_format(path, FORMAT, "a result", "freeret eval")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise BadFile(
                f"{path} is not a whole result ({wrong_field(error)}); evaluate again"
            ) from None

    def save(self, path: Path) -> Path:
        return write_json(path, self.model_dump(mode="json"))

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on with the other's file."""
        return self.model_dump(mode="json", exclude={"loading", "datasets", "means", "timings"})

    def add(self, name: str, entry: DatasetResult, timing: dict[str, Any]) -> None:
        self.datasets[name] = entry
        self.timings[name] = timing
        members: dict[str, list[str]] = {"all": list(self.datasets)}
        for other, one in self.datasets.items():
            members.setdefault(one.group, []).append(other)
        self.means = {
            group: tuple(self.mean(own))
            for group, own in members.items()
            if group == "all" or len(own) > 1
        }

    def mean(self, names: Sequence[str]) -> Interval:
        """The mean of the main metrics of some datasets, with its 95% interval."""
        entries = [self.datasets[name] for name in names]
        return mean_of([entry.figure(entry.main) for entry in entries], self.seed)


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


def compare(a: Result, b: Result) -> list[Comparison]:
    """Every metric of every dataset that both have, and the mean of the main ones last.

    Raises StoreMismatch when there is no common dataset, or one differs between the two in its
    queries, documents or judgements.
    """
    common = [name for name in a.datasets if name in b.datasets]
    if not common:
        raise StoreMismatch(f"{a.run!r} and {b.run!r} have no dataset in common")
    rows, main = [], []
    for name in common:
        one, other = a.datasets[name], b.datasets[name]
        if one.digest != other.digest or _queries(one) != _queries(other):
            raise StoreMismatch(
                f"{name}: the two runs saw other queries, documents or judgements "
                f"({one.queries} queries over {one.documents} documents, {one.digest}; "
                f"{other.queries} over {other.documents}, {other.digest}); evaluate both again"
            )
        for metric in one.metrics:
            pair = (one.figure(metric), other.figure(metric))
            rows.append(_row(name, metric, [pair], a.seed))
        main.append((one.figure(one.main), other.figure(other.main)))
    return [*rows, _row("mean", "main", main, a.seed)] if len(common) > 1 else rows


def write_trec(path: Path, run: Run, tag: str) -> Path:
    """TREC run lines: query, Q0, document, rank, score, tag. White space in ids becomes `_`."""
    lines = [
        f"{_word(query)} Q0 {_word(id)} {rank} {score!r} {tag}\n"
        for query, scores in run.items()
        for rank, (id, score) in enumerate(scores.items(), start=1)
    ]
    return write_atomic(path, "".join(lines))


def read_trec(path: Path, dataset: Dataset) -> dict[str, dict[str, float]] | None:
    """The run over a dataset that `write_trec` wrote; None when the file is not there, is damaged,
    or does not tell the ids apart."""
    queries = {_word(query.id or ""): query.id or "" for query in dataset.queries}
    documents = {_word(document.id or ""): document.id or "" for document in dataset.documents}
    if len(queries) < len(dataset.queries) or len(documents) < len(dataset.documents):
        return None
    run: dict[str, dict[str, float]] = {id: {} for id in queries.values()}
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            query, _, document, _, score, _ = line.split(" ", 5)
            run[queries[query]][documents[document]] = float(score)
    except (OSError, ValueError, KeyError):
        return None
    return run


def _word(id: str) -> str:
    return "_".join(id.split()) or "_"


def _queries(entry: DatasetResult) -> list[str]:
    return list(entry.metrics[entry.main].per_query)


def _row(name: str, metric: str, pairs: Sequence[tuple[Scores, Scores]], seed: int) -> Comparison:
    gap, p = difference(pairs, seed)
    first, second = (float(np.mean([pair[side].value for pair in pairs])) for side in (0, 1))
    return Comparison(name, metric, first, second, gap, p, sum(len(x.values) for x, _ in pairs))
