"""Summaries of a probe report: its key figures in words, HTML for a notebook, data frames."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from probes.display import Results, data_frame, picture, table
from probes.measure.diagnostic.hybrid import gain_of_words
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.framing import best_frame
from probes.measure.lexicalization import Curves
from probes.measure.parts import PROMPT_KINDS, PartName
from probes.measure.reranking import surest_gain
from probes.measure.synonyms import best_site
from probes.stats import Interval

if TYPE_CHECKING:
    from pandas import DataFrame

    from probes.reports.report import ProbeReport


def _turn(kind: str) -> Callable[["ProbeReport"], str]:
    def write(report: "ProbeReport") -> str:
        curves = report.curves[kind]
        mlp, norm = curves.alpha_mlp.mean[-1], curves.alpha_norm.mean[0]
        return f"{curves.turn} (α of the last MLP {mlp:.2f}, of the final norm {norm:.2f})"

    return write


def _extraction(report: "ProbeReport") -> str:
    best = select_extraction(report.diagnostic)
    place = f"prompt {best.wording} at {best.site}, geometry {best.geometry}"
    return f"{place}: reciprocal rank {best.reciprocal_rank}"


def _separation(report: "ProbeReport") -> str:
    best = best_site(report.synonyms)
    return f"{best.separation} at {best.site}"


def _frame(report: "ProbeReport") -> str:
    best = best_frame(report.framing)
    chance = "" if best.discriminates else ", an interval that includes chance"
    return f"{best.frame}: AUC {best.auc}{chance}; p(match) without content {best.skew:.2f}"


def _heads(report: "ProbeReport") -> str:
    judge = report.heads
    chance = "" if judge.discriminates else ", at chance"
    return (
        f"{judge.judge}: paraphrase above unrelated text {judge.beats_unrelated}{chance}; "
        f"match above near-miss {judge.beats_near_miss}"
    )


def _words(report: "ProbeReport") -> str:
    weight, gain = gain_of_words(report.hybrid)
    return f"{gain} of the reciprocal rank (weight {weight:g}){_noise(gain)}"


def _reranking(report: "ProbeReport") -> str:
    judge, weight, gain = surest_gain(report.reranking)
    return f"{gain} of the reciprocal rank ({judge}, weight {weight:g}){_noise(gain)}"


def _injection(report: "ProbeReport") -> str:
    worst = max(report.injection, key=lambda i: i.shift.mean)
    return f"{worst.shift} in log-odds (frame {worst.frame}, {worst.attack})"


def _noise(gain: Interval) -> str:
    return "" if gain.low > 0 else ", within noise"


FIGURES: dict[str, tuple[PartName, Callable[["ProbeReport"], str]]] = {
    **{
        f"turn of the last two steps, {title}": ("curves", _turn(kind))
        for kind, title in PROMPT_KINDS.items()
    },
    "best extraction": ("diagnostic", _extraction),
    "largest d′ of synonyms against controls": ("synonyms", _separation),
    "best frame": ("framing", _frame),
    "best heads": ("heads", _heads),
    "gain of words": ("hybrid", _words),
    "gain of reranking": ("reranking", _reranking),
    "largest shift by injection": ("injection", _injection),
}
"""Name of each key figure -> the part of the report that holds it, and its value in words."""


def holds(report: "ProbeReport", part: PartName) -> bool:
    """Whether a part is not empty."""
    return bool(report.heads.heads if part == "heads" else getattr(report, part))


def key_figures(report: "ProbeReport") -> Iterator[tuple[str, str]]:
    """Name and value of each key figure; empty parts are left out."""
    yield "model", about(report)
    for name, (part, write) in FIGURES.items():
        if holds(report, part):
            yield name, write(report)


def about(report: "ProbeReport") -> str:
    """The backbone in a phrase."""
    model = report.fingerprint
    known = [str(model[key]) for key in ("model", "architecture", "dtype") if model.get(key)]
    return ", ".join([*known, *([f"{model['layers']} layers"] if "layers" in model else [])])


def report_html(report: "ProbeReport") -> str:
    """The key figures and the curves as HTML."""
    from probes.plots import curves_figure

    figures = table(["figure", "value"], key_figures(report))
    if not report.curves:
        return figures
    return figures + picture(curves_figure(report.curves), "Lexicalization curves")


def part_table(part: Mapping[str, Curves] | Sequence[Any]) -> "DataFrame":
    """A part of a report as a data frame. Raises BadSetting where pandas is not installed."""
    if isinstance(part, Mapping):
        return data_frame(
            {"prompt": kind, **point} for kind, curves in part.items() for point in curves.points()
        )
    return Results(part).to_dataframe()
