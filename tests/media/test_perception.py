"""States of media equal those of transformers alone; each medium is encoded once, and independently
of its row and batch."""

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import Glm4vImageProcessor, Qwen2VLImageProcessor

from probes.errors import BadItem, BadSetting, UnsupportedBackbone
from probes.items import Item, Part
from probes.measure.framing import FRAMES
from probes.media.cache import Cache, Processed
from probes.media.sources import Limits, MediaOptions
from probes.model.backbone import Backbone
from probes.model.encoding import Encoder, Row
from probes.model.trace import record
from probes.prompts import ControlPrompt, Prompted
from tests.models import MULTIMODAL
from tests.samples import ITEMS, READS, VIDEO, film, items_for, picture, png, sound, text

Tiny = Callable[[str], Backbone]
SITES = ["attn[0]", "attn[-1]", "norm"]
CASES = [(name, form) for name in MULTIMODAL for form in items_for(name)]
RICHEST = [(name, list(items_for(name))[-1]) for name in MULTIMODAL]
APART = {"films": {"internvl", "llava-onevision", "smolvlm"}, "picture and film": {"smolvlm"}}
"""Processors that fail in one call on videos of unequal length, or on pictures beside videos."""
PLAIN = [(name, form) for name, form in CASES if name not in APART.get(form, ())]


def states(backbone: Backbone, *sources: Any) -> Tensor:
    recorded = record(backbone, backbone.encode(sources), SITES)
    return torch.cat([recorded[site] for site in SITES], dim=-1)


def apart(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm(dim=-1) / right.norm(dim=-1)).max().item()


def by_transformers(backbone: Backbone, item: Item) -> Tensor:
    """States by transformers alone: the item as a chat, through template, processor and model."""
    content, images, videos, audio = [], [], [], []
    for part in item.parts:
        content.append({"type": part.kind})
        if part.kind == "text":
            content[-1]["text"] = part.value
        else:
            {"image": images, "video": videos, "audio": audio}[part.kind].append(part.value)
    processor = backbone.processor
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=None if videos else processor.chat_template,
        add_generation_prompt=True,
    )
    given: dict[str, Any] = {"images": [images]} if images else {}
    if videos:
        # Qwen3-VL's processor fails on one frame; a temporal patch spans two.
        least = getattr(processor.video_processor, "temporal_patch_size", 1)
        videos = [np.repeat(v, least, axis=0) if len(v) == 1 else v for v in videos]
        times = [[i * 500 for i in range(len(video))] for video in videos]
        metadata = [
            {"total_num_frames": 500 * len(t), "fps": 1000, "frames_indices": t,
             "duration": len(t) / 2} for t in times
        ]  # fmt: skip
        given |= {"videos": videos, "video_metadata": metadata, "do_sample_frames": False}
    if audio:
        given["audio"] = [sample["array"].astype(np.float32) for sample in audio]
    bos = backbone.tokenizer.bos_token
    inputs = processor(
        text=[rendered],
        return_tensors="pt",
        text_kwargs={"add_special_tokens": not (bos and rendered.startswith(bos))},
        **given,
    )
    with torch.no_grad():
        output = backbone.model(**inputs, output_hidden_states=True)
    return torch.cat([output.hidden_states[1][:, -1], output.hidden_states[-1][:, -1]], dim=-1)


@pytest.mark.parametrize(("name", "form"), PLAIN)
def test_states_are_those_of_transformers_alone(name: str, form: str, tiny: Tiny) -> None:
    backbone, item = tiny(name), ITEMS[form]
    row = backbone.row(item)
    found = record(backbone, backbone.collate([row]), ["mlp[0]", "norm"])
    ours = torch.cat([found["mlp[0]"], found["norm"]], dim=-1)
    assert apart(ours, by_transformers(backbone, item)) <= 1e-5


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_batch_mixes_every_kind_of_row(name: str, tiny: Tiny) -> None:
    """Text rows, one picture, many, videos of unequal length, audio."""
    backbone, items = tiny(name), list(items_for(name).values())
    rows: list[Any] = ["only text", *items, "more of the text, which is longer than the first"]
    together = states(backbone, *rows)
    for row, state in zip(rows, together, strict=True):
        assert apart(state[None], states(backbone, row)) <= 1e-5


@pytest.mark.parametrize("name", MULTIMODAL)
def test_text_rows_do_not_depend_on_media_in_their_batch(name: str, tiny: Tiny) -> None:
    backbone, items = tiny(name), list(items_for(name).values())
    texts = ["only text", "and more of the text"]
    alone = states(backbone, *texts)
    assert apart(states(backbone, *texts, *items)[:2], alone) <= 1e-5


def changed(value: Any) -> Any:
    """The medium with a small patch of one frame, or a few samples, changed."""
    if isinstance(value, dict):
        array = value["array"].copy()
        array[2000:2100] *= -1
        return {**value, "array": array}
    array = np.array(value)
    spot = array[-1] if array.ndim == 4 else array
    middle = tuple(slice(side // 2 - 6, side // 2 + 6) for side in spot.shape[:2])
    spot[middle] = 255 - spot[middle]
    return array if array.ndim == 4 else Image.fromarray(array)


@pytest.mark.parametrize(("name", "form"), RICHEST)
def test_every_medium_affects_the_state(name: str, form: str, tiny: Tiny) -> None:
    backbone, parts = tiny(name), ITEMS[form].parts
    as_it_is = states(backbone, Item(parts=parts))
    for i, part in enumerate(parts):
        if part.kind != "text":
            other = [*parts[:i], Part(part.kind, changed(part.value)), *parts[i + 1 :]]
            moved = apart(states(backbone, Item(parts=other)), as_it_is)
            assert moved > 1e-4, f"{part.kind} {i} changed, the state by {moved:.1e}"


@pytest.mark.parametrize(("name", "form"), RICHEST)
def test_the_order_of_media_matters(name: str, form: str, tiny: Tiny) -> None:
    backbone, parts = tiny(name), ITEMS[form].parts
    places = [i for i, part in enumerate(parts) if part.kind != "text"]
    swapped = list(parts)
    swapped[places[0]], swapped[places[-1]] = parts[places[-1]], parts[places[0]]
    assert apart(states(backbone, Item(parts=swapped)), states(backbone, Item(parts=parts))) > 1e-3
    front = [parts[i] for i in places] + [part for part in parts if part.kind == "text"]
    if tuple(front) != parts:
        moved = apart(states(backbone, Item(parts=front)), states(backbone, Item(parts=parts)))
        assert moved > 1e-3


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_forged_placeholder_stays_text_beside_every_kind(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    processor = backbone.processor
    tokens = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio")]
    attack = " ".join(filter(None, [*tokens, "<video>", "<image>", "\ue0000\ue001"]))
    for item in list(items_for(name).values())[-1:]:
        rows = [
            backbone.row(Prompted(user=(*item.parts, "and", text(content))))
            for content in ("abc", attack)
        ]
        control = backbone.encoder.plain.control_ids
        benign, mean = ([i for i in row.ids if i in control] for row in rows)
        assert mean == benign
        assert attack in backbone.tokenizer.decode(rows[1].ids)


@pytest.mark.parametrize(
    ("name", "kind"),
    [(n, k) for n in MULTIMODAL for k in ("video", "audio") if k not in READS[n]],
)
def test_a_kind_that_the_family_does_not_read_is_refused(name: str, kind: str, tiny: Tiny) -> None:
    """Templates drop it silently, so the row would be that of the other parts."""
    item = Item("abc", id="q7", **{f"{kind}s": [film() if kind == "video" else sound()]})
    with pytest.raises(BadItem, match=f"item 'q7': this backbone does not read {kind}"):
        tiny(name).row(item)


def test_a_template_without_a_placeholder_is_refused(tiny: Tiny) -> None:
    backbone = tiny("llava")
    processor = copy.copy(backbone.processor)
    processor.chat_template = processor.chat_template.replace("<image>", "a picture")
    encoder = Encoder(backbone.model, backbone.tokenizer, processor)
    with pytest.raises(UnsupportedBackbone, match="writes 0 placeholders '<image>' for 1 images"):
        encoder.row(Item("abc", images=[picture()]))


# -------------------------------------------------------------------------------- encoded once


def loaded(name: str, **options: Any) -> Backbone:
    model, processor = MULTIMODAL[name]()
    return Backbone.load(model, processor=processor, media=MediaOptions(**options))


@contextmanager
def counted(backbone: Backbone) -> Iterator[list[int]]:
    """Runs of the vision tower, one entry each."""
    base = backbone.model.base_model
    names = ("vision_tower", "vision_model", "visual")
    tower = next(getattr(base, n) for n in names if getattr(base, n, None) is not None)
    runs: list[int] = []
    handle = tower.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        yield runs
    finally:
        handle.remove()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_a_picture_is_encoded_once(name: str) -> None:
    """In any prompt, pair or form; another picture is encoded anew."""
    backbone, one, other = loaded(name), picture(seed=1), picture(seed=2)
    with counted(backbone) as runs:
        first = states(backbone, ControlPrompt().apply(Item(images=[one])))
        assert len(runs) == 1
        again = states(backbone, ControlPrompt().apply(Item(images=[one.copy()])))
        assert len(runs) == 1
        states(backbone, Item("is it?", images=[one]), Item("or this?", images=[one]))
        assert len(runs) == 1
        different = states(backbone, ControlPrompt().apply(Item(images=[other])))
        assert len(runs) == 2
        states(backbone, Item(parts=[Part("image", one), text("or"), Part("image", other)]))
        # LLaVA-OneVision tiles a picture only when it is alone in its row. The two untiled ones
        # are tried together and apart before they go together.
        assert len(runs) == (2 + 3 + 1 if name == "llava-onevision" else 2)
    assert torch.equal(first, again)
    assert apart(different, first) > 1e-3


def test_forms_of_the_same_content_share_features(tmp_path: Path) -> None:
    backbone, content = loaded("qwen2.5-vl"), png(picture())
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with counted(backbone) as runs:
        found = [states(backbone, Item(images=[value])) for value in (path, content)]
        assert len(runs) == 1
        path.write_bytes(png(picture(seed=9)))
        changed_file = states(backbone, Item(images=[path]))
    assert torch.equal(found[0], found[1])
    assert apart(changed_file, found[0]) > 1e-3


@pytest.mark.parametrize("name", MULTIMODAL)
def test_without_a_cache_the_result_is_the_same(name: str, tiny: Tiny) -> None:
    backbone = loaded(name, cache_bytes=0)
    items = list(items_for(name).values())
    assert torch.equal(states(backbone, *items), states(tiny(name), *items))
    assert backbone.encoder.perception is not None
    assert backbone.encoder.perception.cache.size == 0


def test_the_cache_stays_within_its_bytes() -> None:
    backbone = loaded("qwen2.5-vl", cache_bytes=70_000)
    assert backbone.encoder.perception is not None
    cache = backbone.encoder.perception.cache
    sizes = []
    for seed in range(40):
        states(backbone, Item(images=[picture(seed=seed)]))
        sizes.append(cache.size)
    assert 10_000 < max(sizes) <= 70_000
    with counted(backbone) as runs:
        states(backbone, Item(images=[picture(seed=39)]))
        assert runs == []
        states(backbone, Item(images=[picture(seed=0)]))
        assert len(runs) == 1


def test_the_least_recently_used_entry_is_evicted() -> None:
    cache = Cache(1000)
    entries = {key: Processed("", {}, {"x": torch.zeros(100)}) for key in "abc"}
    cache.put("a", entries["a"])
    cache.put("b", entries["b"])
    assert cache.get("a") is entries["a"]
    cache.put("c", entries["c"])
    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]
    assert cache.size == 800
    cache.put("c", entries["c"])
    assert cache.size == 800
    cache.put("d", Processed("", {}, {"x": torch.zeros(1000)}))  # above the limit: not kept
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c"]


def test_a_row_keeps_the_picture_that_was_read(tmp_path: Path) -> None:
    """Even where nothing is cached and the file is gone when the row runs."""
    backbone, path = loaded("llava", cache_bytes=0), tmp_path / "a.png"
    path.write_bytes(png(picture()))
    as_it_was = states(backbone, Item(images=[path]))
    row = backbone.row(Item(images=[path]))
    path.unlink()
    found = record(backbone, backbone.collate([row]), SITES)
    assert torch.equal(torch.cat([found[site] for site in SITES], dim=-1), as_it_was)


# ---------------------------------------------------------------------------------- settings

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


# ---------------------------------------------------------------------- large and odd pictures

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
    """Its height could be mistaken for channels, which would turn red into stripes."""
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


def test_a_bound_lower_than_the_benchmarks_stays(tiny: Tiny) -> None:
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
    """A single one, and five together, of which the small one is unchanged."""
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
    """Already in one step, even if it is much larger than its processor's size."""
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


# ------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("image", b"", "it is empty"),
        ("image", b"not a picture", "cannot identify"),
        ("image", "picture.png", "give a file as a pathlib.Path"),
        ("image", "https://example.org/a.png", "fetching is not allowed"),
        ("image", "data:image/png;base64,???", "not valid base64"),
        ("image", "data:image/png,abc", "must be base64"),
        ("image", Path("nowhere.png"), "No such file"),
        ("image", None, "NoneType is not a picture"),
        ("image", bytes(3000), "more than 2000 bytes"),
        ("image", picture(300, 300), "more than 40000 pixels"),
        ("video", b"not a video", "cannot read the video"),
        ("video", film(2, 300, 300), "more than 40000 pixels"),
        ("audio", sound(3.5), "longer than 3 seconds"),
        ("audio", {"array": np.zeros(3), "sampling_rate": 16_000}, "too short"),
        ("audio", {"array": np.full(9000, np.nan), "sampling_rate": 16_000}, "NaN"),
    ],
)
def test_the_error_of_a_medium_names_its_item(kind: str, value: Any, reason: str) -> None:
    limits = Limits(pixels=40_000, seconds=3, bytes=2000)
    backbone = loaded("qwen2.5-omni", limits=limits)
    item = Item(parts=[text("abc"), Part(kind, value)], id="q7")  # type: ignore[arg-type]
    with pytest.raises(BadItem, match="item 'q7': ") as caught:
        backbone.row(item)
    assert reason in str(caught.value)


def test_the_message_counts_among_several_media() -> None:
    """By kind; a medium that is the only one of its kind needs no number."""
    backbone = loaded("qwen2.5-omni", cache_bytes=0)
    content = [Part("image", picture()), text("abc"), Part("image", b"no picture")]
    single = Part("video", b"no video")
    with pytest.raises(BadItem, match="item 'q7': cannot read image 2 of 2: cannot identify"):
        backbone.row(Item(parts=content, id="q7"))
    with pytest.raises(BadItem, match="item 'q7': cannot read the video: "):
        backbone.row(Item(parts=[content[0], single], id="q7"))


def test_audio_longer_than_the_backbone_hears_is_refused(tiny: Tiny) -> None:
    """The feature extractor would truncate it silently."""
    with pytest.raises(BadItem, match=r"4\.5 seconds, and this backbone hears 4"):
        tiny("qwen2.5-omni").row(Item(audios=[sound(4.5)]))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_generation_reads_the_picture(name: str, tiny: Tiny) -> None:
    """The generated text equals that of transformers alone."""
    backbone, item = tiny(name), ITEMS["picture"]
    row = backbone.row(item)
    inputs = {"input_ids": torch.tensor([row.ids]), "attention_mask": torch.ones(1, len(row))}
    inputs = {**inputs, "attention_mask": inputs["attention_mask"].long()}
    outputs = backbone.processor(
        text=[backbone.processor.image_token],
        images=[[item.media[0].value]],
        return_tensors="pt",
    )
    inputs |= {k: v for k, v in outputs.items() if k not in (*inputs, "mm_token_type_ids")}
    inputs.pop("token_type_ids", None)
    inputs |= {key: torch.tensor([values]) for key, values in row.per_token.items()}
    tokens = backbone.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = backbone.tokenizer.decode(tokens[0, len(row) :], skip_special_tokens=True).strip()
    assert backbone.generate(item, max_new_tokens=6) == expected
