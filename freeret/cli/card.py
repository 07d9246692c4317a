"""The command `freeret card`: a model card from what the probes measured."""

from pathlib import Path

from freeret import preflight
from freeret.cli.options import AS_USUAL, Settings
from freeret.cli.output import print_lines, say
from probes.errors import BadSetting
from probes.files import write_atomic


def card(source: str, /, *, out: Path | None = None, loading: Settings = AS_USUAL) -> None:
    """Write a model card for the Hugging Face hub: recipe, use, figures, limits, fingerprint.

    Args:
        source: The report.json that `freeret probe` wrote, or a model that has been probed.
        out: File to write, such as README.md; by default the card is printed.
    """
    if out is not None:
        preflight.check_writable(out.parent)
    from freeret.pages.card import model_card
    from freeret.reports import known_report
    from probes import Backbone, ProbeReport

    if source.endswith(".json"):
        report = ProbeReport.load(source)
    else:
        report = known_report(Backbone.load(source, loading))
        if report is None:
            raise BadSetting(f"{source} has no report yet; make one with `freeret probe {source}`")
    text = model_card(report)
    if out is None:
        print_lines(text.splitlines())
    else:
        say(str(write_atomic(out, text)))
