"""The model card of a report."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import freeret
from freeret.pages.card import model_card
from freeret.recipe import Recipe
from probes import ProbeReport
from probes.data import REPORTS
from tests.commands import run


@pytest.mark.parametrize("name", ["smollm2-135m", "smolsight", "gemma3-270m", "qwen2.5-coder-0.5b"])
def test_a_model_card_is_valid_for_the_hub(name: str) -> None:
    report = ProbeReport.load(REPORTS / f"{name}.json")
    text = model_card(report)
    card = ModelCard(text)
    data = card.data.to_dict()
    assert data["license"] == ("gemma" if "gemma" in name else "apache-2.0")
    assert data["base_model"].count("/") == 1
    assert {"sentence-similarity", "feature-extraction"} <= set(data["tags"])
    recipe = Recipe.from_report(report)
    assert all(reason in card.text.replace("&lt;", "<") for reason in recipe.reasons)
    assert report.fingerprint["weights"] in card.text
    [code] = [part.split("```")[0] for part in card.text.split("```python\n")[1:]]
    line = next(line for line in code.splitlines() if line.startswith("recipe = "))
    assert eval(line.removeprefix("recipe = "), {"freeret": freeret}) == recipe
    chosen = next(
        s for s in report.diagnostic
        if (s.prompt, s.site, s.geometry) == (recipe.prompt, recipe.site, recipe.geometry)
    )  # fmt: skip
    assert f"| this recipe | {chosen.precision} | {chosen.reciprocal_rank} |" in card.text


def test_a_card_says_what_the_model_reads_and_in_which_dtype(tmp_path: Path) -> None:
    tags = {
        name: ModelCard(model_card(ProbeReport.load(REPORTS / f"{name}.json"))).data.to_dict()[
            "tags"
        ]
        for name in ("smolsight", "smollm2-135m")
    }
    assert set(tags["smolsight"]) - set(tags["smollm2-135m"]) == {
        "multimodal", "image-feature-extraction",
    }  # fmt: skip
    data = json.loads((REPORTS / "smollm2-135m.json").read_text())
    data["fingerprint"]["dtype"] = "bfloat16"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(data))
    text = model_card(ProbeReport.load(file))
    loading = 'Backbone.load("smollm2-135m", dtype="bfloat16")'
    assert f"freeret.sentence_transformer({loading}, recipe)" in text
    assert "dtype=" not in model_card(ProbeReport.load(REPORTS / "smollm2-135m.json"))


def test_the_name_of_a_model_is_escaped_in_its_card(tmp_path: Path) -> None:
    """A card does not show the path of a model folder either."""
    data = json.loads((REPORTS / "smollm2-135m.json").read_text())
    data["fingerprint"]["model"] = "/home/someone/models/evil`\n# <script>\n---\nlicense: mit"
    file = tmp_path / "report.json"
    file.write_text(json.dumps(data))
    text = model_card(ProbeReport.load(file))
    assert "/home/someone" not in text
    assert "<script>" not in text.split("## Fingerprint")[0]
    card = ModelCard(text)
    assert "license" not in card.data.to_dict()
    assert "base_model" not in card.data.to_dict()
    assert not any(line.startswith("# &lt;script") for line in text.splitlines())


def test_a_card_is_written_by_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "README.md"
    run("card", REPORTS / "smollm2-135m.json", "--out", out)
    assert out.read_text() == model_card(ProbeReport.load(REPORTS / "smollm2-135m.json"))
    capsys.readouterr()
    run("card", REPORTS / "smollm2-135m.json")
    assert capsys.readouterr().out.startswith("---\nbase_model:")
