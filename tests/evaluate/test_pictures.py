"""The pictures that come with the project: all there, read, called by their captions, licensed."""

import pytest
from PIL import Image

from freeret.evaluate.loaders import suite
from probes.data import PICTURES, everyday_captions, pictures
from probes.errors import BadSetting

FREE = {"CC0-1.0", "public domain", "CC-BY-2.0", "CC-BY-4.0", "Apache-2.0", "BSD-3-Clause", "MIT"}


def test_every_picture_is_listed_with_a_licence_that_lets_it_be_shipped() -> None:
    assert {row["file"] for row in pictures()} == {path.name for path in PICTURES.iterdir()}
    assert {row["licence"] for row in pictures()} == FREE
    assert all(row["source"] for row in pictures())
    assert len({row["caption"] for row in pictures()}) == len(pictures())
    assert sum(path.stat().st_size for path in PICTURES.iterdir()) < 3_000_000
    for row in pictures():
        with Image.open(PICTURES / row["file"]) as picture:
            assert max(picture.size) <= 384


def test_the_reference_captions_belong_to_no_picture() -> None:
    assert len(set(everyday_captions())) == 200
    assert not set(everyday_captions()) & {row["caption"] for row in pictures()}


@pytest.mark.parametrize(("kind", "count"), [("all", 63), ("photographs", 36), ("drawings", 27)])
def test_captions_find_pictures_and_pictures_captions(kind: str, count: int) -> None:
    searched, described = (load() for load in suite(f"pictures:{kind}"))
    assert len(searched.queries) == len(searched.documents) == count
    assert {item.signature for item in searched.queries} == {"text"}
    assert {item.signature for item in described.queries} == {"image"}
    cat = {str(item.id): item for item in searched.queries}.get("caption of cat.webp")
    if kind != "drawings":
        assert cat is not None
        assert cat.text == "a ginger tabby cat"
        assert searched.judgements["caption of cat.webp"] == {"cat.webp": 1}
        assert described.judgements["cat.webp"] == {"caption of cat.webp": 1}
    documents = {str(item.id): item for item in searched.documents}
    assert all(item.metadata["licence"] in FREE for item in documents.values())


def test_a_kind_of_pictures_that_there_is_not() -> None:
    with pytest.raises(BadSetting, match=r"'paintings'.*pictures:all, pictures:photographs"):
        suite("pictures:paintings")
