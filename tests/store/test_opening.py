"""A store is opened for indexing with its own recipe, unless another one is asked for."""

from dataclasses import replace
from pathlib import Path

import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.opening import Opening
from freeret.store.table import Store
from probes import Backbone, Loading
from tests.commands import run
from tests.stores import save_tiny


def test_a_task_replaces_that_of_the_recipe_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --recipe the store's own is meant, with a task as without one: nothing is probed."""
    monkeypatch.setattr("freeret.reports.report_of", lambda _: pytest.fail("probed"))
    model = save_tiny(tmp_path / "model")
    made = Recipe("control", "attn[-1]", "centre", None, task="caption")
    FreeRet(Backbone.load(model), made).index(["a text", "another"], tmp_path / "s")
    for task in (None, "caption", "question"):
        _, recipe = Opening(str(tmp_path / "s"), str(model), Loading(), task=task).load()
        assert recipe == replace(made, task=task or "caption")
    _, recipe = Opening(str(tmp_path / "s"), str(model), Loading(), passage=50).load()
    assert recipe == replace(made, passage=50)
    (tmp_path / "new.txt").write_text("another word")
    again = ("index", tmp_path / "new.txt", "--store", tmp_path / "s", "--task")
    assert run(*again, "caption") == 0
    assert len(Store.open(tmp_path / "s")) == 3
    assert run(*again, "question") == 1
