"""Write a probe report where people will look for it: figures, a summary, and the recipe."""

from pathlib import Path

from freeret.pages.report import report_page
from freeret.recipe import Recipe
from probes import ProbeReport, plots
from probes.files import write_atomic


def write_report(report: ProbeReport, folder: Path) -> Recipe:
    """Write report.html, report.json, recipe.json, summary.md and the figures; returns the recipe
    chosen."""
    recipe = Recipe.from_report(report)
    report.save(folder / "report.json")
    recipe.save(folder / "recipe.json")
    write_atomic(folder / "summary.md", summary(report, recipe))
    write_atomic(folder / "report.html", report_page(report, recipe))
    draw(report, folder)
    return recipe


def draw(report: ProbeReport, folder: Path) -> None:
    """Each figure of a report as PNG and SVG."""
    name = Path(report.fingerprint["model"]).name
    panels: dict[str, tuple[plots.Part, ...]] = {
        "curves": ("alpha", "beta"),
        "rank": ("rank", "probability"),
        "norms": ("norms",),
    }
    for file, parts in panels.items():
        plots.save(plots.curves_figure(report.curves, parts, title=name), folder / file)
    figures = {
        "synonyms": (plots.draw_synonyms, report.synonyms),
        "separation": (plots.draw_separation, report.synonyms),
        "framing": (plots.draw_framing, report.framing),
        "diagnostic": (plots.draw_diagnostic, report.diagnostic),
    }
    for name, (draw_one, data) in figures.items():
        plots.save(draw_one(data).figure, folder / name)


def summary(report: ProbeReport, recipe: Recipe) -> str:
    """What a person should read first, as Markdown."""
    best = sorted(report.diagnostic, key=lambda s: -s.reciprocal_rank.mean)[:8]
    lines = [
        f"# {report.fingerprint['model']}",
        "",
        *(f"- {reason}" for reason in recipe.reasons),
        "",
        "| frame | p(positive) without content | accuracy | AUC |",
        "|---|---|---|---|",
        *(f"| {f.frame} | {f.skew:.2f} | {f.accuracy} | {f.auc} |" for f in report.framing),
        "",
        "| prompt | site | geometry | paraphrase P@1 | reciprocal rank |",
        "|---|---|---|---|---|",
        *(
            f"| {s.prompt} | {s.site} | {s.geometry} | {s.precision} | {s.reciprocal_rank} |"
            for s in best
        ),
        "",
        "![lexicalization curves](curves.png)",
    ]
    return "\n".join(lines) + "\n"
