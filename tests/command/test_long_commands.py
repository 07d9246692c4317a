"""Commands that run for minutes: a backbone is probed once; interrupted commands can resume."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freeret.store.table import Store
from probes import Backbone, ProbeReport
from tests.commands import index, own_lines, run
from tests.measure.test_report import make_report
from tests.models import TEXT, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def probed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Replace the probe by one that notes its calls and returns a made-up report; start from an
    empty cache."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def probe(backbone: Backbone, *, seed: int, progress: bool, keep: Path) -> ProbeReport:
        asked.append(backbone.name)
        assert progress, "minutes of work are shown"
        return make_report(fingerprint=backbone.fingerprint(), seed=seed)

    monkeypatch.setattr("freeret.reports.probe", probe)
    return lambda: asked


def test_a_report_is_measured_once_for_all_commands(
    probed: Callable[[], list[str]], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "sts.tsv").write_text("score\tsentence1\tsentence2\n1\ta\tb\n2\tc\td\n")
    assert run("probe", model, "--out", tmp_path / "out") == 0
    assert probed() == [str(model)]
    moved = tmp_path / "moved"
    shutil.copytree(model, moved)
    for k, folder in enumerate((model, moved)):
        store = tmp_path / f"s{k}"
        assert run("index", tmp_path / "a.txt", "--store", store, "--model", folder) == 0
        assert Store.open(store).recipe()["prompt"] == "prompteol", "that of the report"
    assert (
        run("eval", f"sts:{tmp_path / 'sts.tsv'}", "--model", moved, "--out", tmp_path / "e") == 0
    )
    shutil.rmtree(tmp_path / "out")
    assert run("probe", model, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "report.json").is_file()
    assert run("probe", model, "--out", tmp_path / "part", "--only", "synonyms") == 0
    suffixes = {path.suffix for path in (tmp_path / "part").iterdir()}
    assert suffixes == {".html", ".json", ".png", ".svg"}
    assert len(probed()) == 1, "the report is drawn"
    assert run("probe", model, "--out", tmp_path / "out", "--again") == 0
    assert run("probe", model, "--out", tmp_path / "out", "--seed", 1) == 0
    assert len(probed()) == 3


def test_the_papers_recipe_needs_no_probing(
    probed: Callable[[], list[str]], model: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("a")
    how = ("--store", tmp_path / "s", "--model", model)
    assert run("index", tmp_path / "a.txt", *how, "--recipe", "paper") == 0
    assert Store.open(tmp_path / "s").recipe()["prompt"] == "control"
    # The store keeps its recipe, and its backbone is not probed for it.
    assert run("index", tmp_path / "a.txt", *how) == 0
    assert probed() == []


def stop(*_: Any, **__: Any) -> Any:
    raise KeyboardInterrupt


def test_an_interrupted_index_says_how_many_items_are_stored(
    model: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")
    store = tmp_path / "s"
    assert index(tmp_path / "a.txt", store=store, model=model, recipe=recipe) == 0
    monkeypatch.setattr("probes.model.batches.states.run_batches", stop)
    for target, count in ((store, "1 item is stored"), (tmp_path / "new", "0 items are stored")):
        assert index(tmp_path / "b.txt", store=target, model=model, recipe=recipe) == 130
        err = capsys.readouterr().err
        assert f"freeret: interrupted; {count}; run the same command again to resume\n" in err


def test_an_interrupted_probe_says_that_parts_are_kept(
    probed: Callable[[], list[str]],
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("freeret.reports.probe", stop)
    assert run("probe", model, "--out", tmp_path / "out") == 130
    err = capsys.readouterr().err
    assert "interrupted; the parts that were finished are kept; run the same command again" in err


def test_a_store_of_another_model_is_refused_before_probing(
    probed: Callable[[], list[str]],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a.txt").write_text("a")
    TEXT["qwen2"]().save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    assert run("index", tmp_path / "a.txt", "--store", store, "--model", tmp_path / "other") == 1
    assert f"you asked for {tmp_path / 'other'}" in own_lines(capsys.readouterr().err)[0]
    assert probed() == []
