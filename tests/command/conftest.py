"""A model folder, a recipe and a store that tests of the commands share."""

from pathlib import Path

import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone
from tests.stores import save_tiny

ROWS = [{"id": f"r{k}", "text": f"{k} of the word", "year": 1990 + k} for k in range(12)]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    return Recipe("e5v", "attn[-1]", "none", "mcq").save(folder / "recipe.json")


@pytest.fixture(scope="session")
def store(model: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ROWS. Do not modify it."""
    folder = tmp_path_factory.mktemp("store")
    retriever = FreeRet(Backbone.load(model), Recipe.load(recipe))
    retriever.index(
        [{"id": r["id"], "text": r["text"], "metadata": {"year": r["year"]}} for r in ROWS], folder
    )
    return folder
