"""Sizes of pictures and frames: settings, bounds, odd shapes, and media too long for a row."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Glm4vImageProcessor, Qwen2VLImageProcessor

from probes.errors import BadItem, BadSetting
from probes.items import Item
from probes.measure.framing import FRAMES
from probes.media.sources import MediaOptions
from probes.model.backbone import Backbone
from probes.model.encoding import Encoder, Row
from tests.media.states import apart, loaded, states
from tests.models import MULTIMODAL
from tests.samples import VIDEO, film, picture

Tiny = Callable[[str], Backbone]


SMALLER: dict[str, dict[str, Any]] = {
    "qwen2.5-vl": {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}},
    "qwen2.5-omni": {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}},
    "internvl": {"max_patches": 1},
    "smolvlm": {"do_image_splitting": False},
    "idefics3": {"do_image_splitting": False},
}


@pytest.mark.parametrize("name", SMALLER)
def test_the_size_of_pictures_can_be_set(name: str, tiny: Tiny) -> None:
    """The setting changes the fingerprint."""
    backbone = loaded(name, images=SMALLER[name])
    item = Item(images=[picture(128, 64)])
    assert len(backbone.row(item)) < len(tiny(name).row(item))
    assert backbone.fingerprint() != tiny(name).fingerprint()
    states(backbone, item)


def test_more_frames_make_a_longer_row(tiny: Tiny) -> None:
    backbone, item = loaded("qwen2.5-vl", frames=4), Item(videos=[film(12)])
    assert len(backbone.row(item)) < len(tiny("qwen2.5-vl").row(item))
    assert backbone.fingerprint() != tiny("qwen2.5-vl").fingerprint()


@pytest.mark.parametrize("settings", [{"max_pixels": 1000}, {"sise": {}}])
def test_a_setting_without_effect_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSetting, match=next(iter(settings))):
        loaded("qwen2.5-vl", images=settings)


ODD = [(1, 1), (2, 1), (3, 3), (31, 639), (4000, 10), (1, 4000), (4000, 3000)]
"""From one pixel to 12 million; Qwen's processors refuse a side above 200 times the other."""


HUB = {"shortest_edge": 56 * 56, "longest_edge": 16_384 * 28 * 28}
"""The size in the configuration of Qwen2.5-VL on the hub: 16,384 tokens per picture."""


def published(max_tokens: int = 32_768, **options: Any) -> Encoder:
    """An encoder of Qwen2.5-VL with its published picture sizes."""
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    processor = copy.copy(processor)
    processor.image_processor = Qwen2VLImageProcessor(size=HUB)
    return Encoder(model, processor.tokenizer, processor, max_tokens, MediaOptions(**options))


def blank(width: int, height: int, colour: str = "teal") -> Image.Image:
    return Image.new("RGB", (width, height), colour)


def pictured(encoder: Encoder, row: Row) -> int:
    """Tokens of a row that stand for pictures."""
    return row.ids.count(encoder.tokenizer.image_token_id)


@pytest.mark.parametrize("name", MULTIMODAL)
def test_pictures_of_every_shape_are_embedded(name: str, tiny: Tiny) -> None:
    items = [Item("what", images=[blank(*size)]) for size in ODD]
    found = states(tiny(name), *items)
    assert torch.isfinite(found).all()
    assert apart(found[3:4], states(tiny(name), items[3])) <= 1e-5


@pytest.mark.parametrize("name", VIDEO)
def test_frames_of_every_shape_are_embedded(name: str, tiny: Tiny) -> None:
    sizes = [size for size in ODD if size != (4000, 3000)]
    found = states(tiny(name), *(Item("what", videos=[film(2, *size)]) for size in sizes))
    assert torch.isfinite(found).all()


def test_a_frame_three_pixels_high_keeps_its_colours(tiny: Tiny) -> None:
    """Three rows could be mistaken for three channels, which would turn red into stripes."""
    red = np.zeros((2, 3, 60, 3), dtype=np.uint8)
    red[..., 0] = 255
    perception = tiny("qwen2-vl").encoder.perception
    assert perception is not None
    [piece] = perception.pieces(Item(videos=[red]).media, "red")
    held = perception.cache.get(piece.key)
    assert held is not None
    assert len(held.tensors["pixel_values_videos"].unique()) == 3


def test_a_picture_takes_no_more_tokens_than_in_the_benchmark() -> None:
    encoder = published()
    for size, tokens in (((3000, 4000), 1230), ((2000, 4200), 1224), ((600, 400), 294)):
        row = encoder.row(Item("what", images=[blank(*size)]))
        assert pictured(encoder, row) == tokens
        assert len(row) < tokens + 40
    assert encoder.perception is not None
    assert encoder.perception.options.identity()["max_pixels"] == 1280 * 28 * 28


def test_a_budget_that_counts_a_picture_as_two_frames_is_as_large() -> None:
    """As in GLM-4V, where the same number of pixels would give half as many tokens."""
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    processor = copy.copy(processor)
    processor.image_processor = Glm4vImageProcessor()
    encoder = Encoder(model, processor.tokenizer, processor, 32_768)
    assert 1200 < pictured(encoder, encoder.row(Item(images=[blank(3000, 4000)]))) <= 1280
    assert encoder.perception is not None
    assert encoder.perception.options.max_pixels == 1280 * 28 * 28


def test_the_user_can_bound_pictures() -> None:
    def tokens(**options: Any) -> int:
        encoder = published(**options)
        return pictured(encoder, encoder.row(Item(images=[blank(3000, 4000)])))

    assert tokens(max_pixels=200_000) == 234
    assert tokens(max_pixels=4000 * 28 * 28) == 3942
    assert tokens(images={"size": HUB}) == 15_301
    with pytest.raises(BadSetting, match="both bound pictures"):
        published(max_pixels=200_000, images={"size": HUB})
    with pytest.raises(BadSetting, match="max_pixels must be a whole number from 1 on"):
        published(max_pixels=0)


def test_a_processor_bound_below_the_default_is_kept(tiny: Tiny) -> None:
    perception = tiny("qwen2.5-vl").encoder.perception
    assert perception is not None
    assert "max_pixels" not in perception.options.identity()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_every_family_respects_max_pixels(name: str, tiny: Tiny) -> None:
    """In tokens or in resolution; the setting changes the fingerprint."""
    backbone, detail = loaded(name, max_pixels=400), Item(images=[picture(64, 64)])
    assert apart(states(backbone, detail), states(tiny(name), detail)) > 1e-3
    assert backbone.fingerprint()["media"] == tiny(name).fingerprint()["media"] | {
        "max_pixels": 400
    }
    small = Item(images=[picture(16, 16)])
    assert len(backbone.row(small)) <= len(tiny(name).row(detail))
    if name not in ("qwen2-vl", "qwen2.5-vl", "qwen3-vl", "qwen2.5-omni"):
        assert torch.equal(states(backbone, small), states(tiny(name), small))


@pytest.mark.parametrize("name", VIDEO)
def test_max_pixels_applies_to_frames(name: str, tiny: Tiny) -> None:
    backbone, item = loaded(name, max_pixels=400), Item(videos=[film(4, 64, 64)])
    assert apart(states(backbone, item), states(tiny(name), item)) > 1e-3


def test_pictures_too_long_for_a_row_are_made_smaller(caplog: pytest.LogCaptureFixture) -> None:
    """A single picture, and five together, of which the small one keeps its size."""
    encoder = published(4096, images={"size": HUB})
    large, small = blank(1700, 2200), blank(280, 280)
    row = encoder.row(Item("what", images=[large], id="q7"))
    assert 3500 < len(row) <= 4096
    assert re.search(r"item 'q7': its media are scaled down, 4819 to \d{4} tokens", caplog.text)
    five = encoder.row(Item("which", images=[large, small, large, large, large], id="q8"))
    assert 3500 < len(five) <= 4096
    assert five.media[1].processed.text.count("<|image_pad|>") == 100
    assert "item 'q8': its media are scaled down" in caplog.text


def test_two_pictures_and_a_long_text_share_a_prompt() -> None:
    """A query and its candidate, each of which fits alone."""
    encoder = published(2048, images={"size": HUB})
    query = Item("word " * 5000, images=[blank(900, 900)])
    candidate = Item(images=[blank(840, 980)])
    for prompt in (
        FRAMES["mcq"].apply(candidate, candidate),
        FRAMES["mcq"].apply(query, candidate),
    ):
        row = encoder.row(prompt)
        assert len(row) <= 2048
        assert encoder.tokenizer.decode(row.ids).endswith("Answer:")
    texts = encoder.tokenizer.decode(row.ids).count("word")
    assert texts > 700, "the text is not lost to the pictures"


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl", "idefics3", "llava-onevision"])
def test_a_picture_made_smaller_has_fewer_tokens(name: str, tiny: Tiny) -> None:
    """Already after one step, even if it is much larger than the size of its processor."""
    perception = tiny(name).encoder.perception
    assert perception is not None
    [piece] = perception.pieces(Item(images=[blank(1200, 1200)]).media, "item")
    smaller = perception.smaller(piece, 0.5)
    assert 0 < len(smaller.processed.text) <= 0.6 * len(piece.processed.text)
    assert smaller.key != piece.key


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl", "idefics3", "smolvlm"])
def test_a_row_made_to_fit_does_not_depend_on_its_batch(name: str) -> None:
    """The cache keeps two sizes of the same picture apart."""
    model, processor = MULTIMODAL[name]()
    backbone = Backbone.load(model, processor=processor)
    alone = Item("w", images=[picture(64, 48)])
    many = Item("w", images=[picture(64, 48), picture(48, 64, 1), picture(64, 64, 2)])
    limit = len(backbone.row(alone)) + 20
    backbone.encoder.max_tokens = limit
    first = states(backbone, alone)
    together = states(backbone, many, alone)
    assert max(backbone.encode([many, alone]).lengths) <= limit
    assert apart(together[1:], first) <= 1e-5
    assert apart(together[:1], states(loaded_with(name, limit), many)) <= 1e-5


def loaded_with(name: str, max_tokens: int) -> Backbone:
    backbone = loaded(name)
    backbone.encoder.max_tokens = max_tokens
    return backbone


def test_media_that_no_size_makes_fit_are_refused_by_name(tiny: Tiny) -> None:
    model, processor = MULTIMODAL["llava"]()
    encoder = Encoder(model, processor.tokenizer, processor, max_tokens=60)
    item = Item("w", images=[picture(seed=i) for i in range(5)], id="q7")
    with pytest.raises(BadItem, match=r"item 'q7': its prompt and media need \d+ of 60 tokens"):
        encoder.row(item)
