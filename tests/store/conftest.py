"""Fixtures that tests of the store share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freeret.store.table import Store
from probes import Backbone
from tests.store.records import IDENTITY, PLAIN, SIZE
from tests.stores import save_tiny


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.create(tmp_path / "store", IDENTITY, SIZE)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a tiny random model."""
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return PLAIN.save(tmp_path / "recipe.json")


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often a backbone was loaded."""
    loaded: list[Any] = []
    monkeypatch.setattr(Backbone, "load", lambda *given, **_: loaded.append(given))
    return lambda: len(loaded)
