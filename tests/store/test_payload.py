"""What comes back from a store is what was put in, for every form that media come in."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from freeret.store.payload import content_hash, pack, unpack
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
    """To the model: the same pixels, frames and samples, hence features that are known already."""
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
