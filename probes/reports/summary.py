"""Summaries of a probe report: its key figures, HTML for a notebook, its parts as tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from probes.display import data_frame, picture, table
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.framing import best_frame
from probes.measure.lexicalization import Curves
from probes.measure.parts import PROMPT_KINDS
from probes.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

    from probes.reports.report import ProbeReport


def key_figures(report: "ProbeReport") -> Iterator[tuple[str, str]]:
    """Name and value of each key figure; empty parts are left out."""
    model = report.fingerprint
    about = [str(model[key]) for key in ("model", "architecture", "dtype") if key in model]
    yield "model", f"{', '.join(about)}, {report.num_layers} layers"
    for kind, curves in report.curves.items():
        mlp, norm = curves.alpha_mlp.mean[-1], curves.alpha_norm.mean[0]
        figures = f"α of the last MLP {mlp:.2f}, of the final norm {norm:.2f}"
        yield f"turn of the last two steps, {PROMPT_KINDS[kind]}", f"{curves.turn} ({figures})"
    if report.diagnostic:
        best = select_extraction(report.diagnostic)
        place = f"prompt {best.wording} at {best.site}, geometry {best.geometry}"
        yield "best extraction", f"{place}: reciprocal rank {best.reciprocal_rank}"
    if report.synonyms:
        most = max(report.synonyms, key=lambda s: s.separation.mean)
        yield "largest d′ of synonyms against controls", f"{most.separation} at {most.site}"
    if report.framing:
        frame = best_frame(report.framing)
        chance = "" if frame.discriminates else ", an interval that includes chance"
        yield "best frame", f"{frame.frame}: AUC {frame.auc}{chance}"
    if report.heads.heads:
        judge = report.heads
        chance = "" if judge.discriminates else ", at chance"
        yield (
            "best heads",
            f"{judge.judge}: paraphrase above unrelated text {judge.beats_unrelated}{chance}; "
            f"match above near-miss {judge.beats_near_miss}",
        )
    if report.reranking:
        gain = max(report.reranking, key=lambda f: f.gain.low)
        weight = "stage 2 alone" if gain.weight is None else f"weight {gain.weight:g}"
        yield "gain of reranking", f"{gain.gain} of the reciprocal rank ({gain.frame}, {weight})"
    if report.injection:
        worst = max(report.injection, key=lambda i: i.shift.mean)
        shift = f"{worst.shift} in log-odds"
        yield "largest shift by injection", f"{shift} (frame {worst.frame}, {worst.attack})"


def report_html(report: "ProbeReport") -> str:
    """The key figures and the curves as HTML."""
    from probes.plots import curves_figure

    figures = table(["figure", "value"], key_figures(report))
    return figures + picture(curves_figure(report.curves), "Lexicalization curves")


def part_table(part: Mapping[str, Curves] | Sequence[Any]) -> "DataFrame":
    """A part of a report as a data frame. Raises BadSetting where pandas is not installed."""
    if isinstance(part, Mapping):
        return data_frame(
            {"prompt": kind, **point} for kind, curves in part.items() for point in curves.points()
        )
    return data_frame(dict(_columns(row)) for row in part)


def _columns(row: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of each field of a dataclass, an interval as three."""
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Interval):
            for end, figure in zip(("", "_low", "_high"), value, strict=True):
                yield f"{field.name}{end}", figure
        else:
            yield field.name, value
