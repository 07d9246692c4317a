"""Recipes on disk: read as they were written, named recipes, recipes of another backbone."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from freeret.cli import main
from freeret.recipe import Provenance, Recipe
from freeret.reports import recipe_for
from freeret.retriever import FreeRet
from probes import Backbone
from probes.errors import BadFile
from probes.geometry import GEOMETRY_KINDS
from tests.conftest import load_tiny
from tests.retrieve.test_recipe import chosen
from tests.stores import save_tiny


@pytest.mark.parametrize("geometry", GEOMETRY_KINDS)
@pytest.mark.parametrize(("frame", "fusion"), [("mcq", None), ("yes_no", 0.2), (None, None)])
def test_a_recipe_is_read_as_it_was_written(
    geometry: Any, frame: str | None, fusion: float | None, tmp_path: Path
) -> None:
    recipe = Recipe("e5v", "mlp[-2]", geometry, frame, fusion, reasons=("α fällt", "zwei"))
    loaded = Recipe.load(recipe.save(tmp_path / "recipe.json"))
    assert loaded == recipe
    assert loaded.reasons == recipe.reasons


MEASURED: dict[str, Any] = {
    "fingerprint": {"model": "made-up", "weights": "a0", "layers": 4, "versions": {}},
    "rounded": {"bfloat16": "b0", "float16": "c0"},
}


def test_a_saved_recipe_names_its_backbone(tmp_path: Path) -> None:
    recipe = chosen(**MEASURED)
    assert recipe.provenance == Provenance("made-up", ("a0", "b0", "c0"))
    saved = json.loads(recipe.save(tmp_path / "recipe.json").read_text())
    assert saved["provenance"] == {"model": "made-up", "weights": ["a0", "b0", "c0"]}
    assert Recipe.load(tmp_path / "recipe.json").provenance == recipe.provenance


def test_a_recipe_of_an_earlier_version_is_read_and_is_the_same(tmp_path: Path) -> None:
    recipe = chosen(**MEASURED)
    earlier = recipe.to_json()
    assert "provenance" not in earlier, "stores and result files stay as they were"
    (tmp_path / "recipe.json").write_text(json.dumps(earlier))
    loaded = Recipe.load(tmp_path / "recipe.json")
    assert loaded == recipe
    assert loaded.provenance is None


def test_a_recipe_of_another_backbone_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured, other = Backbone.load(save_tiny(tmp_path / "measured")), load_tiny("qwen2")
    weights = (measured.weights_digest("bfloat16"), "0")
    recipe = dataclasses.replace(
        Recipe("e5v", frame=None, reasons=("a figure",), why_not_reranked="AUC 0.51"),
        provenance=Provenance("measured", weights),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recipe_for(measured, recipe) is recipe
    with pytest.warns(UserWarning, match=f"measured on measured, and is used with {other.name}"):
        retriever = FreeRet(other, recipe)
    assert retriever.recipe == recipe
    assert retriever.recipe.reasons == (
        f"Measured on measured, and used with {other.name}.", "a figure",
    )  # fmt: skip
    assert retriever.recipe.why_not_reranked == "on measured, AUC 0.51"
    retriever.index(["a text"], tmp_path / "s")
    FreeRet.load(tmp_path / "s", other).search("a text", rerank=1)
    assert "not reranked: on measured, AUC 0.51" in caplog.text


@pytest.mark.parametrize("command", ["eval", "ablate"])
def test_the_commands_warn_of_a_recipe_of_another_backbone(
    command: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = dataclasses.replace(Recipe("e5v", frame=None), provenance=Provenance("other", ("0",)))
    model, file = save_tiny(tmp_path / "model"), recipe.save(tmp_path / "recipe.json")
    (tmp_path / "mine" / "documents").mkdir(parents=True)
    for name in "ab":
        (tmp_path / "mine" / "documents" / f"{name}.txt").write_text(f"the word {name}")
    query = {"id": "q", "text": "the word", "relevant": ["a.txt"]}
    (tmp_path / "mine" / "queries.jsonl").write_text(json.dumps(query))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit, match="0"):
            main(
                [command, f"folder:{tmp_path / 'mine'}", "--model", str(model),
                 "--recipe", str(file), "--out", str(tmp_path / "out")]
            )  # fmt: skip
    assert "the recipe was measured on other, and is used with" in caplog.text


def test_the_named_recipes() -> None:
    assert Recipe.paper() == Recipe("control", "attn[-1]", "none", "mcq")
    assert Recipe.e5v() == Recipe("e5v", "norm", "none", None)


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "nonsense"},
        {"prompt": None},
        {"site": "attn"},
        {"site": "layer[3]"},
        {"site": 3},
        {"geometry": "bent"},
        {"frame": "nonsense"},
        {"fusion": "much"},
        {"reasons": 5},
    ],
)
def test_a_recipe_with_unknown_names_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(Recipe().to_json() | change))
    with pytest.raises(BadFile, match=r"recipe\.json"):
        Recipe.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"mcq"'])
def test_a_file_of_another_kind_is_not_read_as_a_recipe(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(BadFile, match=r"recipe\.json"):
        Recipe.load(tmp_path / "recipe.json")
    with pytest.raises(BadFile, match="cannot read"):
        Recipe.load(tmp_path / "none.json")
