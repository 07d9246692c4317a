"""Formats read by optional packages: HEIC and the pages of PDF."""

import io
from collections.abc import Callable
from pathlib import Path

import pillow_heif
import pytest
from PIL import Image, ImageColor

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.files import Files
from freeret.store.table import Store
from probes.errors import BadItem
from probes.items import Item, as_item
from probes.media.images import read_image
from probes.media.sources import Limits
from tests.buckets import Bucket
from tests.samples import picture

COLOURS = ("red", "green", "blue")


def write_pdf(path: Path) -> Path:
    first, *rest = (Image.new("RGB", (120, 60), colour) for colour in COLOURS)
    first.save(path, save_all=True, append_images=rest)
    return path


def write_heic(path: Path) -> Path:
    pillow_heif.from_pillow(picture(64, 32)).save(path)
    return path


def opened(item: Item) -> Image.Image:
    value = item.media[0].value
    content = io.BytesIO(value.read_bytes() if isinstance(value, Path) else value)
    return read_image(content, Limits())


def test_every_page_of_a_pdf_is_a_picture(tmp_path: Path, bucket: Bucket) -> None:
    path = write_pdf(tmp_path / "a.PDF")
    for place in (tmp_path, path, bucket.put(tmp_path)):
        items = [item for item in Files([place]) if isinstance(item, Item)]
        assert [item.id for item in items] == [f"{tmp_path.name}/a.PDF:{n}" for n in (1, 2, 3)]
        assert str(items[2].source).endswith("/a.PDF:3")
        for item, colour in zip(items, COLOURS, strict=True):
            page = opened(item)
            assert page.size == (251, 126), "150 pixels per inch"
            shown = page.resize((1, 1), Image.Resampling.BOX, box=(9, 9, 99, 99)).getpixel((0, 0))
            expected = ImageColor.getrgb(colour)
            assert isinstance(shown, tuple)
            assert max(abs(a - b) for a, b in zip(shown, expected, strict=True)) < 9
    [small, *_] = Files([path], limits=Limits(pixels=500))
    assert isinstance(small, Item)
    assert opened(small).width * opened(small).height < 600


def test_a_broken_pdf_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7\n")
    write_pdf(tmp_path / "b.pdf")
    bad, *pages = Files([tmp_path], on_error="skip", folder_names=False)
    assert isinstance(bad, BadItem)
    assert bad.item == "a.pdf"
    assert len(pages) == 3


def test_heic_is_a_picture(tmp_path: Path) -> None:
    path = write_heic(tmp_path / "a.heic")
    [item] = Files([tmp_path])
    assert isinstance(item, Item)
    assert opened(item).size == (64, 32)
    assert as_item(path.read_bytes()).signature == "image"


def test_heic_and_pdf_are_indexed_and_pruned(tmp_path: Path, tiny: Callable) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_heic(folder / "a.heic")
    write_pdf(folder / "b.pdf")
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe.e5v())
    assert retriever.index(folder, tmp_path / "s").added == 4
    Image.new("RGB", (120, 60), "red").save(folder / "b.pdf")
    done = retriever.index(folder, prune=True)
    assert (done.unchanged + done.replaced, done.pruned) == (2, 2)
    assert Store.open(tmp_path / "s").vectors().ids == ["in/a.heic", "in/b.pdf:1"]
    with pytest.raises(BadItem, match="holds no file"):
        retriever.index(tmp_path / "s" / "items.lance" / "_versions")
