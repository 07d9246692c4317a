"""`freeret models` lists the embedded backbones without loading one."""

import pytest

from probes import Backbone
from probes.embedded import ALIASES
from tests.command.test_cli import imported
from tests.commands import json_rows, run

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_models_are_listed_without_loading_one(smollm2: Backbone) -> None:
    code, said, packages = imported("models", "--json")
    assert (code, packages) == (0, set()), said
    assert ALIASES["smollm2-135m"].dimension == smollm2.hidden_size
    assert ALIASES["smollm2-135m"].parameters == sum(p.numel() for p in smollm2.model.parameters())


def test_the_table_of_models_says_what_each_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models", "--json") == 0
    rows = {row["alias"]: row for row in json_rows(capsys)}
    assert rows.keys() == ALIASES.keys()
    assert rows["smolsight"]["reads"] == ["text", "image"]
    assert rows["gemma3-270m"]["licence"] == "Gemma Terms of Use"
    assert all(row["report"] for row in rows.values())
    perception = Backbone.load("smolsight").encoder.perception
    assert perception is not None
    assert {"text", *perception.kinds} == set(rows["smolsight"]["reads"])
