"""The commands `eval`, `ablate` and `compare`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from freeret.evaluate.results.file import Result
from tests.commands import own_lines, run
from tests.evaluate.small import RECIPE, words
from tests.stores import save_tiny


def without_timings(file: Path) -> str:
    data = json.loads(file.read_text())
    assert data.pop("timings")
    return json.dumps(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a recipe and a BEIR folder on disk."""
    root = tmp_path_factory.mktemp("place")
    save_tiny(root / "model")
    RECIPE.save(root / "recipe.json")
    for name, count in (("one", 100), ("two", 100)):
        folder = root / name
        (folder / "qrels").mkdir(parents=True)
        rows = [{"_id": f"d{i}", "text": words(i)} for i in range(count)]
        (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
        rows = [{"_id": f"q{i}", "text": words(i)} for i in range(10)]
        (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)))
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(10))
        (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return root


def arguments(place: Path, out: Path, *more: Any) -> list[Any]:
    return ["eval", f"beir:{place}/one", f"paraphrases:{place}/two", "--model", place / "model",
            "--recipe", place / "recipe.json", "--out", out, *more]  # fmt: skip


def test_eval_and_compare_as_commands(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems = ["--system", "recipe", "--system", "bm25", "--rerank", "2,4"]
    assert run(*arguments(place, tmp_path, *systems)) == 0
    said = capsys.readouterr().out
    assert "1.000 [1.000, 1.000]" in said
    assert "mean over" not in said, "two metrics have no mean"
    assert all(f" {metric} " in said for metric in ("nDCG@10", "P@1"))
    names = {"recipe.json", "recipe-top2.json", "recipe-top4.json", "bm25.json"}
    assert {file.name for file in tmp_path.glob("*.json")} == names
    assert run("compare", tmp_path / "recipe.json", tmp_path / "bm25.json") == 0
    assert "+0.000 [+0.000, +0.000]" in capsys.readouterr().out


def test_ablate_as_a_command(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("ablate", f"beir:{place}/one", "--model", place / "model", "--recipe",
               place / "recipe.json", "--prompt", "control, no task",
               "--out", tmp_path) == 0  # fmt: skip
    said = capsys.readouterr().out
    assert "control, no task" in said
    assert "regret" in said
    assert "AUC" not in said, "nothing was reranked"
    assert {f.name for f in tmp_path.iterdir()} == {
        "ablation.json", "ablation-one.png", "ablation-one.svg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["eval"], "name at least one suite"),
        (["eval", "nonsense:x"], "is not a suite"),
        (["eval", "beir:/nowhere"], "beir-cellar"),
        (["eval", "PLACE", "--system", "nonsense"], "no system 'nonsense'"),
        (["eval", "PLACE", "--system", "bm25", "--rerank", "five"], "--rerank takes depths"),
        (["compare", "none.json", "none.json"], "cannot read"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    bad: list[str], said: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*[f"beir:{place}/one" if a == "PLACE" else a for a in bad]) == 1
    lines = own_lines(capsys.readouterr().err)
    assert len(lines) == 1
    assert said in lines[0]


def test_a_killed_evaluation_ends_in_the_same_file(place: Path, tmp_path: Path) -> None:
    """Killed as soon as the first dataset is written, and run again with the same command."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(*arguments(place, whole, "--rerank", "3")) == 0
    command = [sys.executable, "-m", "freeret",
               *map(str, arguments(place, cut, "--rerank", "3"))]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"},
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    limit = time.monotonic() + 600
    while not (cut / "recipe.json").exists() and time.monotonic() < limit:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(Result.load(cut / "recipe.json").datasets) == ["one"], "killed in the middle"
    assert run(*arguments(place, cut, "--rerank", "3")) == 0
    for name in ("recipe.json", "recipe-top3.json"):
        assert without_timings(cut / name) == without_timings(whole / name)
    for name in ("one", "two"):
        left, right = (out / "recipe-top3" / f"{name}.trec" for out in (cut, whole))
        assert left.read_bytes() == right.read_bytes()


def test_bm25_loads_no_model(place: Path, tmp_path: Path) -> None:
    assert run("eval", f"beir:{place}/one", "--model", "/nowhere", "--system", "bm25",
               "--out", tmp_path) == 0  # fmt: skip
    assert Result.load(tmp_path / "bm25.json").fingerprint is None
