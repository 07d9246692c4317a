"""Pictures, films and sounds for tests, and which family reads which."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from probes.data import paraphrases, passages
from probes.items import Item, Part
from tests.models import MULTIMODAL

VIDEO = ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen2.5-omni", "internvl", "llava-onevision")
READS: dict[str, set[str]] = {name: {"image"} for name in MULTIMODAL}
for _name in (*VIDEO, "smolvlm"):
    READS[_name] = {"image", "video"}
READS["qwen2.5-omni"] = {"image", "video", "audio"}


def picture(width: int = 48, height: int = 48, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed)
    return Image.fromarray(noise.integers(256, size=(height, width, 3), dtype=np.uint8))


def film(frames: int = 4, width: int = 48, height: int = 32, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed)
    return noise.integers(256, size=(frames, height, width, 3), dtype=np.uint8)


def sound(seconds: float = 0.6, seed: int = 0) -> dict[str, Any]:
    noise = np.random.default_rng(seed)
    return {"array": noise.uniform(-0.5, 0.5, int(seconds * 16_000)), "sampling_rate": 16_000}


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def text(content: str) -> Part:
    return Part("text", content)


ITEMS: dict[str, Item] = {
    "picture": Item("what is it", images=[picture()]),
    "pictures": Item("two of them", images=[picture(64, 32, 1), picture(32, 32, 2)]),
    "interleaved": Item(
        parts=[text("the word"), Part("image", picture(48, 64, 3)), text("one of"),
               Part("image", picture(64, 32, 1)), text("user")]
    ),
    "film": Item("what moves", videos=[film()]),
    "films": Item("two of them", videos=[film(6, seed=1), film(2, 32, 64, seed=2)]),
    "still": Item("one frame", videos=[film(1, seed=3)]),
    "picture and film": Item(
        parts=[Part("video", film(seed=4)), text("after the"), Part("image", picture(seed=4))]
    ),
    "sound": Item("what is heard", audios=[sound()]),
    "sounds": Item("two of them", audios=[sound(1.3, 1), sound(0.3, 2)]),
    "all": Item(
        parts=[Part("audio", sound(0.4, 3)), text("of"), Part("image", picture(seed=5)),
               text("and"), Part("video", film(3, seed=5)), text("all")]
    ),
}  # fmt: skip


def items_for(family: str) -> dict[str, Item]:
    """The samples that a family reads."""
    return {
        name: item
        for name, item in ITEMS.items()
        if {part.kind for part in item.media} <= READS[family]
    }


def few_texts(monkeypatch: pytest.MonkeyPatch, sentences: int, long: int = 3) -> None:
    """The probes over the first paraphrases and passages, to be quick."""
    rows, texts = paraphrases()[:sentences], passages()[:long]
    for module in ("diagnostic.sets", "lexicalization"):
        monkeypatch.setattr(f"probes.measure.{module}.paraphrases", lambda: rows)
    monkeypatch.setattr("probes.measure.diagnostic.sets.passages", lambda: texts)
    monkeypatch.setattr("probes.measure.judges.heads.paraphrases", lambda: rows)
