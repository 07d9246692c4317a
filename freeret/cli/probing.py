"""The commands that look at a backbone: `freeret probe`, `freeret check`, `freeret demo`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

from freeret import preflight
from freeret.cli.options import AS_USUAL, Model, Settings
from freeret.cli.output import print_lines, print_table, say


def register(app: App) -> None:
    """Put the commands of this file on the app."""
    app.command(probe)
    app.command(check)
    app.command(demo)


def probe(
    model: Model,
    /,
    *,
    out: Path = Path("out"),
    seed: int = 0,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure where a backbone lexicalizes and how its labels are biased.

    The report is also kept in the cache, where every other command finds it.

    Args:
        out: Folder for report.json, recipe.json, summary.md and the figures (PNG and SVG).
        seed: Seed of the bootstrap intervals.
    """
    preflight.check_writable(out)
    from freeret.probing import write_report
    from freeret.reports import probe_and_keep
    from probes import Backbone

    recipe = write_report(probe_and_keep(Backbone.load(model, loading), seed=seed), out)
    _print_recipe(recipe.reasons)
    say(f"Report, recipe, summary and figures are in {out}")


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
    *, model: Model = "smolsight", out: Path = Path("out"), loading: Settings = AS_USUAL
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
