"""`freeret lens` prints the table, or lines of JSON, and writes pages and figures."""

import json
from pathlib import Path

import pytest
from PIL import Image

from probes import Backbone, lens
from tests.commands import run
from tests.samples import picture

TEXT = "The capital of France is"
MODEL = ("--model", "smollm2-135m")


def test_the_table_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lens", TEXT, *MODEL, "--sites", "attn[-1], norm") == 0
    printed = capsys.readouterr().out
    assert "after token 4 of 5: ␣is" in printed
    assert "␣Paris 0.77" in printed
    assert "attn[29]" in printed
    assert run("lens", TEXT, *MODEL, "--sites", "norm", "--positions", 3) == 0
    printed = capsys.readouterr().out
    assert "tokens 2–4 of 5" in printed
    assert "␣of 0.71" not in printed
    assert "␣is 0.64" in printed


def test_json_and_files_hold_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, smollm2: Backbone
) -> None:
    page, figure = tmp_path / "lens.html", tmp_path / "lens.png"
    options = (*MODEL, "--sites", "norm", "--top", 2)
    assert run("lens", TEXT, *options, "--positions", 2, "--json", "--out", page) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = list(lens(smollm2, TEXT, sites="norm", top=2).cells())[-2:]
    for line, cell in zip(lines, expected, strict=True):
        assert line.keys() == cell.keys()
        assert [word for word, _ in line["top"]] == [word for word, _ in cell["top"]]
        for name in ("position", "entropy", "alpha", "beta"):
            assert line[name] == pytest.approx(cell[name], abs=1e-4)
    assert page.read_text().count("<td") == 5, "the page holds all positions"
    assert run("lens", TEXT, *options, "--out", figure) == 0
    with Image.open(figure) as image:
        assert image.width > 300


def test_a_picture_is_read_under_a_prompt(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture(64, 64).save(tmp_path / "picture.png")
    arguments = ("--image", tmp_path / "picture.png", "--model", "smolsight", "--prompt", "e5v")
    assert run("lens", *arguments, "--sites", "norm", "--content", "--positions", 40) == 0
    assert "⟨image⟩" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to look at"),
        (("x", "--image", "none.png"), "there is no picture at none.png"),
        (("x", "--sites", "head"), "'head' is not a site"),
        (("x", "--prompt", "none"), "there is no prompt 'none'"),
        (("x", "--out", "lens.txt"), "the ending of --out must be one of .html"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("lens", *arguments) == 1
    assert message in capsys.readouterr().err
