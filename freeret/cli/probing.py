"""The commands that look at a backbone: `freeret probe`, `plot`, `check` and `demo`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import App, Parameter
from cyclopts.validators import Number

from freeret import preflight
from freeret.cli.options import AS_USUAL, Model, Settings
from freeret.cli.output import complain, print_lines, print_table, say
from probes.arguments import check_choice
from probes.errors import BadSetting, FreeRetError
from probes.files import read_json
from probes.measure.parts import PARTS, FigureKind, Format, PartName, part_names
from probes.model.loading import Loading

Width = Annotated[
    float | None,
    Parameter(
        validator=Number(gte=2, lte=30),
        help="Width of the figures in inches, with letters as small as in print, such as 3.3 for a "
        "column of a paper. By default they take the room that they need.",
    ),
]


def register(app: App) -> None:
    """Put the commands of this file on the app."""
    app.command(probe)
    app.command(plot)
    app.command(check)
    app.command(demo)


def probe(
    *models: Model,
    only: str | None = None,
    out: Path = Path("out/probe"),
    format: tuple[Format, ...] = ("png", "svg"),
    width: Width = None,
    seed: int = 0,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure where a backbone lexicalizes and how its labels are biased.

    The report is also kept in the cache, where every other command finds it. A run that is
    interrupted keeps the parts that it has finished; run the same command again. Of several models
    each has a folder of its own in --out, which also holds figures that compare them; a model that
    fails does not stop the others.

    Args:
        only: Measure some parts only, such as curves,synonyms: framing, diagnostic, reranking
            (which needs these two), curves, synonyms, injection. There is then no recipe.
        out: Folder for report.json, recipe.json, summary.md and the figures.
        format: Format of the figures: png, svg or pdf. May be given several times.
        seed: Seed of the bootstrap intervals.
    """
    if not models:
        raise BadSetting("name at least one model to probe")
    parts = PARTS if only is None else part_names(only)
    folders = _folders(models, out)
    for folder in folders.values():
        preflight.check_writable(folder)
    from freeret.pages.probe_folder import draw

    reports, failed = [], []
    for model, folder in folders.items():
        try:
            reports.append(_probe(model, parts, folder, format, width, seed, loading))
        except (FreeRetError, OSError) as error:
            if len(models) == 1:
                raise
            complain(f"{model}: {error}")
            failed.append(model)
    if len(models) > 1 and reports:
        draw(reports, out, format, width)
        say(f"Figures that compare {len(reports)} models are in {out}")
    if failed:
        raise BadSetting(f"not probed: {', '.join(failed)}; the reasons stand above")


def _probe(
    model: str,
    parts: Sequence[PartName],
    folder: Path,
    formats: Sequence[Format],
    width: float | None,
    seed: int,
    loading: Loading,
) -> dict[str, Any]:
    """Probe one model and write its folder; gives the fields of its report."""
    from freeret.pages.probe_folder import write_measured, write_report
    from freeret.reports import measure_and_keep, probe_and_keep
    from probes import Backbone

    backbone = Backbone.load(model, loading)
    if len(parts) == len(PARTS):
        report = probe_and_keep(backbone, seed=seed)
        _print_recipe(write_report(report, folder, formats, width).reasons)
        say(f"Report, recipe, summary and figures are in {folder}")
        return vars(report)
    measured = measure_and_keep(backbone, parts, seed=seed)
    write_measured(measured, folder, formats, width)
    say(f"{', '.join(parts).capitalize()}: figures and numbers are in {folder}")
    return measured


def _folders(models: Sequence[str], out: Path) -> dict[str, Path]:
    """Where the report of each model goes: one has `out` to itself."""
    if len(models) == 1:
        return {models[0]: out}
    folders = {model: out / (Path(model).name or "model") for model in models}
    if len(set(folders.values())) < len(models):
        raise BadSetting(
            "two of the models have the same name, and so the same folder; probe them one by one, "
            "each with its --out"
        )
    return folders


def plot(
    *reports: Path,
    kind: FigureKind = "curves",
    out: Path = Path("out/figure.pdf"),
    width: Width = None,
) -> None:
    """Draw a figure from saved reports, without their models.

    Several reports are drawn side by side, or below each other where the figure is narrow.

    Args:
        reports: Files that `freeret probe` wrote: report.json, or single parts such as curves.json.
        kind: The kind of figure to draw.
        out: The figure; its ending says the format: .pdf, .png or .svg.
    """
    if not reports:
        raise BadSetting("name at least one report to draw")
    formats = {f".{name}": name for name in get_args(Format)}
    check_choice("the ending of --out", out.suffix, formats)
    for report in reports:
        read_json(report)
    preflight.check_writable(out.parent)
    from probes.measure.report import read_parts
    from probes.plots import save
    from probes.plots.figures import PART_OF, figure_of

    part = PART_OF[kind]
    read = {report: read_parts(report, [part]) for report in reports}
    names = {report: Path(each["fingerprint"]["model"]).name for report, each in read.items()}
    if len(set(names.values())) < len(names):  # the same model twice: say which file it is
        names = {report: str(report.with_suffix("")) for report in reports}
    figure = figure_of(kind, {names[report]: each[part] for report, each in read.items()}, width)
    [path] = save(figure, out.with_suffix(""), [formats[out.suffix]])
    say(f"The figure is in {path}")


def check(model: Model, /, *, loading: Settings = AS_USUAL, json: bool = False) -> None:
    """Check a new backbone before deploying it: anatomy, text, batches, labels and media.

    The exit code is 1 when a line has FAILED; a note is a limitation that makes nothing wrong.

    Args:
        json: Print the lines as one JSON list.
    """
    from freeret.check import check as run_checks
    from freeret.cli.output import json_line
    from probes import Backbone

    checks = run_checks(Backbone.load(model, loading))
    if json:
        print_lines(iter([json_line([c.as_dict() for c in checks])]))
    else:
        print_table(
            f"Check of {model}",
            ["check", "found", "result"],
            [[c.what, c.found, c.status] for c in checks],
        )
    if not all(c.passed for c in checks):
        sys.exit(1)


def demo(
    *, model: Model = "smolsight", out: Path = Path("out/demo"), loading: Settings = AS_USUAL
) -> None:
    """Search built-in passages, pictures and clips, and write a page that shows and explains it.

    The first result comes within seconds; a demo that is interrupted goes on where it stopped. A
    backbone whose weights have no probe report yet is probed first.

    Args:
        out: Folder for everything that is written; open its index.html.
    """
    preflight.check_writable(out)
    say(f"Loading {model}")
    from freeret.demo.run import Demo
    from freeret.reports import report_of
    from probes import Backbone

    backbone = Backbone.load(model, loading)
    page = Demo(backbone, report_of(backbone), out).run()
    say(f'\nOpen {page} in a browser, or search again: freeret search {out / "store"} "a question"')


def _print_recipe(reasons: Sequence[str]) -> None:
    for reason in reasons:
        say(f"• {reason}")
