"""Reports side by side: every figure is that of its report, checkpoints are a line, and a part that
is missing is a gap with its reason."""

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes import Comparison, ProbeReport, compare, plots
from probes.data import REPORTS
from probes.errors import BadFile, BadSetting
from probes.measure.parts import PARTS
from probes.plots.compared import LAST, PANELS
from probes.reports.report import FORMAT, read_available, write_parts
from tests.commands import run
from tests.measure.test_report import curves, frame_bias, make_report

EVIL = "<script>document.title = 'taken'</script>"
SHIPPED = ("smollm2-135m", "gemma3-270m")


def checkpoint(revision: str | None, auc: float = 0.8, **changes: Any) -> ProbeReport:
    fingerprint = {"model": "lab/made-up", "layers": 4, "revision": revision}
    return make_report(fingerprint=fingerprint, framing=[frame_bias("mcq", auc)], **changes)


def texts(figure: Figure) -> str:
    """All text of a figure, legends included."""
    found = [text.get_text() for ax in figure.axes for text in ax.texts]
    for ax in figure.axes:
        legend = ax.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return " ".join(" ".join(found).split())


def points(ax: Axes) -> list[list[float]]:
    """Positions of the marks with intervals."""
    return [list(bar[0].get_xydata()[0]) for bar in ax.containers]  # pyright: ignore


def test_every_figure_is_that_of_its_report() -> None:
    comparison = compare(SHIPPED)
    frame = comparison.to_dataframe().set_index("report")
    assert list(frame.index) == list(SHIPPED)
    table = {name: cells for name, *cells in comparison.rows()}
    for column, name in enumerate(SHIPPED):
        report = ProbeReport.load(REPORTS / f"{name}.json")
        lines = dict(line.split(": ", 1) for line in str(report).splitlines())
        for figure, value in lines.items():
            if figure != "model":
                assert table[figure][column] == value
        best = max(report.synonyms, key=lambda s: s.separation.mean)
        row = frame.loc[name]
        assert (row.d_prime_site, row.d_prime_low) == (best.site, best.separation.low)
        assert row.auc == max(bias.auc.mean for bias in report.framing)
        assert row.alpha_mlp_text == report.curves["text"].alpha_mlp.mean[-1]
        assert row.turn_control == report.curves["control"].turn
        assert row.seconds == pytest.approx(sum(report.timings.values()))
        assert row.gaps == ""


def test_curves_are_compared_from_the_end() -> None:
    comparison = compare(SHIPPED)
    ax = plots.draw_compared_alpha(comparison, kind="control")
    assert [label.get_text() for label in ax.get_xticklabels()][-3:] == [
        "attn[-1]",
        "mlp[-1]",
        "norm",
    ]
    for line, name in zip(ax.get_lines(), SHIPPED, strict=True):
        control = ProbeReport.load(REPORTS / f"{name}.json").curves["control"]
        x, y = line.get_xydata().T  # pyright: ignore
        assert list(x) == list(range(-2 * LAST - 1, 0))
        assert y[-1] == control.alpha_norm.mean[0]
        assert list(y[-3:-1]) == [control.alpha_attn.mean[-1], control.alpha_mlp.mean[-1]]
        assert y[0] == control.alpha_attn.mean[-LAST]
    short = compare([make_report(curves=dict.fromkeys(("word", "control", "text"), curves()))])
    assert len(plots.draw_compared_beta(short).get_lines()[0].get_xdata()) == 9


def test_checkpoints_are_a_line_in_the_order_of_their_steps() -> None:
    steps = {"step1000": 0.7, "step128": 0.6, "step64000": 0.9}
    made = [checkpoint(revision, auc) for revision, auc in steps.items()]
    other = make_report()
    comparison = compare([made[0], other, made[1], made[2]])
    names = [each.name for each in comparison.reports]
    assert names == ["made-up step128", "made-up step1000", "made-up step64000", "made-up"]
    assert comparison.series == [[0, 1, 2]]
    ax = plots.draw_extractions(comparison)
    paths = [line for line in ax.get_lines() if len(line.get_xdata()) == 3]
    assert len(paths) == 3, "one through the best extraction, one through each fixed one"
    assert len(points(ax)) == 3 * 4
    loose = plots.draw_extractions(compare([other, make_report(fingerprint={"model": "b"})]))
    assert not [line for line in loose.get_lines() if len(line.get_xdata()) > 1]


def test_checkpoints_without_a_number_stay_in_the_order_given() -> None:
    given = ["main", "a" * 40, "step5"]
    comparison = compare([checkpoint(revision) for revision in given])
    assert [each.revision for each in comparison.reports] == given


def test_reports_of_one_model_are_called_apart(tmp_path: Path) -> None:
    files = [make_report(seed=k).save(tmp_path / f"run{k}" / "report.json") for k in (1, 2)]
    assert [each.name for each in compare(files).reports] == ["run1", "run2"]
    assert [each.name for each in compare([file.parent for file in files]).reports] == [
        "run1",
        "run2",
    ]
    loaded = [ProbeReport.load(file) for file in files]
    assert [each.name for each in compare(loaded).reports] == ["made-up (1)", "made-up (2)"]


@pytest.fixture
def partial(tmp_path: Path) -> Comparison:
    """A whole report, one of curves alone, one of an earlier format, and a damaged one."""
    whole, head = make_report(), {"seed": 0, "timings": {}}
    parts = {**head, "fingerprint": {"model": "few"}, "curves": whole.curves}
    few = write_parts(tmp_path / "curves.json", parts)
    files = {}
    for name, changes in {
        "old": {"format": FORMAT - 1},
        "damaged": {"framing": [{"frame": 3}]},
    }.items():
        saved = json.loads(whole.save(tmp_path / f"{name}.json").read_text())
        files[name] = tmp_path / f"{name}.json"
        saved["fingerprint"]["model"] = name
        files[name].write_text(json.dumps(saved | changes))
    return compare([whole, few, *files.values()])


def test_a_missing_part_is_a_gap_with_its_reason(partial: Comparison) -> None:
    table = {name: cells for name, *cells in partial.rows()}
    held, few, old, damaged = table["best frame"]
    assert held.startswith("mcq") or held.startswith("true_false")
    assert few == "not measured"
    assert old == f"of format {FORMAT - 1}, not {FORMAT}: probe again"
    assert damaged.startswith("cannot be read (0.")
    assert table["turn of the last two steps, control prompt"][1].startswith("the last MLP")
    frame = partial.to_dataframe()
    assert list(frame.auc.isna()) == [False, True, True, True]
    assert list(frame.d_prime.isna()) == [False, True, True, False]
    assert frame.gaps[2].count("probe again") == len(PARTS)
    shown = texts(partial.plot())
    assert "few: not measured" in shown
    assert "old: of format 2, not 3: probe again" in shown
    assert "not measured" in partial._repr_html_()


@pytest.mark.parametrize("panel", PANELS.values(), ids=lambda panel: panel.__name__)
def test_a_panel_leaves_out_what_is_missing(panel: Any, partial: Comparison) -> None:
    ax = panel(partial)
    assert ax.has_data()
    nothing = compare([dataclasses.replace(partial.reports[2].report, timings={})])
    assert not [bar for bar in panel(nothing).containers if np.size(bar)]


def test_what_is_no_report_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"format": 3}')
    with pytest.raises(BadFile, match=r"x\.json is not a probe report"):
        read_available(tmp_path / "x.json")
    with pytest.raises(BadFile, match=r"cannot read .*nowhere"):
        compare(["smollm2-135m", "nowhere"])
    with pytest.raises(BadSetting, match="at least one report"):
        compare([])


def test_names_of_any_kind_leave_room_for_the_panels() -> None:
    names = ["$\\frac{1}{$" * 20, "a" * 400, "a\nb"]
    reports = [make_report(fingerprint={"model": name, "layers": 4}) for name in names]
    figure = compare(reports).plot()
    figure.canvas.draw()
    assert all(ax.get_window_extent().width > 150 for ax in figure.axes)


def test_a_comparison_shows_itself_and_escapes_names() -> None:
    named = make_report(fingerprint={"model": EVIL, "layers": 4})
    comparison = compare([named, make_report()])
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # pyright: ignore
    parser.feed(comparison._repr_html_())
    assert "script" not in tags
    assert tags.count("img") == 1
    assert tags.count("table") == 1
    assert len(repr(comparison)) < 200


def test_saved_reports_are_compared_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = make_report().save(tmp_path / "mine" / "report.json")
    page, figure = tmp_path / "new" / "page.html", tmp_path / "figure.png"
    assert run("compare-reports", "smollm2-135m", mine.parent, "--json", "--out", page) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [row["report"] for row in rows] == ["smollm2-135m", "made-up"]
    assert rows[1]["turn_text"] == "the final norm"
    assert str(page) in printed.err.replace("\n", "")
    assert "2 probe reports compared" in page.read_text("utf-8")
    assert run("compare-reports", mine, "--out", figure) == 0
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert "best extraction" in capsys.readouterr().out
    for wrong, message in (
        ((), "at least one report"),
        (("nowhere.json",), "cannot read nowhere.json"),
        ((mine, "--out", tmp_path / "x.txt"), ".html"),
    ):
        assert run("compare-reports", *wrong) == 1
        assert message in capsys.readouterr().err
