"""The demo over tiny random models: what is there when, and what an interruption leaves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from freeret.demo import run as steps
from freeret.demo.media import SCENES, SEARCHES
from freeret.demo.run import FITTED_SCORES, RAW_SCORES, Demo
from freeret.demo.searches import Search, Searches
from freeret.hits import Hit
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item, ProbeReport
from probes.data import REPORTS

REPORT = ProbeReport.load(REPORTS / "smolsight.json")
PASSAGES, QUESTIONS, PICTURES = 180, 60, 63


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:the recipe was measured on")
def test_an_interrupted_demo_leaves_a_page_that_is_right_and_goes_on(
    tmp_path: Path,
    tiny: Callable[[str], Backbone],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backbone, page = tiny("llava"), tmp_path / "index.html"
    with monkeypatch.context() as patched:
        patched.setattr(steps, "BM25", interrupt)  # in the first step after the first search
        with pytest.raises(KeyboardInterrupt):
            Demo(backbone, REPORT, tmp_path).run()
    html = page.read_text(encoding="utf-8")
    assert "Which planet" in html
    assert RAW_SCORES in html
    assert "Still to come: all passages" in html
    assert "<table>" not in html
    capsys.readouterr()

    assert Demo(backbone, REPORT, tmp_path, "bin/freeret").run() == page
    html, out = page.read_text(encoding="utf-8"), capsys.readouterr().out
    assert out.index("Which planet") < out.index("Step 1 of 3") < out.index("Step 3 of 3")
    assert "Still to come" not in html
    assert RAW_SCORES in out
    assert RAW_SCORES not in html
    assert FITTED_SCORES.replace("'", "&#39;") in html
    assert f"<pre>bin/freeret search {tmp_path / 'store'} " in html
    for title in (*SEARCHES, "A question looks for its passage", "shared words", "(E5-V)"):
        assert title in html
        assert title in out or title == "A question looks for its passage"
    assert "Aitzol Berasategi, in Debian lomiri-wallpapers: CC-BY-4.0" in html
    assert (tmp_path / "probe" / "report.json").is_file()
    hits = (tmp_path / "hits.csv").read_text(encoding="utf-8").splitlines()
    assert len(hits) == 1 + QUESTIONS
    stored = FreeRet.load(tmp_path / "store", backbone)
    assert stored.recipe == Recipe.from_report(REPORT)  # not that of the first search
    assert len(stored.store or ()) == PASSAGES + PICTURES + 3 * SCENES


@pytest.mark.filterwarnings("ignore:the recipe was measured on")
def test_a_model_that_reads_text_alone_is_not_asked_for_pictures(
    tmp_path: Path, tiny: Callable[[str], Backbone]
) -> None:
    assert len(Demo(tiny("llama"), REPORT, tmp_path).steps) == 2


def test_ranks_of_right_answers_are_counted_from_one() -> None:
    hits = [Hit(id, 0.5, 0.5, None, Item(id)) for id in "abc"]
    ranks = [Search(Item("q"), Item("x", id=id), hits).rank for id in ("a", "c", "z")]
    assert ranks == [1, 3, None]
    asked = Searches("", [Search(Item("q"), Item("x", id=id), hits) for id in "acz"])
    assert (asked.among(1).mean, asked.among(3).mean) == pytest.approx((1 / 3, 2 / 3))
    assert asked.worked() == [Searches("", asked.searches[:1])]
    assert Searches("", asked.searches[1:]).worked() == []
