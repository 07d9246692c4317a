"""Results, models and stores show themselves: short in a terminal, as HTML in a notebook, and as
data frames."""

import base64
import inspect
import io
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import freeret
import probes
from freeret import Answer, Embedder, FreeRet, Hit, Hits, Ranked, Recipe, Reranker
from probes import Geometry, Item, Limits, Loading, MediaOptions, ProbeReport, Site, record
from probes.display import Results
from probes.errors import BadSetting
from probes.measure.reranking import surest_gain
from probes.stats import Interval, Spread
from tests.conftest import load_tiny

EVIL = "<script>document.title = 'taken'</script>\x1b[2J"
REPORT = Path(probes.__file__).parent / "data" / "reports" / "smolsight.json"
RECIPE = Recipe("control", "attn[-1]", "centre", "mcq", 0.5, reasons=(f"because {EVIL}",))


@pytest.fixture(scope="module")
def report() -> ProbeReport:
    return ProbeReport.load(REPORT)


@pytest.fixture(scope="module")
def retriever(tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    made = FreeRet(load_tiny("llama"), RECIPE)
    made.index([f"{k} of the word" for k in range(8)], tmp_path_factory.mktemp("store"))
    return made


def hits(count: int = 3, text: str = "a text") -> Hits:
    return Hits(
        Hit(f"h{k}", 1 - k / 100, 0.5, None, Item(text, id=f"h{k}", metadata={"year": 2000 + k}))
        for k in range(count)
    )


@pytest.fixture(scope="module")
def examples(
    report: ProbeReport, retriever: FreeRet, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """An instance of each public class."""
    states_folder = tmp_path_factory.mktemp("states")
    backbone = retriever.backbone
    batch = backbone.encode(["the word", "one of"])
    made = [
        backbone, batch, report, report.curves["word"], report.framing[0], report.diagnostic[0],
        report.synonyms[0], record(backbone, batch, ["attn[-1]", "norm"], logits=True),
        Geometry("centre", {("document", "text"): torch.zeros(64)}),
        Item("word " * 1000, id="x"), Item("word").parts[0], Limits(), Loading(), MediaOptions(),
        Site.parse("attn[-1]"), probes.FRAMES["mcq"], probes.NAMED["control"], probes.E5V,
        probes.lens(backbone, "Yes"), probes.writes(backbone, "Yes"),
        probes.turn(backbone, ["the word", "one of"]),
        probes.patch_grid(backbone, "Yes", "the word"),
        probes.store_states(backbone, ["the word"], "norm", states_folder, progress=False),
        retriever, retriever.embedder, Reranker(backbone), RECIPE, hits()[0], hits(100),
        Answer("yes", hits(100)), Ranked(0, 0.5, Item("a text")), probes.compare([report] * 20),
    ]  # fmt: skip
    return {type(value).__name__: value for value in made}


@pytest.mark.parametrize(
    "name", [f"{package.__name__}.{n}" for package in (probes, freeret) for n in package.__all__]
)
def test_public_classes_have_a_short_repr(name: str, examples: dict[str, Any]) -> None:
    package, name = name.split(".")
    value = getattr(sys.modules[package], name)
    if inspect.isfunction(value):
        return
    written = repr(examples[name] if inspect.isclass(value) else value)
    assert "object at 0x" not in written
    assert "tensor(" not in written
    assert len(written) < 2500
    assert written.isprintable() or isinstance(examples.get(name), Hits)


def test_a_store_says_what_made_it(retriever: FreeRet) -> None:
    store = retriever.store
    assert store is not None
    assert repr(store).startswith(f"Store({store.location!r}, made with ")
    assert repr(store) in repr(retriever)
    assert "no store" in repr(FreeRet(retriever.backbone, RECIPE))


def test_hits_are_a_list(retriever: FreeRet) -> None:
    found = retriever.search("the word", top_n=5)
    assert isinstance(found, Hits)
    assert isinstance(retriever.search("the word", top_n=5, rerank=2), Hits)
    assert found == list(found)
    assert isinstance(found[1:3], Hits)
    assert found[1:3] == [found[1], found[2]]
    assert isinstance(found[0], Hit)
    assert len(found + found) == 10


def test_each_hit_is_a_line() -> None:
    lines = repr(hits(30, EVIL)).splitlines()
    assert lines[0] == "30 hits"
    assert lines[1].startswith("  1  1.000  'h0'  \"<script>")
    assert lines[-1] == "… and 10 more"
    assert all(line.isprintable() for line in lines)


class Elements(HTMLParser):
    """The tags of some HTML and its text."""

    def __init__(self, written: str):
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.sources: list[str] = []
        self.feed(written)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hits_show_thumbnails_in_a_notebook() -> None:
    item = Item(
        EVIL, images=[Image.new("RGB", (900, 600), "red")], videos=[[Image.new("RGB", (8, 8))] * 9]
    )
    shown = Elements(Hits([Hit(EVIL, 1.9, 0.5, 0.75, item)])._repr_html_())
    assert "script" not in shown.tags
    assert shown.tags.count("img") == 1 + 4
    head = "data:image/webp;base64,"
    assert all(source.startswith(head) for source in shown.sources)
    for source in shown.sources:
        with Image.open(io.BytesIO(base64.b64decode(source.removeprefix(head)))) as thumbnail:
            assert max(thumbnail.size) <= 96
    assert shown.text.count(EVIL) == 2
    assert "clip, 4 of 9 frames" in shown.text
    assert "stage 1 0.500, stage 2 p(match) 0.750" in shown.text
    assert "… and 5 more" in Elements(hits(25)._repr_html_()).text


def test_an_answer_shows_its_sources() -> None:
    shown = Elements(Answer(EVIL, hits())._repr_html_())
    assert EVIL in shown.text
    assert shown.tags.count("li") == 3
    assert "script" not in shown.tags
    assert str(Answer("yes", hits())) == "yes"


def test_a_recipe_says_what_it_chose() -> None:
    assert str(RECIPE) == (
        "Vectors are read at attn[-1] under the control prompt, and compared by cosine similarity "
        "after centring. The model reranks the first hits by the frame mcq and orders them "
        "by the standardised stage-1 score plus 0.5 times the log-odds of a match."
    )
    assert str(Recipe.e5v()).endswith("Hits are not reranked.")
    shown = Elements(RECIPE._repr_html_())
    assert str(RECIPE) in shown.text
    assert EVIL in shown.text
    assert "script" not in shown.tags


def test_a_report_prints_the_figures_that_matter(report: ProbeReport) -> None:
    lines = dict(line.split(": ", 1) for line in str(report).splitlines())
    assert lines["turn of the last two steps, running text"].startswith("the final norm")
    assert lines["best extraction"].startswith("prompt prompteol at attn[-1], geometry centre")
    judge, weight, gain = surest_gain(report.reranking)
    said = f"{gain} of the reciprocal rank ({judge}, weight {weight:g})"
    assert lines["gain of reranking"] == said + ", within noise" * (gain.low <= 0)
    assert len(str(report)) < 1500


def test_a_report_shows_its_curves(report: ProbeReport) -> None:
    named = replace(report, fingerprint={**report.fingerprint, "model": EVIL})
    shown = Elements(named._repr_html_())
    assert EVIL in shown.text
    assert "script" not in shown.tags
    assert [source[:18] for source in shown.sources] == ["data:image/svg+xml"]
    assert Elements(report.curves["text"]._repr_html_()).tags == ["img"]


@pytest.mark.parametrize("part", ["synonyms", "framing", "diagnostic", "injection"])
def test_a_part_of_a_report_is_a_data_frame(part: str, report: ProbeReport) -> None:
    frame = report.to_dataframe(part)
    rows = getattr(report, part)
    assert len(frame) == len(rows)
    for name, value in vars(rows[-1]).items():
        if isinstance(value, Interval):
            ends = [frame.iloc[-1][f"{name}{end}"] for end in ("", "_low", "_high")]
            assert ends == list(value)
        elif value is None:
            assert pd.isna(frame.iloc[-1][name])
        elif isinstance(value, Spread):
            assert frame.iloc[-1][f"{name}_p95"] == value.p95
        else:
            assert frame.iloc[-1][name] == value


def test_curves_are_a_data_frame(report: ProbeReport) -> None:
    frame = report.to_dataframe("curves")
    rows = frame[(frame.prompt == "text") & (frame.curve == "alpha_mlp")]
    assert list(rows.layer) == list(range(30))
    assert np.array_equal(rows["mean"], report.curves["text"].alpha_mlp.mean)
    with pytest.raises(BadSetting, match="part must be one of curves, synonyms"):
        report.to_dataframe("nothing")
    with pytest.raises(BadSetting, match="part must be one of curves, synonyms"):
        report.to_dataframe()
    lone = report.curves["text"].to_dataframe()
    assert lone.equals(frame[frame.prompt == "text"].drop(columns="prompt").reset_index(drop=True))


def test_hits_are_a_data_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = hits().to_dataframe()
    assert list(frame["rank"]) == [1, 2, 3]
    assert list(frame["metadata.year"]) == [2000, 2001, 2002]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BadSetting, match="pip install pandas"):
        hits().to_dataframe()


def test_results_of_a_measurement_are_a_table(report: ProbeReport) -> None:
    found = report.framing
    assert isinstance(found, Results)
    assert isinstance(found[1:3], Results)
    head, *lines = repr(found).splitlines()
    assert head.split()[:3] == ["frame", "skew", "margin"]
    assert len(lines) == len(found)
    assert str(found[0].auc) in lines[0]
    shown = Elements(found._repr_html_())
    assert shown.tags.count("tr") == 1 + len(found)
    assert str(found[-1].auc) in shown.text
    assert found.to_dataframe().equals(report.to_dataframe("framing"))
    assert repr(Results()) == "no results"
    assert len(Results().to_dataframe()) == 0


def test_many_results_are_cut_and_their_texts_escaped(report: ProbeReport) -> None:
    evil = Results([replace(report.framing[0], frame=EVIL)] * 100)
    assert repr(evil).splitlines()[-1] == "… and 70 more"
    assert all(line.isprintable() for line in repr(evil).splitlines())
    shown = Elements(evil._repr_html_())
    assert "script" not in shown.tags
    assert "… and 70 more" in shown.text


def test_an_embedder_names_its_prompts() -> None:
    assert "site='norm'" in repr(Embedder(load_tiny("llama"), "norm", "e5v"))
