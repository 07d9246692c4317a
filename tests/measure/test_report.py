"""A report says the same after it was written and read, and a damaged one is not believed."""

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeret.recipe import Recipe
from freeret.reports import known_report, named_recipe, report_of, report_path
from freeret.retriever import FreeRet
from probes import Backbone, MediaOptions, ProbeReport, probe
from probes.data import REPORTS, matches
from probes.embedded import ALIASES
from probes.errors import BadFile
from probes.measure.diagnostic.hybrid import Hybrid
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.diagnostic.splitting import Splitting
from probes.measure.framing import FrameBias
from probes.measure.injection import Injection
from probes.measure.lexicalization import PROMPT_KINDS, Curves
from probes.measure.parts import PARTS
from probes.measure.reranking import Fusion
from probes.measure.run import _MEASURES, DTYPES
from probes.measure.synonyms import SynonymSimilarity
from probes.stats import Interval, mean_interval
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import few_texts
from tests.stores import save_tiny

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


def setting(
    prompt: str, site: str, geometry: Any, quality: float, half: float = 0.02
) -> DiagnosticScore:
    return DiagnosticScore(prompt, site, geometry, around(0.5), around(quality, half), around(0.6))


def frame_bias(name: str, area: float, half: float = 0.05) -> FrameBias:
    return FrameBias(
        name, 0.7, 0.8, around(0.6), around(0.65), around(area, half), 0.55, single_token=True
    )


def make_report(**changes: Any) -> ProbeReport:
    """A whole report, in which the recipe is prompteol at mlp[-1], whitened, with true_false, and
    words have a weight of 0.2."""
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
        splitting=[Splitting(50, around(0.9), around(0.06))],
        hybrid=[
            Hybrid(queries, weight, around(0.9), around(vectors), around(0.05))
            for queries, weight, vectors in [
                ("paraphrases", 0.2, 0.00),
                ("paraphrases", 0.5, -0.10),
                ("passages", 0.2, 0.06),
                ("passages", 0.5, 0.07),
            ]
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
    """The contents of a report as values that compare."""
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


def test_a_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
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


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"cannot read .*none\.json"):
        ProbeReport.load(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["[]", "null", '{"format": 2}', '{"format": 3}', "\xff"])
def test_a_file_of_another_format_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadFile, match=r"report\.json"):
        ProbeReport.load(tmp_path / "report.json")


SAVED = (
    "fingerprint",
    "curves",
    "synonyms",
    "framing",
    "diagnostic",
    "hybrid",
    "injection",
    "seed",
)


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
    few_texts(monkeypatch, 10)
    monkeypatch.setattr("probes.measure.reranking.QUERIES", 5)
    pairs = sorted(matches(), key=lambda r: (r["query"], r["match"]))[:12]
    for module in ("framing", "judges.heads", "injection"):
        monkeypatch.setattr(f"probes.measure.{module}.matches", lambda: pairs)


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("few", "cache")
def test_a_backbone_is_probed_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "freeret.reports")
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    assert known_report(backbone) is None
    first = report_of(backbone)
    assert {record.levelno for record in caplog.records} == {logging.INFO}, "probing is no fault"
    assert re.search(r"takes (less than a minute|about \d+ min) here", caplog.text)
    for said in ("recipe `paper`", str(report_path(backbone))):
        assert said in caplog.text
    caplog.clear()
    assert plain(report_of(backbone)) == plain(first)
    assert caplog.records == []
    # A kept report that was damaged must not stand in the way for ever.
    report_path(backbone).write_text('{"format": 1')
    assert plain(report_of(backbone))["framing"] == first.framing


@pytest.mark.usefixtures("cache")
def test_a_report_serves_the_same_weights_under_any_name_and_settings(tmp_path: Path) -> None:
    """A copy of the folder, half the precision of weights that have no more, eager attention."""
    model = TEXT["llama"].__wrapped__()
    for weight in model.parameters():  # bfloat16 holds these exactly
        weight.data = weight.data.bfloat16().float()
    for folder in ("first", "second"):
        model.save_pretrained(tmp_path / folder)
        tokenizer().save_pretrained(tmp_path / folder)
    first = Backbone.load(tmp_path / "first")
    make_report(fingerprint=first.fingerprint()).save(report_path(first))
    others = [
        Backbone.load(tmp_path / "second"),
        Backbone.load(tmp_path / "first", dtype="bfloat16"),
        Backbone.load(tmp_path / "first", attn_implementation="eager"),
        Backbone.load(model, tokenizer=tokenizer()),
    ]
    for other in others:
        found = known_report(other)
        assert found is not None, other.fingerprint()
        assert found.fingerprint["model"] == str(tmp_path / "first")


@pytest.mark.usefixtures("cache")
def test_a_shipped_report_serves_its_weights_as_each_dtype_rounds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the tiny model are drawn in float32: no half precision holds them exactly."""
    save_tiny(tmp_path / "model")
    backbone = Backbone.load(tmp_path / "model")
    for part in PARTS:
        value = getattr(make_report(), part)
        monkeypatch.setitem(_MEASURES, part, lambda *_, value=value: value)
    report = probe(backbone)
    monkeypatch.setattr("freeret.reports.REPORTS", tmp_path / "shipped")
    shipped = report.save(tmp_path / "shipped" / "tiny.json")
    assert known_report(Backbone.load(TEXT["qwen2"](), tokenizer=tokenizer())) is None
    for dtype in DTYPES:
        halved = Backbone.load(tmp_path / "model", dtype=dtype)
        assert halved.weights_digest() != backbone.weights_digest()
        found = known_report(halved)
        assert found is not None, dtype
        assert plain(found) == plain(report)
    dataclasses.replace(report, rounded={}).save(shipped)
    assert known_report(backbone) is not None
    for dtype in DTYPES:
        unknown = Backbone.load(tmp_path / "model", dtype=dtype)
        assert known_report(unknown) is None, "it would be found without its rounded checksums"
    shipped.unlink()
    for dtype in DTYPES:
        halved = Backbone.load(tmp_path / "model", dtype=dtype)
        measured = dataclasses.replace(report, fingerprint=halved.fingerprint(), rounded={})
        measured.save(shipped)
        found = known_report(backbone)
        assert found is not None, f"measured in {dtype}, opened in float32"
        assert plain(found) == plain(measured)
        shipped.unlink()


@pytest.mark.usefixtures("cache")
def test_a_report_serves_no_other_weights_tokenizer_or_pictures(tmp_path: Path) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    make_report(fingerprint=backbone.fingerprint()).save(report_path(backbone))
    assert known_report(backbone) is not None
    changed = TEXT["llama"].__wrapped__()
    changed.lm_head.weight.data[0] += 1
    for other in (
        Backbone.load(changed, tokenizer=tokenizer()),
        Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=False)),
        Backbone.load(TEXT["qwen2"](), tokenizer=tokenizer()),
    ):
        assert known_report(other) is None
    model, processor = MULTIMODAL["qwen2-vl"]()
    seeing = Backbone.load(model, processor=processor)
    make_report(fingerprint=seeing.fingerprint()).save(report_path(seeing))
    frames, small = (
        MediaOptions(frames=2),
        MediaOptions(images={"size": {"shortest_edge": 784, "longest_edge": 3136}}),
    )
    assert known_report(Backbone.load(model, processor=processor, media=frames)) is not None
    assert known_report(Backbone.load(model, processor=processor, media=small)) is None


@pytest.mark.usefixtures("cache")
def test_embedded_backbones_come_with_their_report(
    smollm2: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {path.stem for path in REPORTS.glob("*.json")} == set(ALIASES)
    shipped = ProbeReport.load(REPORTS / "smollm2-135m.json")
    monkeypatch.setattr("freeret.reports.probe", None)  # it would be an error to probe
    found = report_of(smollm2)
    assert plain(found) == plain(shipped)
    assert FreeRet(smollm2).recipe == Recipe.from_report(shipped)
    # A measurement of one's own comes first.
    make_report(fingerprint=smollm2.fingerprint()).save(report_path(smollm2))
    assert plain(report_of(smollm2)) == plain(make_report(fingerprint=smollm2.fingerprint()))


@pytest.mark.usefixtures("few", "cache")
def test_probing_shows_one_bar_over_all_parts(
    tiny: Callable[[str], Backbone], capsys: pytest.CaptureFixture[str]
) -> None:
    probe(tiny("llama"), progress=True)
    err = capsys.readouterr().err
    shown = [line for line in err.replace("\n", "\r").split("\r") if line.strip()]
    assert all(line.startswith(f"probing {tiny('llama').name}: ") for line in shown), "nested bars"
    assert "0%" in shown[0]
    assert "100%" in shown[-1]
    assert all(" left" in line for line in shown)
    for part in PARTS:
        assert part in err


def test_recipes_have_the_same_names_everywhere(tmp_path: Path) -> None:
    chosen = Recipe("e5v", "attn[-2]", "centre", None)
    assert named_recipe("auto") is None
    assert named_recipe("paper") == Recipe.paper()
    assert named_recipe(str(chosen.save(tmp_path / "recipe.json"))) == chosen
    with pytest.raises(BadFile, match="cannot read Paper"):
        named_recipe("Paper")
