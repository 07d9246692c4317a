"""Results as tables: every metric of every dataset, then means, with the paper's values beside."""

from collections.abc import Sequence
from dataclasses import dataclass

from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.results.file import Result
from freeret.evaluate.results.published import counterparts, published


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


def result_tables(results: Sequence[Result]) -> list[ResultTable]:
    """The tables of some runs: one for each group of datasets, and one of means.

    Args:
        results: Runs, of which each may have its own datasets.

    Returns:
        Tables whose values have 95% intervals; without the table of means where no run has
        several datasets.
    """
    tables = [_datasets_table(results, group) for group in _in_order(results)]
    means = _means_table(results)
    return [*tables, means] if means.rows else tables


def published_table(results: Sequence[Result] = ()) -> ResultTable:
    """The paper's values, each beside what was measured with the same kind of system, if it was."""
    rows = []
    for value in published().values:
        measured = [
            f"{cell(result.mean(names))} ({_model(result)})"
            for result in results
            for suite, names in _collections(result).items()
            if suite == value.suite
            and value.cell in counterparts(suite, frozenset(names), *_system(result)).split(", ")
        ]
        said = "; ".join(measured) or ("not run" if value.runs else "")
        rows.append([value.suite, value.method, value.model, f"{value.value:.3f}", said])
    columns = ["suite", "method", "model", "Precision@1 in the paper", "measured here"]
    return ResultTable(f"Values of the paper ({published().source})", columns, rows)


def cell(interval: Sequence[float]) -> str:
    """A value and its 95% interval."""
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def _datasets_table(results: Sequence[Result], group: str) -> ResultTable:
    entries = [
        (name, result, result.datasets[name])
        for name in _in_order(results)[group]
        for result in results
        if name in result.datasets
    ]
    metrics = list(dict.fromkeys(metric for _, _, entry in entries for metric in entry.metrics))
    rows = [
        [
            name,
            result.run,
            str(entry.queries),
            str(entry.documents),
            *(cell(entry.metrics[m].interval) if m in entry.metrics else "" for m in metrics),
            f"{result.timings.get(name, {}).get('seconds', 0):.1f}",
        ]
        for name, result, entry in entries
    ]
    headed = [f"{metric} [95% interval]" for metric in metrics]
    columns = ["dataset", "run", "queries", "documents", *headed, "seconds"]
    return ResultTable(group[:1].upper() + group[1:] or "Datasets", columns, rows)


def _means_table(results: Sequence[Result]) -> ResultTable:
    several = [result for result in results if len(result.datasets) > 1]
    collections = {result.run: _collections(result) for result in several}
    rows = []
    for name in dict.fromkeys(name for found in collections.values() for name in found):
        for result in several:
            members = collections[result.run].get(name)
            if members:
                beside = counterparts(name, frozenset(members), *_system(result))
                mean = cell(result.mean(members))
                rows.append([name, str(len(members)), result.run, mean, beside])
    columns = ["mean over", "datasets", "run", "main metric [95% interval]", "in the paper"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return ResultTable("Means", columns, rows)


def _in_order(results: Sequence[Result]) -> dict[str, list[str]]:
    """Group -> names of its datasets, both in the order in which they were measured."""
    groups: dict[str, dict[str, None]] = {}
    for result in results:
        for name, entry in result.datasets.items():
            groups.setdefault(entry.group, {})[name] = None
    return {group: list(names) for group, names in groups.items()}


def _collections(result: Result) -> dict[str, list[str]]:
    """What means are taken over: groups of several datasets, the halves of MMEB, and all."""
    found = {group: names for group, names in _in_order([result]).items() if len(names) > 1}
    ours = [name for name, entry in result.datasets.items() if entry.group in mmeb.GROUPS]
    inside = [name for name in ours if name in mmeb.IN_DOMAIN]
    outside = [name for name in ours if name in mmeb.NAMES and name not in mmeb.IN_DOMAIN]
    if inside and outside:
        found |= {"MMEB, in-domain": inside, "MMEB, out-of-domain": outside}
    if set(mmeb.NAMES) <= set(ours):
        found["MMEB"] = list(mmeb.NAMES)
    everything = list(result.datasets)
    if not any(set(names) == set(everything) for names in found.values()):
        found["all"] = everything
    return found


def _system(result: Result) -> tuple[str, int]:
    """Name of the system without the depth of stage 2, and that depth."""
    if result.stage2 is None:
        return result.run, 0
    return result.stage2["first_stage"]["run"], result.stage2["depth"]


def _model(result: Result) -> str:
    return str((result.fingerprint or {}).get("model", result.run))


def _escaped(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").split())
