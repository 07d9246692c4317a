"""The commands that look at a backbone: `freeret probe`, `plot`, `compare-reports`, `check` and
`lens`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

from cyclopts import Parameter
from cyclopts.validators import Number

from freeret import preflight
from freeret.cli.options import AS_USUAL, Model, Positive, Settings
from freeret.cli.output import (
    complain,
    json_line,
    lens_facts,
    note,
    print_lines,
    print_table,
    resumable,
    say,
)
from probes.arguments import check_choice
from probes.embedded import DEFAULT
from probes.errors import BadSetting, FreeRetError
from probes.files import read_json, write_atomic
from probes.measure.parts import (
    PANELS,
    PARTS,
    PROMPT_KINDS,
    FigureKind,
    Format,
    PartName,
    listed,
    part_names,
)
from probes.model.loading import Loading
from probes.model.locate import check_model
from probes.model.sites import Site
from probes.prompts import as_prompt


def _inches(_: Any, tokens: Sequence[Any]) -> float:
    """A width as it is typed, with or without its unit."""
    typed = tokens[0].value
    try:
        return float(typed.strip().removesuffix("in"))
    except ValueError:
        raise BadSetting(f"--width takes a number of inches, such as 3.3, not {typed!r}") from None


Width = Annotated[
    float | None,
    Parameter(
        converter=_inches,
        validator=Number(gte=2, lte=30),
        help="Width of the figures in inches, with letters as small as in print, such as 3.3 for a "
        "column of a paper. By default the width follows from the number of panels.",
    ),
]
ACROSS = 8
"""Positions of a lens table that find room side by side."""
MEASURED = "the parts that were finished are kept"
"""What an interrupted probe leaves."""
Prompts = Annotated[
    str | None,
    Parameter(
        help="Kinds of prompt whose curves are drawn, such as word,text: word, control, text. By "
        "default all of them."
    ),
]
Panels = Annotated[
    str | None,
    Parameter(
        help="Quantities that a figure of curves shows, such as alpha,beta: alpha, beta, rank, "
        "probability, norms. By default those of its kind; at the width of a column, alpha alone."
    ),
]


def probe(
    *models: Model,
    only: str | None = None,
    again: bool = False,
    out: Path = Path("out/probe"),
    format: tuple[Format, ...] = ("png", "svg"),
    width: Width = None,
    prompts: Prompts = None,
    panels: Panels = None,
    seed: int = 0,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure where a backbone lexicalizes, how it judges pairs, and which extraction retrieves.

    A report is kept in the cache, where every command finds it. If the weights already have a
    report, the figures are redrawn from it. An interrupted run keeps the parts that were finished;
    run the same command again to resume. Of several models each gets a folder in --out, which also
    holds figures and a page, comparison.html, that compare them; a model that fails does not stop
    the others.

    Args:
        only: Only these parts, such as curves,synonyms: framing, curves, diagnostic, hybrid (which
            needs diagnostic), reranking (which needs framing and diagnostic), synonyms, injection.
            There is then no recipe.
        again: Measure even if these weights have a report already.
        out: Folder for report.html (one file with everything), report.json, recipe.json,
            summary.md and the figures.
        format: Format of the figures: png, svg or pdf. May be given several times.
        seed: Seed of the bootstrap intervals.
    """
    if not models:
        raise BadSetting("name at least one model to probe")
    parts = PARTS if only is None else part_names(only)
    looks = {"width": width, **_panels(prompts, panels)}
    folders = _folders(models, out)
    for model, folder in folders.items():
        preflight.check_writable(folder)
        if len(models) == 1:
            check_model(model, loading)
    from freeret.pages.comparison import comparison_page
    from freeret.pages.probe_folder import draw
    from probes import ProbeReport, compare

    reports, failed = [], []
    for model, folder in folders.items():
        try:
            report = _report(model, parts, again, seed, loading)
            _write(report, parts, folder, format, looks)
            reports.append(report)
        except (FreeRetError, OSError) as error:
            if len(models) == 1:
                raise
            complain(f"{model}: {error}")
            failed.append(model)
    if len(reports) > 1:
        draw(reports, out, format, **looks)
        comparison = compare([ProbeReport.of_parts(report) for report in reports])
        write_atomic(out / "comparison.html", comparison_page(comparison))
        say(f"The {len(reports)} models are compared in {out / 'comparison.html'}")
    if failed:
        raise BadSetting(f"not probed: {', '.join(failed)}; see the errors above")


def _report(
    model: str, parts: Sequence[PartName], again: bool, seed: int, loading: Loading
) -> dict[str, Any]:
    """Fields of `ProbeReport`, with all these parts: from a report of the same weights and seed
    unless they are to be measured again."""
    from freeret.reports import known_report, measure_and_keep, probe_and_keep
    from probes import Backbone

    backbone = Backbone.load(model, loading)
    report = None if again else known_report(backbone)
    if report is not None and report.seed == seed:
        dtype = report.fingerprint.get("dtype", "")
        say(f"{model}: using the saved probe report ({dtype}); --again re-measures")
        return vars(report)
    with resumable(lambda: MEASURED):
        if len(parts) == len(PARTS):
            return vars(probe_and_keep(backbone, seed=seed))
        return measure_and_keep(backbone, parts, seed=seed)


def _write(
    report: dict[str, Any],
    parts: Sequence[PartName],
    folder: Path,
    formats: Sequence[Format],
    looks: dict[str, Any],
) -> None:
    """Write the folder of one model: the whole report with its recipe, or some of its parts."""
    from freeret.pages.probe_folder import write_measured, write_report
    from probes import ProbeReport

    if len(parts) == len(PARTS):
        recipe = write_report(ProbeReport(**report), folder, formats, **looks)
        for reason in recipe.reasons:
            say(f"• {reason}")
        say(f"Report, recipe, summary and figures are in {folder}; open {folder / 'report.html'}")
    else:
        left_out = set(PARTS) - set(parts)
        chosen = {name: value for name, value in report.items() if name not in left_out}
        write_measured(chosen, folder, formats, **looks)
        say(f"{', '.join(parts).capitalize()}: figures and numbers are in {folder}")


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
    *reports: str,
    kind: FigureKind = "curves",
    label: list[str] | None = None,
    out: Path = Path("out/figure.pdf"),
    width: Width = None,
    prompts: Prompts = None,
    panels: Panels = None,
) -> None:
    """Draw a figure from saved reports, without their models.

    Several reports are drawn side by side, or below each other where the figure is narrow.

    Args:
        reports: What `freeret probe` wrote: its folder, a report.json, or a single part such as
            curves.json; or the alias of an embedded backbone, whose report is shipped.
        kind: The kind of figure to draw.
        label: Title of a report, once for each report in their order. By default the model's name,
            or the report's folder where two reports are of models with one name.
        out: The figure; its ending says the format: .pdf, .png or .svg.
    """
    if not reports:
        raise BadSetting("name at least one report to draw")
    looks = {"width": width, **_panels(prompts, panels)}
    check_choice("the ending of --out", out.suffix, [f".{name}" for name in get_args(Format)])
    if label and not len(label) == len(set(label)) == len(reports):
        raise BadSetting(f"give {len(reports)} different labels, one for each report, or none")
    from probes.reports.named import report_file, titles

    files = [report_file(report) for report in reports]
    for file in files:
        read_json(file)
    preflight.check_writable(out.parent)
    from probes.plots import save
    from probes.plots.figures import PART_OF, figure_of
    from probes.reports.report import read_parts

    part = PART_OF[kind]
    contents = [read_parts(file, [part]) for file in files]
    names = label or titles([each["fingerprint"] for each in contents], files)
    results = {name: each[part] for name, each in zip(names, contents, strict=True)}
    [path] = save(figure_of(kind, results, **looks), out)
    say(f"The figure is in {path}")


def _panels(prompts: str | None, panels: str | None) -> dict[str, Any]:
    """The prompts and panels that are named, as `figure_of` takes them."""
    return {
        "prompts": listed(prompts, "prompts", PROMPT_KINDS),
        "panels": listed(panels, "panels", PANELS),
    }


def compare_reports(*reports: str, out: Path | None = None, json: bool = False) -> None:
    """Compare backbones, or the checkpoints of one, by their saved reports; no model is loaded.

    Where each turns meaning into words, how far synonyms lie apart from controls, the bias and use
    of frames, the best extraction, the gains of words and reranking, and the cost. Parts that a
    report does not hold are named with the reason.

    Args:
        reports: What `freeret probe` wrote: its folder or a report.json; or the alias of an
            embedded backbone, whose report is shipped.
        out: A page with all charts (.html), or the figure (.png, .svg, .pdf).
        json: Print the key figures as one JSON list, with an entry for each report.
    """
    if not reports:
        raise BadSetting("name at least one report to compare")
    _check_page_or_figure(out)
    from freeret.pages.comparison import comparison_page
    from probes import compare
    from probes.plots import save

    comparison = compare(reports)
    if json:
        print_lines([json_line([each.figures() for each in comparison.reports])])
    else:
        print_table("Probe reports", comparison.columns(), comparison.rows())
    if out is not None:
        if out.suffix == ".html":
            write_atomic(out, comparison_page(comparison))
        else:
            save(comparison.plot(), out)
        note(f"The comparison is in {out}")


def _check_page_or_figure(out: Path | None) -> None:
    """Raise BadSetting where --out is neither a page nor a figure, or cannot be written."""
    if out is not None:
        endings = [".html", *(f".{name}" for name in get_args(Format))]
        check_choice("the ending of --out", out.suffix, endings)
        preflight.check_writable(out.parent)


def check(model: Model, /, *, loading: Settings = AS_USUAL, json: bool = False) -> None:
    """Check a new backbone before deploying it: anatomy, text, batches, labels and media.

    The exit code is 1 when a check has FAILED. A note is a limitation that costs time or precision
    and makes no result wrong.

    Args:
        json: Print the checks as one JSON list.
    """
    check_model(model, loading)
    from freeret.check import check as run_checks
    from probes import Backbone

    checks = run_checks(Backbone.load(model, loading))
    if json:
        print_lines([json_line([c.as_dict() for c in checks])])
    else:
        print_table(
            f"Check of {model}",
            ["check", "found", "result"],
            [[c.what, c.found, c.status] for c in checks],
        )
    if not all(c.passed for c in checks):
        sys.exit(1)


def lens(
    text: str = "",
    /,
    *,
    image: Path | None = None,
    prompt: str | None = None,
    sites: str | None = None,
    positions: Positive = 1,
    top: Positive = 10,
    content: bool = False,
    out: Path | None = None,
    json: bool = False,
    model: Model = DEFAULT,
    loading: Settings = AS_USUAL,
) -> None:
    """Show which word each layer holds: the logit lens of one text, picture or both.

    Each site has its most likely words with their probability, the entropy of the distribution in
    nats, α (the cosine of the state before and after the sublayer) and β (its cosine with the word
    that the model predicts in the end). Spaces are shown as ␣, control tokens in ⟨⟩.

    Args:
        text: The text to look at, with or without a picture.
        image: File of a picture, before the text.
        prompt: Name of a prompt to put them under, such as e5v or control; by default they stand
            alone.
        sites: Where to read, such as attn[-1],mlp[-1],norm; by default at every site.
        positions: How many tokens at the end of the prompt to show; --out has all of them.
        top: Words of each state in --out and --json.
        content: Show content words alone, in lower case.
        out: Write a page (.html) or a figure (.png, .svg or .pdf) as well.
        json: Print a line of JSON for each site and position.
    """
    _check_page_or_figure(out)
    if not text.strip() and image is None:
        raise BadSetting("nothing to look at: give a text, --image FILE, or both")
    if image is not None and not image.is_file():
        raise BadSetting(f"there is no picture at {image}")
    template = None if prompt is None else as_prompt(prompt)
    named = None if sites is None else [Site.parse(name.strip()) for name in sites.split(",")]
    check_model(model, loading)
    import probes

    item = probes.Item(text if text.strip() else None, [image] if image else [], place="the input")
    table = probes.lens(
        probes.Backbone.load(model, loading),
        item if template is None else template.apply(item),
        sites="all" if named is None else named,
        positions="all" if out is not None else slice(-positions, None),
        top=top,
        content=content,
    )
    shown = table.positions[-positions:]
    if json:
        print_lines(json_line(cell) for cell in table.cells() if cell["position"] in shown)
    else:
        for start in range(0, len(shown), ACROSS):
            print_table(*lens_facts(table, shown[start : start + ACROSS]))
    if out is not None:
        from probes.plots import draw_lens, save

        written = [table.save(out)] if out.suffix == ".html" else save(draw_lens(table).figure, out)
        note(f"The table is in {written[0]}")
