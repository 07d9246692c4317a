"""Figures as files: the same figure is the same file, in the formats asked for."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from probes import plots
from tests.plots.drawn import curves


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    first, second = (
        plots.save(plots.curves_figure({"One": curves()}), tmp_path / name / "qwen2.5")
        for name in ("a", "b")
    )
    assert [path.name for path in first] == ["qwen2.5.png", "qwen2.5.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted((tmp_path / "a").iterdir()) == first, "something else was left behind"
    svg = first[1].read_text(encoding="utf-8")
    assert "dc:date" not in svg
    assert "Matplotlib" not in svg
    with Image.open(first[0]) as picture:
        assert picture.size == (round(5.1 * 150), round(6.0 * 150))
        assert not picture.info.keys() & {"Software", "Creation Time"}


def test_another_figure_is_another_file(tmp_path: Path) -> None:
    one, other = (
        plots.save(plots.draw_alpha(curves(seed=seed)).figure, tmp_path / str(seed))
        for seed in (0, 1)
    )
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "formats", "files"),
    [
        ("cf.pdf", ["pdf"], ["cf.pdf"]),
        ("cf.pdf", None, ["cf.pdf"]),
        ("cf.pdf", ["png", "svg"], ["cf.png", "cf.svg"]),
        ("qwen2.5", None, ["qwen2.5.png", "qwen2.5.svg"]),
    ],
)
def test_a_suffix_names_a_format(name: str, formats: Any, files: list[str], tmp_path: Path) -> None:
    written = plots.save(plots.draw_norms(curves()).figure, tmp_path / name, formats)
    assert [path.name for path in written] == files
