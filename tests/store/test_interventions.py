"""A store made, or opened, while a backbone is changed."""

from pathlib import Path

import pytest

from freeret import FreeRet, Recipe
from probes import Backbone, intervene, skip
from probes.errors import StoreMismatch
from tests.stores import save_tiny

PLAIN = Recipe("e5v", "attn[-1]", "centre", None)


def test_an_intervention_is_a_setting_of_the_store(tmp_path: Path) -> None:
    """Else vectors of a changed model would lie among those of the untouched one, unnoticed."""
    backbone = Backbone.load(save_tiny(tmp_path / "model"))
    retriever = FreeRet(backbone, PLAIN)
    untouched, changed = tmp_path / "untouched", tmp_path / "changed"
    retriever.index(["of the word", "a word of it"], untouched)
    with intervene(backbone, {"mlp[-1]": skip}):
        with pytest.raises(StoreMismatch, match=r"interventions none, now mlp\[\d+\] at all"):
            retriever.index(["the other word"])
        with pytest.raises(StoreMismatch, match="interventions none"):
            FreeRet.load(untouched, backbone)
        FreeRet(backbone, PLAIN).index(["the word"], changed)
    with pytest.raises(StoreMismatch, match="now none"):
        FreeRet.load(changed, backbone)
    assert len(FreeRet.load(untouched, backbone).search("word")) == 2
