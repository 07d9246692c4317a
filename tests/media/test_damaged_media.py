"""Two hundred damaged media files: each is read, or refused by name while the rest is indexed."""

import resource
from pathlib import Path

import pytest
from PIL import Image

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.files import Files
from probes.errors import BadItem
from probes.media.sources import Limits, MediaOptions
from probes.model.backbone import Backbone
from tests.damage import WHOLE, write_damaged
from tests.models import MULTIMODAL

LIMITS = Limits(pixels=500_000, seconds=3, bytes=2**20)


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_damaged_files_are_read_or_refused_and_the_rest_is_indexed(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    write_damaged(folder)
    model, processor = MULTIMODAL["qwen2.5-omni"]()
    options = MediaOptions(limits=LIMITS, cache_bytes=2**20)
    backbone = Backbone.load(model, processor=processor, media=options)
    retriever = FreeRet(backbone, Recipe.e5v())
    before = peak()
    done = retriever.index(Files([folder], on_error="skip"), tmp_path / "store", on_error="skip")
    assert peak() - before < 300
    assert done.added + len(done.skipped) == 200 + WHOLE
    assert 100 <= len(done.skipped) <= 190
    assert not any(name.startswith("media/whole") for name in done.skipped)
    assert all(name in reason for name, reason in done.skipped.items())
    assert not any("Error(" in reason for reason in done.skipped.values())
    hits = retriever.search({"image": folder / "whole-4-0.png"}, top_n=500)
    assert len(hits) == done.added
    assert {hit.id for hit in hits}.isdisjoint(done.skipped)


def test_a_damaged_file_stops_the_index_by_default(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    retriever = FreeRet(Backbone.load(model, processor=processor), Recipe.e5v())
    with pytest.raises(BadItem, match=r"a\.png.*cannot read the image"):
        retriever.index(Files([tmp_path]), tmp_path / "store")


def test_pictures_of_any_shape_are_indexed_beside_damaged_ones(tmp_path: Path) -> None:
    shapes = [(1, 1), (31, 639), (4000, 10), (1, 4000), (4000, 3000)]
    for width, height in shapes:
        Image.new("RGB", (width, height), "teal").save(tmp_path / f"{width}x{height}.png")
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    retriever = FreeRet(Backbone.load(model, processor=processor), Recipe.e5v())
    done = retriever.index(Files([tmp_path], on_error="skip"), tmp_path / "store", on_error="skip")
    assert done.added == len(shapes)
    assert [name.rpartition("/")[2] for name in done.skipped] == ["damaged.png"]
