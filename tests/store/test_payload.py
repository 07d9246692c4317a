"""What comes back from a store is what was put in, for every form that media come in."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from freeret.store.payload import content_hash, pack, record_of, unpack
from probes.errors import BadItem
from probes.items import Item, Modality, Part
from probes.model.backbone import Backbone
from tests.samples import film, picture, png, sound

Tiny = Callable[[str], Backbone]
DATA_URL = "data:image/png;base64," + base64.b64encode(png(picture())).decode()


def turned() -> Image.Image:
    """A photograph whose EXIF says that it was taken sideways."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    picture(48, 32).save(file, "PNG", exif=exif)
    return Image.open(file)


FORMS: list[tuple[Modality, Any]] = [
    ("image", picture()),
    ("image", picture().convert("RGBA")),
    ("image", picture().convert("CMYK")),
    ("image", turned()),
    ("image", np.asarray(picture())),
    ("image", np.full((40, 40), 0.5)),
    ("image", png(picture())),
    ("image", DATA_URL),
    ("video", film()),
    ("video", list(film())),
    ("video", [Image.fromarray(frame) for frame in film()]),
    ("audio", sound()),
]


@pytest.mark.parametrize(("kind", "value"), FORMS)
def test_stored_media_are_what_they_were(kind: Modality, value: Any, tiny: Tiny) -> None:
    """The model sees the same pixels, frames and samples, so that cached features are used."""
    item = Item(parts=[Part("text", "abc"), Part(kind, value)], id="x", metadata={"y": 1})
    packed = pack(item)
    back = unpack("x", *packed)
    assert (back.id, back.text, back.metadata) == ("x", "abc", {"y": 1})
    backbone = tiny("qwen2.5-omni")
    before, after = backbone.row(item), backbone.row(back)
    assert before.ids == after.ids
    assert before.media[0].key == after.media[0].key
    assert content_hash(back, pack(back)) == content_hash(item, packed)


def test_files_and_addresses_stay_references(tmp_path: Path, monkeypatch: Any) -> None:
    """A path is found again from another working directory."""
    (tmp_path / "a.png").write_bytes(png(picture()))
    monkeypatch.chdir(tmp_path)
    item = Item(images=[Path("a.png"), "https://example.org/a.png"], id="x")
    packed = pack(item)
    assert packed.blobs == []
    values = [part.value for part in unpack("x", *packed).media]
    assert values == [tmp_path / "a.png", "https://example.org/a.png"]


def test_a_changed_file_is_a_changed_item(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    item = Item(images=[path], id="x")
    hashes = []
    for seed in (0, 0, 1):
        path.write_bytes(png(picture(seed=seed)))
        hashes.append(content_hash(item, pack(item)))
    assert hashes[0] == hashes[1] != hashes[2]
    path.unlink()
    with pytest.raises(BadItem, match="item 'x': cannot read"):
        content_hash(item, pack(item))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("image", 3),
        ("image", "a.png"),
        ("image", np.zeros(3)),
        ("video", []),
        ("video", Image.new("RGB", (4, 4))),
        ("audio", np.zeros(3)),
        ("audio", {"array": np.zeros(3)}),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(kind: Modality, value: Any) -> None:
    with pytest.raises(BadItem, match=f"item 'x': cannot read the {kind}"):
        pack(Item(parts=[Part(kind, value)], id="x"))
    with pytest.raises(BadItem, match=f"item 'x': cannot read {kind} 2 of 2"):
        pack(Item(parts=[Part(kind, b"kept as bytes"), Part(kind, value)], id="x"))


def roundtrip(item: Item) -> Item:
    return unpack("id", *pack(item))


def test_parts_keep_their_order_and_content(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    parts = [
        Part("text", "before 🙂\x00"),
        Part("image", Image.fromarray(noise)),
        Part("video", tmp_path / "clip.mp4"),
        Part("text", "after"),
        Part("image", Image.new("L", (3, 3), 7)),
    ]
    back = roundtrip(Item(parts=parts, metadata={"k": [1, None, "日"]}))
    assert [p.kind for p in back.parts] == [p.kind for p in parts]
    assert [back.parts[i].value for i in (0, 2, 3)] == [parts[i].value for i in (0, 2, 3)]
    assert np.array_equal(np.asarray(back.parts[1].value), noise)
    assert back.parts[4].value.getpixel((0, 0)) == (7, 7, 7)  # as the model sees it
    assert back.metadata == {"k": [1, None, "日"]}


def test_a_hash_tells_content_apart(tmp_path: Path) -> None:
    def digest(item: Item) -> str:
        return content_hash(item, pack(item))

    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4), "red").save(path)
    by_path = Item(parts=[Part("image", path)])
    first = digest(by_path)
    Image.new("RGB", (4, 4), "blue").save(path)
    different = [
        first,
        digest(by_path),
        digest(Item("a")),
        digest(Item("b")),
        digest(Item("a", metadata={"k": 1})),
        digest(Item("a", images=[Image.new("RGB", (4, 4), "red")])),
        digest(Item("a", images=[Image.new("RGB", (4, 4), "blue")])),
        digest(Item(parts=[Part("text", "a"), Part("text", "b")])),
        digest(Item("ab")),
    ]
    assert len(set(different)) == len(different)
    assert digest(Item("a", metadata={"x": 1, "y": 2})) == digest(
        Item("a", metadata={"y": 2, "x": 1}, id="other")
    )


def test_media_that_cannot_be_kept_is_named(tmp_path: Path) -> None:
    gone = Item(parts=[Part("image", tmp_path / "gone.png")], id="x")
    with pytest.raises(BadItem, match=r"'x': cannot read .*gone\.png"):
        content_hash(gone, pack(gone))
    with pytest.raises(BadItem, match="'x': cannot read the audio: a ndarray is not audio"):
        pack(Item(audios=[np.zeros(3)], id="x"))


def test_an_item_is_stored_with_its_words_and_a_picture_has_those_of_its_caption() -> None:
    picture = Image.new("RGB", (4, 4))
    assert record_of(Item("stale bread")).words == "stale bread"
    assert record_of(Item(parts=[Part("image", picture), Part("text", "a cat")])).words == "a cat"
    assert record_of(Item(images=[picture])).words == ""
