"""Results as tables: every metric of every dataset, then means, with the paper's values beside."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.results.file import Result
from freeret.evaluate.results.published import (
    SUITES,
    Measurement,
    configuration,
    counterparts,
    model_label,
    published,
    suite_members,
)
from freeret.evaluate.skipping import Skipped


@dataclass(frozen=True)
class ResultTable:
    """A title, headings, and rows of text."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """The table in Markdown, under its title."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        body = "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)
        return f"**{_escaped(self.title)}**\n\n{body}\n"

    def without_empty_columns(self) -> "ResultTable":
        """The same table without the columns of which every cell is empty."""
        used = [i for i in range(len(self.columns)) if any(row[i] for row in self.rows)]
        rows = [[row[i] for i in used] for row in self.rows]
        return ResultTable(self.title, [self.columns[i] for i in used], rows)


class Sampled(Protocol):
    """The size of a measured dataset: of a `DatasetResult` or an `Ablation`."""

    @property
    def queries(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def drawn_from(self) -> tuple[int, int] | None: ...
    @property
    def skipped(self) -> list[Skipped]: ...


def labels_apart(results: Sequence[tuple[Path, Result]]) -> list[str]:
    """Labels that tell results apart: the run, where runs share a name the model too, and where
    that does not help the path of the file."""
    labels = [result.run for _, result in results]
    for more in (lambda _, result: model_label(result), lambda path, _: str(path)):
        counts = Counter(labels)
        labels = [
            label if counts[label] == 1 else f"{label} ({more(*pair)})"
            for label, pair in zip(labels, results, strict=True)
        ]
    return labels


def name_apart(results: Sequence[tuple[Path, Result]]) -> dict[str, Result]:
    """Results by their labels."""
    loaded = [result for _, result in results]
    return dict(zip(labels_apart(results), loaded, strict=True))


def result_tables(runs: Mapping[str, Result]) -> list[ResultTable]:
    """The tables of some runs: one for each group of datasets, and one of means.

    Args:
        runs: Results by their labels (`name_apart`); each may have its own datasets.

    Returns:
        Tables whose values have 95% intervals; without the table of means where no run has
        several datasets.
    """
    groups = _groups(runs.values())
    tables = [_datasets_table(runs, group, names) for group, names in groups.items()]
    means = _means_table(runs)
    return [*tables, means] if means.rows else tables


def published_table(runs: Mapping[str, Result], ablated: Sequence[Measurement] = ()) -> ResultTable:
    """The paper's values beside the measured ones.

    Returns:
        A row per value of the paper, where a measurement stands beside it only if model, prompt,
        site, geometry and stage 2 are the same; then a row per measurement that stands alone.
    """
    measured = [
        _measurement(suite, label, result, names)
        for label, result in runs.items()
        for suite, names in suite_members(_group_of(result)).items()
    ]
    measured += ablated
    rows = []
    for value in published().values:
        cells = [one.cell for one in measured if one.reproduces(value)]
        beside = "; ".join(cells) or ("not run" if value.configuration else "")
        rows.append([value.suite, value.method, value.model, f"{value.value:.3f}", beside])
    for one in measured:
        if not any(one.reproduces(value) for value in published().values):
            described = "" if one.configuration is None else f": {one.configuration}"
            rows.append([one.suite, f"{one.name}{described}", one.model, "", one.cell])
    columns = ["suite", "method", "model", "Precision@1 in the paper", "measured here"]
    return ResultTable(f"Values of the paper ({published().source})", columns, rows)


def cell(interval: Sequence[float], queries: int = 2) -> str:
    """A value and its 95% interval; of a single query there is none."""
    return ("{:.3f}" if queries < 2 else "{:.3f} [{:.3f}, {:.3f}]").format(*interval)


def remarks(entries: Sequence[Sampled], whole: int | None = None) -> str:
    """What a mean over these datasets lacks: datasets, queries, documents, skipped items."""
    parts = []
    if whole is not None and len(entries) < whole:
        parts.append(f"{len(entries)} of {whole} datasets")
    for side, name in enumerate(("queries", "documents")):
        sizes = [(entry.queries, entry.documents)[side] for entry in entries]
        sources = [
            size if entry.drawn_from is None else entry.drawn_from[side]
            for size, entry in zip(sizes, entries, strict=True)
        ]
        if sum(sizes) < sum(sources):
            parts.append(f"{sum(sizes)} of {sum(sources)} {name}")
    return ", ".join(filter(None, [*parts, _skipped(entries)]))


def _skipped(entries: Sequence[Sampled]) -> str:
    count = sum(len(entry.skipped) for entry in entries)
    return f"{count} skipped" if count else ""


def marked_cell(interval: Sequence[float], entries: Sequence[Sampled], whole: int) -> str:
    """A mean over datasets of a suite, and in brackets what it lacks."""
    lacking = remarks(entries, whole)
    mean = cell(interval, min(entry.queries for entry in entries))
    return f"{mean} ({lacking})" if lacking else mean


def _measurement(suite: str, label: str, result: Result, names: Sequence[str]) -> Measurement:
    entries = [result.datasets[name] for name in names]
    marked = marked_cell(result.mean(names), entries, len(SUITES[suite]))
    return Measurement(suite, label, model_label(result), configuration(result), marked)


def _datasets_table(runs: Mapping[str, Result], group: str, names: Iterable[str]) -> ResultTable:
    entries = [
        (name, label, result, result.datasets[name])
        for name in names
        for label, result in runs.items()
        if name in result.datasets and result.datasets[name].group == group
    ]
    metrics = list(dict.fromkeys(metric for *_, entry in entries for metric in entry.metrics))
    rows = [
        [
            name,
            label,
            str(entry.queries),
            str(entry.documents),
            *(
                cell(entry.metrics[m].interval, entry.queries) if m in entry.metrics else ""
                for m in metrics
            ),
            f"{result.timings.get(name, {}).get('seconds', 0):.1f}",
            "; ".join(filter(None, [entry.note, _skipped([entry])])),
        ]
        for name, label, result, entry in entries
    ]
    headings = [f"{metric} [95% interval]" for metric in metrics]
    columns = ["dataset", "run", "queries", "documents", *headings, "seconds", "remarks"]
    title = group[:1].upper() + group[1:] or "Datasets"
    return ResultTable(title, columns, rows).without_empty_columns()


def _means_table(runs: Mapping[str, Result]) -> ResultTable:
    collections = {
        label: _collections(result) for label, result in runs.items() if len(result.datasets) > 1
    }
    rows = []
    for name in dict.fromkeys(name for found in collections.values() for name in found):
        for label, members in collections.items():
            for metric, names in runs[label].main_metrics(members.get(name, [])).items():
                if len(names) > 1:
                    rows.append(_mean_row(name, label, runs[label], metric, names))
    columns = [
        "mean over", "datasets", "run", "metric", "mean [95% interval]", "remarks", "in the paper",
    ]  # fmt: skip
    return ResultTable("Means", columns, rows).without_empty_columns()


def _mean_row(
    name: str, label: str, result: Result, metric: str, names: Sequence[str]
) -> list[str]:
    entries = [result.datasets[n] for n in names]
    mean = cell(result.mean(names), min(entry.queries for entry in entries))
    lacking = remarks(entries, len(WHOLES[name]) if name in WHOLES else None)
    paper = counterparts(name, names, result)
    return [name, str(len(names)), label, metric, mean, lacking, paper]


INSIDE, OUTSIDE = "MMEB, in-domain", "MMEB, out-of-domain"
WHOLES: dict[str, tuple[str, ...]] = {
    **SUITES,
    INSIDE: tuple(name for name in mmeb.NAMES if name in mmeb.IN_DOMAIN),
    OUTSIDE: tuple(name for name in mmeb.NAMES if name not in mmeb.IN_DOMAIN),
}
"""Collection -> all its datasets, for those whose size is known."""


def _groups(results: Iterable[Result]) -> dict[str, list[str]]:
    """Group -> names of its datasets, both in the order in which they were measured."""
    groups: dict[str, dict[str, None]] = {}
    for result in results:
        for name, entry in result.datasets.items():
            groups.setdefault(entry.group, {})[name] = None
    return {group: list(names) for group, names in groups.items()}


def _group_of(result: Result) -> dict[str, str]:
    return {name: entry.group for name, entry in result.datasets.items()}


def _collections(result: Result) -> dict[str, list[str]]:
    """The datasets that means are taken over: groups of several, the halves of MMEB, and all.

    No two collections are the same.
    """
    collections = {group: names for group, names in _groups([result]).items() if len(names) > 1}
    ours = suite_members(_group_of(result)).get("MMEB", [])
    halves = {half: [name for name in ours if name in WHOLES[half]] for half in (INSIDE, OUTSIDE)}
    if all(halves.values()):
        collections |= halves
    for name, names in (("MMEB", ours), ("all", list(result.datasets))):
        if len(names) > 1 and not any(set(names) == set(known) for known in collections.values()):
            collections[name] = names
    return collections


def _escaped(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
