"""Ablations as tables: each dataset, the means over datasets, and the regret of the recipe."""

from collections.abc import Iterator, Sequence

import numpy as np

from freeret.evaluate.ablation.file import Ablations, regrets
from freeret.evaluate.ablation.measure import Ablation, Row
from freeret.evaluate.configuration import E5V, PAPER, Configuration, from_end
from freeret.evaluate.results.published import SUITES, Measurement, loaded_name, suite_members
from freeret.evaluate.results.tables import ResultTable, cell, marked_cell, remarks
from probes import FRAMES
from probes.stats import Interval

COLUMNS = ["part", "choice"]
DIFFERENCE = "difference from the paper's choice [95%]"


def ablation_tables(ablations: Ablations, label: str = "") -> list[ResultTable]:
    """The tables of an ablation.

    Args:
        label: Stands before every title, where there are several.

    Returns:
        A table per dataset, one of means for each metric of several datasets, and the regrets.
    """
    head = f"{label}, " if label else ""
    datasets = ablations.datasets
    metrics: dict[str, list[str]] = {}
    for name, ablation in datasets.items():
        metrics.setdefault(ablation.metric, []).append(name)
    return [
        *(_dataset_table(f"{head}{name}", ablation) for name, ablation in datasets.items()),
        *(
            _means_table(f"{head}mean of {len(names)} datasets", [datasets[n] for n in names])
            for names in metrics.values()
            if len(names) > 1
        ),
        _regret_table(f"{head}regret of the recipe's choices", ablations),
    ]


def ablated_means(ablations: Ablations, label: str) -> list[Measurement]:
    """The mean of every choice that the paper reports too, over the datasets of its suites."""
    groups = {name: ablation.group for name, ablation in ablations.datasets.items()}
    model = loaded_name(ablations.fingerprint, ablations.loading)
    measurements = []
    for suite, names in suite_members(groups).items():
        entries = [ablations.datasets[name] for name in names]
        for row, interval in _mean_rows(entries):
            configuration = _configuration(row, ablations)
            if configuration is not None:
                mean = marked_cell(interval, entries, len(SUITES[suite]))
                measurements.append(Measurement(suite, label, model, configuration, mean))
    return measurements


def mean_interval_of(intervals: Sequence[Sequence[float]]) -> Interval:
    """The mean of estimates of independent samples: the arms of their intervals add as the squares
    do, low = mean - sqrt(Σ (meanᵢ - lowᵢ)²) / n, and high likewise."""
    means, lows, highs = np.array(intervals).T
    mean, n = float(means.mean()), len(means)
    low = mean - float(np.sqrt(((means - lows) ** 2).sum())) / n
    return Interval(mean, low, mean + float(np.sqrt(((highs - means) ** 2).sum())) / n)


def _mean_rows(ablations: Sequence[Ablation]) -> Iterator[tuple[Row, Interval]]:
    """The rows that all datasets have, with their mean."""
    columns = [{(r.part, r.name, r.depth): r for r in ablation.rows} for ablation in ablations]
    for key, row in columns[0].items():
        if all(key in column for column in columns):
            yield row, mean_interval_of([column[key].interval for column in columns])


def _configuration(row: Row, ablations: Ablations) -> Configuration | None:
    """A row in comparable terms; None for those that repeat another or stand for none."""
    recipe = ablations.recipe
    if (row.part, row.name) == ("choice", "E5-V extraction"):
        return E5V
    if row.part == "site":
        return Configuration(PAPER.prompt, row.name, PAPER.geometry)
    if row.part == "frame" and row.name in FRAMES:
        site = from_end(recipe.site, int(ablations.fingerprint["layers"]))
        return Configuration(recipe.prompt, site, recipe.geometry, row.name, row.depth or 0)
    return None


def _dataset_table(name: str, ablation: Ablation) -> ResultTable:
    rows = [
        [
            row.part,
            row.label,
            cell(row.interval, ablation.queries),
            signed(row.difference, ablation.queries),
            f"{row.p:.4f}",
            "" if row.auc is None else f"{row.auc:.3f}",
            "" if row.accuracy is None else f"{row.accuracy:.3f}",
        ]
        for row in ablation.rows
    ]
    lacking = remarks([ablation])
    size = f"{ablation.queries} queries, {ablation.documents} documents"
    title = f"{name}: {size}{f' ({lacking})' if lacking else ''}"
    columns = [*COLUMNS, f"{ablation.metric} [95%]", DIFFERENCE, "p", "AUC", "accuracy"]
    return ResultTable(title, columns, rows).without_empty_columns()


def _means_table(title: str, ablations: Sequence[Ablation]) -> ResultTable:
    queries, lacking = min(ablation.queries for ablation in ablations), remarks(ablations)
    rows = [
        [row.part, row.label, cell(interval, queries)] for row, interval in _mean_rows(ablations)
    ]
    columns = [*COLUMNS, f"{ablations[0].metric} [95%]"]
    return ResultTable(f"{title}{f' ({lacking})' if lacking else ''}", columns, rows)


def _regret_table(title: str, ablations: Ablations) -> ResultTable:
    rows = [
        [
            r.dataset, r.part, r.chosen, f"{r.value:.3f}", r.best, f"{r.best_value:.3f}",
            r.worst, f"{r.worst_value:.3f}", f"{r.regret:.3f}",
            "" if r.held_out is None else f"{r.held_out:.3f}",
        ]
        for r in regrets(ablations)
    ]  # fmt: skip
    columns = [
        "dataset", "part", "chosen", "its value", "best", "its value", "worst", "its value",
        "regret", "held out",
    ]  # fmt: skip
    return ResultTable(title[:1].upper() + title[1:], columns, rows).without_empty_columns()


def signed(interval: Sequence[float], queries: int = 2) -> str:
    """A difference and its 95% interval; of a single query there is none."""
    return ("{:+.3f}" if queries < 2 else "{:+.3f} [{:+.3f}, {:+.3f}]").format(*interval)
