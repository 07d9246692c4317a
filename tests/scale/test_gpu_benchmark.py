"""`benchmarks/gpu.py` at tiny sizes on a CPU: every part runs, and all ways agree."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.layout import ROOT


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        importlib.import_module("gpu").main(["--tiny", "--out", str(out)])
    return json.loads(out.read_text())["parts"]


def leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Everything that a result holds, by where it stands."""
    if not isinstance(value, dict):
        return [(path, value)]
    return [leaf for key, inner in value.items() for leaf in leaves(inner, f"{path}/{key}")]


def test_every_part_runs_without_an_error(parts: dict[str, Any]) -> None:
    assert len(parts) == 8
    assert not [leaf for leaf in leaves(parts) if "error" in leaf[0].split("/")]


def test_the_trace_is_exact_and_all_ways_give_the_same_vectors(parts: dict[str, Any]) -> None:
    results = parts["qwen-exactness"]
    for kind in ("texts", "pictures"):
        assert results[f"{kind}: trace, largest error"] == 0.0
    distances = {name: d["max"] for name, d in results.items() if isinstance(d, dict)}
    assert len(distances) == 11
    assert max(distances.values()) < 1e-5


def test_margins_are_those_of_whole_prompts(parts: dict[str, Any]) -> None:
    found = dict(leaves(parts))
    differences = [v for path, v in found.items() if path.endswith("largest_difference")]
    assert len(differences) == 4
    assert max(differences) < 1e-4


def test_a_search_has_the_right_ids(parts: dict[str, Any]) -> None:
    right = {p: v for p, v in leaves(parts["search"]) if p.endswith("with the right ids")}
    assert sorted(right.values()) == [1, 4]


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")

    def fails(_: Any) -> Any:
        yield {"half": 1}
        raise ValueError("no more")

    monkeypatch.setitem(gpu.PARTS, "qwen-texts", ("", fails, 60))
    out = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--out", str(out), "--parts", "qwen-texts,search"])
    parts = json.loads(out.read_text())["parts"]
    assert (parts["qwen-texts"]["half"], parts["qwen-texts"]["error"]) == (1, "ValueError: no more")
    assert "error" not in parts["search"]
