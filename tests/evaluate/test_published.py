"""`freeret eval` runs to its end on MMEB and MMEB-V2 as they are published, on the command line.

Every dataset, every modality mix and pictures of odd sizes, with a tiny random Qwen2.5-VL: what is
tested is that nothing of what is published stops a run.
"""

import shutil
from pathlib import Path

import pytest

from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb import v2 as mmeb_v2
from freeret.evaluate.results.file import Result
from tests import published
from tests.commands import run
from tests.models import MULTIMODAL

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    for part in MULTIMODAL["qwen2.5-vl"]():
        part.save_pretrained(folder)
    return folder


def evaluate(suite: str, model: Path, out: Path, *more: str) -> int:
    return run("eval", suite, "--model", model, "--system", "paper", "--out", out, *more)


def test_the_whole_of_mmeb_v2(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = published.mmeb_v2(tmp_path / "MMEB-V2")
    assert evaluate(f"mmeb-v2:{root}", model, tmp_path / "out") == 0
    result = Result.load(tmp_path / "out" / "paper.json")
    assert list(result.datasets) == list(mmeb_v2.NAMES)
    assert {entry.main for entry in result.datasets.values()} == {"P@1", "nDCG@5"}
    table = capsys.readouterr().out
    assert all(name in table for name in ("ChartQA", "MSR-VTT", "VisRAG_ChartQA", "mean over"))


def test_datasets_that_are_not_whole_end_with_their_names(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two have lost their tables and one a picture; the others are measured."""
    root = published.mmeb_eval(tmp_path / "MMEB-eval")
    shutil.rmtree(root / "NIGHTS")
    shutil.rmtree(root / "EDIS")
    (root / "eval_images" / "OVEN" / "Test" / "target_1.png").unlink()
    assert evaluate(f"mmeb:{root}", model, tmp_path / "out") == 1
    result = Result.load(tmp_path / "out" / "paper.json")
    assert list(result.datasets) == [
        name for name in mmeb.NAMES if name not in ("NIGHTS", "EDIS", "OVEN")
    ]
    output = capsys.readouterr()
    assert "NIGHTS, EDIS: no table below" in output.err
    assert "OVEN: 1 of 5 pictures are missing" in output.err
    assert output.err.count("get the dataset TIGER-Lab/MMEB-eval") == 1, "said once for all"
    assert "33 of 36 datasets" in output.out
    assert evaluate(f"mmeb:{root}/OVEN", model, tmp_path / "skip", "--skip-bad") == 0
    entry = Result.load(tmp_path / "skip" / "paper.json").datasets["OVEN"]
    assert [one.side for one in entry.skipped] == ["document"]
    assert "target_1.png" in entry.skipped[0].reason
