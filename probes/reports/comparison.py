"""Compare backbones, or the checkpoints of one, by their probe reports.

    compare(["smollm2-135m", "gemma3-270m", "out/probe"])

A part that a report does not hold is a gap with its reason.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.display import data_frame, interval_columns, picture, table
from probes.errors import BadSetting
from probes.measure.diagnostic.hybrid import gain_of_words
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.framing import best_frame
from probes.measure.parts import PartName
from probes.measure.reranking import surest_gain
from probes.measure.synonyms import best_site
from probes.reports.named import report_file, titles
from probes.reports.report import ProbeReport, read_available
from probes.reports.summary import FIGURES, about, holds

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Compared:
    """A report in a comparison."""

    name: str
    report: ProbeReport
    gaps: Mapping[PartName, str]
    """The parts that it does not hold, each with the reason."""

    @property
    def model(self) -> str:
        return self.report.fingerprint["model"]

    @property
    def revision(self) -> str | None:
        return self.report.fingerprint.get("revision")

    def holds(self, part: PartName) -> bool:
        """Whether a part is not empty."""
        return holds(self.report, part)

    def reason(self, part: PartName) -> str:
        """Why a part is empty: "none" where it was measured, and nothing was found."""
        return self.gaps.get(part, "none")

    def figures(self) -> dict[str, Any]:
        """The key figures as numbers, by the columns of `Comparison.to_dataframe`."""
        report, model = self.report, self.report.fingerprint
        row = {key: model.get(key) for key in ("model", "revision", "layers", "dtype")}
        for kind, curves in report.curves.items():
            row |= {
                f"turn_{kind}": curves.turn,
                f"alpha_mlp_{kind}": float(curves.alpha_mlp.mean[-1]),
                f"alpha_norm_{kind}": float(curves.alpha_norm.mean[0]),
                f"beta_mlp_{kind}": float(curves.beta_mlp.mean[-1]),
                f"beta_norm_{kind}": float(curves.beta_norm.mean[0]),
            }
        if self.holds("synonyms"):
            most = best_site(report.synonyms)
            row |= {"d_prime_site": most.site, **interval_columns("d_prime", most.separation)}
        if self.holds("framing"):
            frame = best_frame(report.framing)
            row |= {"frame": frame.frame, "skew": frame.skew, **interval_columns("auc", frame.auc)}
            row["discriminates"] = frame.discriminates
        if self.holds("diagnostic"):
            best = select_extraction(report.diagnostic)
            row |= {"prompt": best.wording, "site": best.site, "geometry": best.geometry}
            row |= interval_columns("reciprocal_rank", best.reciprocal_rank)
        if self.holds("hybrid"):
            weight, gain = gain_of_words(report.hybrid)
            row |= {"lexical_weight": weight, **interval_columns("gain_of_words", gain)}
        if self.holds("reranking"):
            judge, fusion, gain = surest_gain(report.reranking)
            row |= {"judge": judge, "fusion": fusion, **interval_columns("gain_of_reranking", gain)}
        seconds = sum(report.timings.values()) if report.timings else None
        gaps = "; ".join(f"{part}: {reason}" for part, reason in self.gaps.items())
        return {"report": self.name, **row, "seconds": seconds, "gaps": gaps}


@dataclass(frozen=True)
class Comparison:
    """Several probe reports side by side."""

    reports: tuple[Compared, ...]

    @property
    def series(self) -> list[list[int]]:
        """Places of the reports of each backbone that has several: its checkpoints, in order."""
        models = dict.fromkeys(each.model for each in self.reports)
        places = [[i for i, r in enumerate(self.reports) if r.model == model] for model in models]
        return [series for series in places if len(series) > 1]

    def columns(self) -> list[str]:
        """The head of the table: a column for each report."""
        return ["figure", *(each.name for each in self.reports)]

    def rows(self) -> list[list[str]]:
        """Each key figure in words for every report, or the reason why it is missing."""
        rows = [["backbone", *(about(each.report) for each in self.reports)]]
        for name, (part, write) in FIGURES.items():
            rows.append([name, *(_written(each, part, write) for each in self.reports)])
        minutes = (sum(each.report.timings.values()) / 60 for each in self.reports)
        rows.append(["minutes of probing", *(f"{value:.1f}" if value else "" for value in minutes)])
        return rows

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each report and a column for each key figure.

        Returns:
            A data frame in which an interval NAME has the columns NAME, NAME_low and NAME_high.

        Raises:
            BadSetting: pandas is not installed.
        """
        return data_frame(each.figures() for each in self.reports)

    def plot(self) -> "Figure":
        """All panels of the comparison in one figure; see `probes.plots.comparison_figure`."""
        from probes.plots import comparison_figure

        return comparison_figure(self)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(each.name for each in self.reports)})"

    def __str__(self) -> str:
        """The table, a paragraph for each figure."""
        names = [each.name for each in self.reports]
        return "\n".join(
            "\n".join([name, *(f"  {n}: {cell}" for n, cell in zip(names, cells, strict=True))])
            for name, *cells in self.rows()
        )

    def _repr_html_(self) -> str:
        return table(self.columns(), self.rows()) + picture(self.plot(), repr(self))


def compare(reports: Sequence[ProbeReport | str | Path]) -> Comparison:
    """Compare backbones by their probe reports.

    Args:
        reports: Reports, files or folders that `freeret probe` wrote, or aliases of embedded
            backbones, whose reports are shipped. Reports of one backbone in several revisions are
            a series of checkpoints: they stand together, in the order of the numbers in the names
            of the revisions, or in the order given where a revision has no number.

    Returns:
        The comparison. It shows itself as a table and a figure in a notebook.

    Raises:
        BadSetting: There is no report.
        BadFile: A file is missing or cut off, or holds no report.
    """
    if isinstance(reports, ProbeReport | str | Path):
        reports = [reports]
    if not reports:
        raise BadSetting("name at least one report to compare")
    files = [None if isinstance(r, ProbeReport) else report_file(r) for r in reports]
    held = [
        (given, _gaps(given)) if isinstance(given, ProbeReport) else read_available(file or given)
        for given, file in zip(reports, files, strict=True)
    ]
    names = titles([report.fingerprint for report, _ in held], files)
    compared = [Compared(n, r, gaps) for n, (r, gaps) in zip(names, held, strict=True)]
    models = list(dict.fromkeys(each.model for each in compared))
    by_model = [[each for each in compared if each.model == model] for model in models]
    return Comparison(tuple(each for group in by_model for each in _in_order(group)))


def _in_order(checkpoints: list[Compared]) -> list[Compared]:
    """Checkpoints of one backbone by the numbers in their revisions, where all have one."""
    steps = [_steps(each.revision or "") for each in checkpoints]
    if not all(steps):
        return checkpoints
    return [checkpoints[i] for i in sorted(range(len(steps)), key=steps.__getitem__)]


def _steps(revision: str) -> list[int]:
    """The numbers in the name of a revision; a commit is none."""
    return [] if COMMIT.fullmatch(revision) else [int(n) for n in re.findall(r"\d+", revision)]


def _gaps(report: ProbeReport) -> dict[PartName, str]:
    return {part: "not measured" for part, _ in FIGURES.values() if not holds(report, part)}


def _written(each: Compared, part: PartName, write: Any) -> str:
    """A key figure in words, or the reason why it is missing."""
    return write(each.report) if each.holds(part) else each.reason(part)
