"""`freeret probe` and `freeret plot`: parts are kept, chosen and drawn; none is lost."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freeret.reports import parts_folder, report_path, seconds_of
from probes import Backbone, ProbeReport, probe
from probes.data import matches
from probes.errors import BadFile, BadSetting
from probes.measure.cost import TOKENS
from probes.measure.parts import PARTS, part_names, with_needed
from probes.measure.run import _MEASURES, probe_parts
from probes.plots import save
from probes.plots.figures import KINDS, PART_OF, figure_of
from probes.reports.report import read_parts, write_parts
from tests.commands import own_lines, run
from tests.measure.test_report import make_report, plain
from tests.models import TEXT, tokenizer
from tests.samples import few_texts
from tests.stores import save_tiny

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, probes over a few of their rows, and a machine of known speed."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("freeret.reports.tokens_per_second", lambda _: 1000.0)
    few_texts(monkeypatch, 6)
    pairs = sorted(matches(), key=lambda r: (r["query"], r["match"]))[:8]
    for module in ("framing", "judges.heads", "injection"):
        monkeypatch.setattr(f"probes.measure.{module}.matches", lambda: pairs)
    return tmp_path / "cache"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that are measured, in order."""
    names: list[str] = []

    def noting(part: str, measure: Callable) -> Callable:
        return lambda *arguments: (names.append(part), measure(*arguments))[1]

    for part, measure in dict(_MEASURES).items():
        monkeypatch.setitem(_MEASURES, part, noting(part, measure))
    return names


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures and no page of them: they take longer to draw than a tiny model to probe."""
    monkeypatch.setattr("freeret.pages.probe_folder.draw", lambda *_, **__: None)
    monkeypatch.setattr("freeret.pages.probe_folder.report_page", lambda *_, **__: "")


def interrupt(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(_MEASURES, part, stop)


# ------------------------------------------------------------------------------- kept parts


def test_an_interrupted_run_resumes_where_it_stopped(
    tiny: Callable[[str], Backbone],
    measured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone = tiny("llama")
    whole = probe(backbone, seed=3)
    measured.clear()
    with monkeypatch.context() as patch:
        interrupt(patch, "diagnostic")
        with pytest.raises(KeyboardInterrupt):
            probe(backbone, seed=3, keep=tmp_path / "kept")
    done = ["framing", "heads", "curves"]
    assert measured == done
    assert {path.stem for path in (tmp_path / "kept").iterdir()} == set(done)
    measured.clear()
    taken_up = probe(backbone, seed=3, keep=tmp_path / "kept")
    assert measured == [part for part in PARTS if part not in done]
    same, again = plain(whole), plain(taken_up)
    assert again.pop("timings").keys() == same.pop("timings").keys()
    assert again == same


def test_parts_of_another_backbone_seed_or_cut_off_are_measured_again(
    tiny: Callable[[str], Backbone],
    measured: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backbone = tiny("llama")
    keep = tmp_path / "kept"
    probe_parts(backbone, ["curves", "synonyms", "injection"], seed=1, keep=keep)
    probe_parts(tiny("qwen2"), ["curves"], seed=1, keep=keep / "other")
    (keep / "other" / "curves.json").replace(keep / "curves.json")
    (keep / "synonyms.json").write_text((keep / "synonyms.json").read_text()[:-20])
    measured.clear()
    found = probe_parts(backbone, ["curves", "synonyms", "injection"], seed=1, keep=keep)
    assert measured == ["curves", "synonyms"]
    assert len(caplog.records) == 2, "each is a warning that names the file"
    for part in measured:
        assert f"{part}.json" in caplog.text
    assert found["curves"]["word"].num_layers == backbone.num_layers
    measured.clear()
    probe_parts(backbone, ["injection"], seed=2, keep=keep)
    assert measured == ["injection"], "of another seed"


CHILD = """if True:
    import sys, time
    from pathlib import Path
    import probes.measure.framing
    from probes import Backbone, probe
    from probes.measure.run import _MEASURES
    pairs = sorted(probes.measure.framing.matches(), key=lambda r: (r["query"], r["match"]))[:8]
    probes.measure.framing.matches = lambda: pairs
    _MEASURES["diagnostic"] = lambda *_: time.sleep(60)
    probe(Backbone.load(Path(sys.argv[1])), keep=sys.argv[2])
"""


@pytest.mark.usefixtures("undrawn")
def test_a_killed_run_keeps_its_parts_and_a_whole_report_leaves_none(
    model: Path, measured: list[str], tmp_path: Path
) -> None:
    backbone = Backbone.load(model)
    folder = parts_folder(backbone)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(model), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.DEVNULL,
    )
    while not (folder / "framing.json").exists():
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert {path.stem for path in folder.glob("*.json")} == {"framing"}
    assert run("probe", model, "--out", tmp_path / "out") == 0
    assert measured == [part for part in PARTS if part != "framing"]
    assert report_path(backbone).is_file()
    assert not folder.exists()


# ------------------------------------------------------------------------------- some parts


def test_single_parts_are_measured_and_reused_by_a_whole_report(
    model: Path, measured: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = tmp_path / "out"
    how = ("--out", out, "--format", "pdf", "--width", 3.3)
    assert run("probe", model, "--only", "synonyms, framing", *how) == 0
    assert measured == ["framing", "synonyms"]
    figures = {f"{kind}.pdf" for kind in ("framing", "synonyms", "separation")}
    files = {"framing.json", "synonyms.json", "report.html"}
    assert {path.name for path in out.iterdir()} == figures | files
    page = (out / "report.html").read_text("utf-8")
    assert page.count("<section>") == 2
    assert "a recipe needs all of them" in page
    backbone = Backbone.load(model)
    assert not report_path(backbone).exists(), "it is no whole report"
    with pytest.raises(BadFile, match=r"holds framing only; give heads\.json"):
        ProbeReport.load(out / "framing.json")
    measured.clear()
    request.getfixturevalue("undrawn")
    assert run("probe", model, "--out", out) == 0
    assert measured == [part for part in PARTS if part not in ("framing", "synonyms")]
    kept = read_parts(out / "synonyms.json", ["synonyms"])["synonyms"]
    assert ProbeReport.load(out / "report.json").synonyms == kept


def test_reranking_brings_the_parts_that_it_needs() -> None:
    needed = ["framing", "heads", "diagnostic", "hybrid", "reranking"]
    assert with_needed(["reranking"]) == needed
    assert with_needed(["curves", "framing"]) == ["framing", "curves"]


def test_empty_names_of_parts_are_ignored() -> None:
    assert part_names(" curves,, synonyms,") == part_names("curves,synonyms")


@pytest.mark.parametrize("only", ["curve", "", ",", "curves;synonyms"])
def test_an_unknown_part_is_refused_with_all_names(
    only: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("probe", model, "--only", only, "--out", tmp_path / "out") == 1
    [line] = own_lines(capsys.readouterr().err)
    assert all(part in line for part in PARTS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(BadSetting, match="synonyms"):
        with_needed([only])


# ------------------------------------------------------------------------------- several models


def test_each_model_has_its_folder_and_a_failing_one_loses_none(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TEXT["qwen2"]().save_pretrained(tmp_path / "second")
    tokenizer().save_pretrained(tmp_path / "second")
    out = tmp_path / "out"
    models = (model, tmp_path / "nowhere", tmp_path / "second")
    assert run("probe", *models, "--only", "synonyms", "--out", out, "--format", "png") == 1
    lines = own_lines(capsys.readouterr().err)
    assert "nowhere" in lines[0]
    assert lines[-1].startswith(f"freeret: not probed: {tmp_path / 'nowhere'}")
    for name in (model.name, "second"):
        assert (out / name / "synonyms.json").is_file()
    assert {"synonyms.png", "separation.png"} <= {path.name for path in out.iterdir()}
    page = (out / "comparison.html").read_text()
    assert model.name in page
    assert "second" in page
    assert "not measured" in page  # every part but the synonyms


def test_models_of_one_name_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = tmp_path / model.name
    assert run("probe", model, same, "--out", tmp_path / "out") == 1
    assert "two of the models have the same name" in capsys.readouterr().err


# ------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("kind", KINDS)
def test_figures_keep_their_width_and_equal_figures_are_equal_files(
    kind: Any, tmp_path: Path
) -> None:
    report = make_report()
    results = {"made-up": getattr(report, PART_OF[kind])}
    files = []
    for name in ("a", "b"):
        figure = figure_of(kind, results, width=3.3)
        assert figure.get_figwidth() == 3.3
        sizes = {text.get_fontsize() for ax in figure.axes for text in ax.get_xticklabels()}
        assert sizes == {7.0}, "points, whatever the width"
        files += save(figure, tmp_path / name, ["pdf"])
    first, second = (path.read_bytes() for path in files)
    assert first == second
    assert b"/CreationDate" not in first
    assert b"/FontFile2" in first, "no TrueType"
    assert b"/Type3" not in first


def test_panels_stand_side_by_side_only_where_they_find_room() -> None:
    report = make_report()
    many = dict.fromkeys(("one", "two", "three"), report.synonyms)
    columns = {
        width: len(
            {round(ax.get_position().x0, 3) for ax in figure_of("synonyms", many, width).axes}
        )
        for width in (3.3, 6.9, None)
    }
    assert columns == {3.3: 1, 6.9: 3, None: 3}


def test_a_saved_report_is_drawn_without_its_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = make_report()
    first = report.save(tmp_path / "first" / "report.json")
    head = {"fingerprint": {"model": "b"}, "seed": 0, "timings": {}}
    second = write_parts(tmp_path / "curves.json", {**head, "curves": report.curves})
    out = tmp_path / "figures" / "model-2.5.pdf"
    how = ("--kind", "rank", "--width", 6.9, "--out", out)
    assert run("plot", first, second, *how) == 0
    assert out.read_bytes().startswith(b"%PDF")
    assert run("plot", second, "--kind", "framing", "--out", tmp_path / "x.png") == 1
    assert f"{second} holds curves only; give framing.json" in capsys.readouterr().err
    wide = ("--prompts", "control,word", "--panels", "beta,alpha", "--width", 3.3)
    assert run("plot", first, *wide, "--out", tmp_path / "chosen.png") == 0
    for option in ("--prompts", "--panels"):
        assert run("plot", first, option, "alpha,x", "--out", tmp_path / "x.png") == 1
        assert f"{option} must be one of" in capsys.readouterr().err
    assert run("plot", first, "--out", tmp_path / "x.jpeg") == 1
    assert ".pdf" in capsys.readouterr().err
    assert run("plot", "--out", tmp_path / "x.pdf") == 1


def test_a_report_is_named_by_its_folder_or_alias_and_titled_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which titles the figure has, for reports of one model in two folders."""
    for name in ("before", "after"):
        make_report().save(tmp_path / name / "report.json")
    titles: list[list[str]] = []

    def note(kind: Any, results: dict[str, Any], **how: Any) -> Any:
        titles.append(list(results))
        return figure_of(kind, results, **how)

    monkeypatch.setattr("probes.plots.figures.figure_of", note)
    both, out = (tmp_path / "before", tmp_path / "after" / "report.json"), tmp_path / "f.png"
    how = ("--kind", "framing", "--out", out)
    assert run("plot", *both, *how) == 0
    assert run("plot", *both, *how, "--label", "a", "--label", "b") == 0
    assert run("plot", "smolsight", both[0], *how) == 0
    assert titles[:2] == [["before", "after"], ["a", "b"]]
    assert titles[2][0] == "smolsight"


# ------------------------------------------------------------------------------- the time


def test_the_time_of_a_backbone_that_reads_pictures_includes_them(
    tiny: Callable[[str], Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("freeret.reports.items_per_second", lambda *_: 0.5)
    text = seconds_of(tiny("llama"), ["diagnostic"])
    seeing = seconds_of(tiny("qwen2-vl"), ["diagnostic"])
    assert text == pytest.approx(TOKENS["diagnostic"] / 1000)
    assert seeing > text + 100 * 1.5, "each picture takes the tower two seconds"
    assert seconds_of(tiny("qwen2-vl"), ["framing"]) == pytest.approx(30.2)


@pytest.mark.usefixtures("undrawn")
def test_the_time_is_said_before_it_is_taken(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "freeret.reports")
    assert run("probe", model, "--only", "synonyms", "--out", tmp_path) == 0
    assert "takes less than a minute here" in caplog.text
    caplog.clear()
    monkeypatch.setattr("freeret.reports.tokens_per_second", lambda _: 100.0)
    assert run("probe", model, "--only", "synonyms,injection", "--out", tmp_path) == 0
    assert "Measured before, and kept: synonyms" in caplog.text
    assert "takes about 1 min here" in caplog.text, "of injection alone"
    assert json.loads((tmp_path / "injection.json").read_text())["timings"].keys() == {"injection"}
