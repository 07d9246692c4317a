"""Write the folder of a probe report: the report, its page, a summary, the recipe, the figures."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from freeret.pages.report import LISTED, report_page
from freeret.recipe import Recipe
from probes import ProbeReport
from probes.files import write_atomic
from probes.measure.diagnostic.scores import best_first
from probes.measure.parts import PARTS, Format
from probes.plots import save
from probes.plots.figures import KINDS, PART_OF, figure_of
from probes.reports.report import write_parts

FORMATS: tuple[Format, ...] = ("png", "svg")


def write_report(
    report: ProbeReport,
    folder: Path,
    formats: Collection[Format] = FORMATS,
    **looks: Any,
) -> Recipe:
    """Write report.html, report.json, recipe.json, summary.md and the figures.

    Args:
        looks: Width, prompts and panels of the figures; see `probes.plots.figures.figure_of`.

    Returns:
        The recipe that follows from the report.
    """
    recipe = Recipe.from_report(report)
    report.save(folder / "report.json")
    recipe.save(folder / "recipe.json")
    write_atomic(folder / "summary.md", summary(report, recipe))
    write_atomic(folder / "report.html", report_page(report, recipe))
    draw([vars(report)], folder, formats, **looks)
    return recipe


def write_measured(
    report: Mapping[str, Any],
    folder: Path,
    formats: Collection[Format] = FORMATS,
    **looks: Any,
) -> None:
    """Write some parts of a report, each as PART.json, their page report.html, and their figures. A
    recipe needs all parts.

    Args:
        report: Fields of `ProbeReport` by name, as `probes.measure.run.probe_parts` returns them.
    """
    head = {name: value for name, value in report.items() if name not in PARTS}
    for part in PARTS:
        if part in report:
            timings = {name: s for name, s in report["timings"].items() if name == part}
            write_parts(folder / f"{part}.json", {**head, "timings": timings, part: report[part]})
    page = report_page(ProbeReport.of_parts(report), recipe=None)
    write_atomic(folder / "report.html", page)
    draw([report], folder, formats, **looks)


def draw(
    reports: Collection[Mapping[str, Any]],
    folder: Path,
    formats: Collection[Format] = FORMATS,
    **looks: Any,
) -> None:
    """Draw every kind of figure whose part all these reports hold."""
    names = [Path(report["fingerprint"]["model"]).name for report in reports]
    for kind in KINDS:
        part = PART_OF[kind]
        if all(part in report for report in reports):
            results = {n: report[part] for n, report in zip(names, reports, strict=True)}
            options = looks if kind == "curves" else {**looks, "panels": None}
            save(figure_of(kind, results, **options), folder / kind, formats)


def summary(report: ProbeReport, recipe: Recipe) -> str:
    """The recipe's reasons and the main tables, as Markdown."""
    best = best_first(report.diagnostic)[:LISTED]
    lines = [
        f"# {report.fingerprint['model']}",
        "",
        *(f"- {reason}" for reason in recipe.reasons),
        "",
        "| frame | p(positive) without content | accuracy | AUC |",
        "|---|---|---|---|",
        *(f"| {f.frame} | {f.skew:.2f} | {f.accuracy} | {f.auc} |" for f in report.framing),
        "",
        "| prompt | site | geometry | paraphrase P@1 | reciprocal rank | of passages |",
        "|---|---|---|---|---|---|",
        *(
            f"| {s.wording} | {s.site} | {s.geometry} | {s.precision} | {s.reciprocal_rank} "
            f"| {s.passages or ''} |"
            for s in best
        ),
        "",
        "![lexicalization curves](curves.png)",
    ]
    return "\n".join(lines) + "\n"
