"""A report says the same after it was written and read, and a damaged one is not believed."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TEXT, tokenizer

from freeret.recipe import Recipe
from freeret.reports import cached_report, report_path
from probes import Backbone, ProbeReport, probe
from probes.data import matches, paraphrases
from probes.diagnostic import Setting
from probes.errors import BadFile
from probes.framing import FrameBias
from probes.injection import Injection
from probes.lexicalization import PROMPT_KINDS, Curves
from probes.reranking import Fusion
from probes.stats import Interval, mean_interval
from probes.synonyms import SynonymSimilarity

LAYERS = 4


def around(mean: float, half: float = 0.02) -> Interval:
    return Interval(mean, mean - half, mean + half)


def curves(last_mlp: float = 0.1, norm: float = 0.9) -> Curves:
    def curve(*levels: float) -> Interval:
        values = np.array([levels, levels]) + np.array([[0.001], [-0.001]])
        return mean_interval(values)

    high, one = [0.95] * (LAYERS - 1), [1.0] * LAYERS
    return Curves(
        alpha_attn=curve(*high, 0.9), alpha_mlp=curve(*high, last_mlp), alpha_norm=curve(norm),
        beta_attn=curve(*one), beta_mlp=curve(*one), beta_norm=curve(0.5),
        norm_attn=curve(*one), norm_mlp=curve(*one), rank_attn=curve(*one), rank_mlp=curve(*one),
        probability_attn=curve(*one), probability_mlp=curve(*one), probability_norm=curve(0.4),
        words=["a", "🙂"],
    )  # fmt: skip


def setting(prompt: str, site: str, geometry: Any, quality: float, half: float = 0.02) -> Setting:
    return Setting(prompt, site, geometry, around(0.5), around(quality, half), around(0.6))


def frame_bias(name: str, area: float, half: float = 0.05) -> FrameBias:
    return FrameBias(
        name, 0.7, 0.8, around(0.6), around(0.65), around(area, half), 0.55, single_token=True
    )


def make_report(**changes: Any) -> ProbeReport:
    """A whole report, in which the recipe is prompteol at mlp[-1], whitened, with true_false."""
    report = ProbeReport(
        fingerprint={"model": "made-up", "layers": LAYERS, "versions": {"torch": "2"}},
        curves={"word": curves(0.1), "control": curves(0.2), "text": curves(0.8, 0.3)},
        synonyms=[
            SynonymSimilarity(site, around(0.9), around(0.7), around(separation))
            for site, separation in [("attn[3]", 0.5), ("mlp[3]", 0.8), ("norm", 0.3)]
        ],
        framing=[frame_bias("mcq", 0.7), frame_bias("true_false", 0.8)],
        diagnostic=[
            setting("e5v", "norm", "none", 0.50),
            setting("control", "attn[-1]", "none", 0.60),
            setting("prompteol", "mlp[-1]", "whiten", 0.80),
            setting("prompteol", "norm", "whiten", 0.60),
        ],
        injection=[Injection("mcq", "claim", around(0.3), 0.25)],
        reranking=[
            Fusion("true_false", 0.1, around(0.8), around(0.03)),
            Fusion("true_false", 0.5, around(0.9), around(0.10)),
            Fusion("true_false", None, around(0.6), around(-0.20)),
        ],
        seed=3,
        timings={"curves": 1.25},
    )
    return dataclasses.replace(report, **changes)


def plain(report: ProbeReport) -> dict[str, Any]:
    """Everything that a report says, comparable."""
    said = {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name != "curves"
    }
    return {**said, "curves": {kind: c.to_json() for kind, c in report.curves.items()}}


# ------------------------------------------------------------------------------- a file of it


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    report = make_report()
    loaded = ProbeReport.load(report.save(tmp_path / "deep" / "er" / "report.json"))
    assert plain(loaded) == plain(report)
    assert loaded.framing[0].discriminates
    onsets = {kind: curves.onset for kind, curves in loaded.curves.items()}
    assert onsets == {"word": "attn[-1]", "control": "attn[-1]", "text": "mlp[-1]"}
    assert loaded.num_layers == LAYERS
    assert Recipe.from_report(loaded).reasons == Recipe.from_report(report).reasons


def test_saving_again_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    make_report(seed=1).save(tmp_path / "report.json")
    make_report(seed=2).save(tmp_path / "report.json")
    assert ProbeReport.load(tmp_path / "report.json").seed == 2
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_cannot_be_written_leaves_the_old_report(tmp_path: Path) -> None:
    path = make_report(seed=1).save(tmp_path / "report.json")
    with pytest.raises(TypeError):
        make_report(fingerprint={"model": object()}).save(path)
    assert ProbeReport.load(path).seed == 1
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_report_cut_off_is_refused(kept: float, tmp_path: Path) -> None:
    path = make_report().save(tmp_path / "report.json")
    text = path.read_text()
    path.write_text(text[: int(kept * (len(text) - 1))])
    with pytest.raises(BadFile, match=r"report\.json"):
        ProbeReport.load(path)


def test_no_file_no_report(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"cannot read .*none\.json"):
        ProbeReport.load(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["[]", "null", '{"format": 1}', '{"format": 2}', "\xff"])
def test_another_file_is_no_report(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFile, match=r"report\.json"):
        ProbeReport.load(tmp_path / "report.json")


SAVED = ("fingerprint", "curves", "synonyms", "framing", "diagnostic", "injection", "seed")


@pytest.mark.parametrize("key", SAVED)
def test_a_report_without_a_part_is_refused(key: str, tmp_path: Path) -> None:
    path = make_report().save(tmp_path / "report.json")
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))
    with pytest.raises(BadFile, match=f"{key}.*probe again"):
        ProbeReport.load(path)


def test_a_part_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = make_report().save(tmp_path / "report.json")
    data = json.loads(path.read_text())
    data["framing"][0]["auc"] = "high"
    path.write_text(json.dumps(data))
    with pytest.raises(BadFile, match="probe again"):
        ProbeReport.load(path)


# ------------------------------------------------------------------------------- probing a model


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes over a few of their rows, to be quick."""
    rows, pairs = paraphrases()[:10], sorted(matches(), key=lambda r: (r["query"], r["match"]))[:12]
    for module in ("diagnostic", "lexicalization", "reranking"):
        monkeypatch.setattr(f"probes.{module}.paraphrases", lambda: rows)
    for module in ("framing", "injection"):
        monkeypatch.setattr(f"probes.{module}.matches", lambda: pairs)


@pytest.mark.usefixtures("few")
def test_a_real_report_is_whole_repeatable_and_readable(tmp_path: Path) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    report = probe(backbone, seed=5)
    loaded = ProbeReport.load(report.save(tmp_path / "report.json"))
    # Curves are kept to four digits; all else comes back as it was measured.
    assert plain(loaded) == plain(report)
    assert report.fingerprint == backbone.fingerprint()
    assert {bias.frame for bias in report.framing} >= {"mcq", "yes_no", "true_false"}
    assert set(report.timings) >= {"curves", "synonyms", "framing", "diagnostic", "injection"}
    again = probe(backbone, seed=5)
    assert again.framing == report.framing
    assert again.diagnostic == report.diagnostic
    assert plain(again)["curves"] == plain(report)["curves"]
    assert list(report.curves) == list(PROMPT_KINDS)
    assert Recipe.from_report(loaded) == Recipe.from_report(report)


@pytest.mark.usefixtures("few")
def test_a_backbone_is_probed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path))
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    first = cached_report(backbone)
    assert "probing" in caplog.text
    caplog.clear()
    assert plain(cached_report(backbone)) == plain(first)
    assert caplog.text == ""
    other = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=False))
    assert report_path(other) != report_path(backbone)
    # A kept report that was damaged must not stand in the way for ever.
    report_path(backbone).write_text('{"format": 1')
    assert plain(cached_report(backbone))["framing"] == first.framing
