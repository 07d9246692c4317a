"""The backbone of a new store is the embedded one that reads what is to be stored."""

from pathlib import Path

import pytest
from PIL import Image

from freeret.scale.opening import model_for
from freeret.sources.files import Files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a text")
    (tmp_path / "mine" / "b.jsonl").write_text('{"text": "a row", "picture": "c.png"}\n')
    return tmp_path / "mine"


def test_texts_are_read_by_the_text_model(folder: Path) -> None:
    assert model_for(str(folder / "store"), None, Files([folder]).listing()) == "smollm2-135m"
    assert model_for(str(folder / "store"), None) == "smollm2-135m"


@pytest.mark.parametrize("name", ["c.png", "c.JPG", "c.mp4"])
def test_one_picture_or_clip_asks_for_a_model_that_sees(folder: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(folder / name, format="PNG")
    listing = Files([folder]).listing()
    assert model_for(str(folder / "store"), None, listing) == "smolsight"
    assert model_for(str(folder / "store"), "gemma3-270m", listing) == "gemma3-270m"


def test_a_column_of_pictures_does_so_too(folder: Path) -> None:
    listing = Files([folder], image_field="picture").listing()
    assert model_for(str(folder / "store"), None, listing) == "smolsight"
