"""States of media equal those of transformers alone; each medium is encoded once, and independently
of its row and batch."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from probes.errors import BadItem, UnsupportedBackbone
from probes.items import Item, Part
from probes.media.sources import Limits
from probes.model.backbone import Backbone
from probes.model.encoding import Encoder
from probes.model.trace import record
from probes.prompts import Prompted
from tests.media.states import apart, loaded, states
from tests.models import MULTIMODAL
from tests.samples import ITEMS, READS, film, items_for, picture, sound, text

Tiny = Callable[[str], Backbone]
CASES = [(name, form) for name in MULTIMODAL for form in items_for(name)]
RICHEST = [(name, list(items_for(name))[-1]) for name in MULTIMODAL]
APART = {"films": {"internvl", "llava-onevision", "smolvlm"}, "picture and film": {"smolvlm"}}
"""Processors that fail in one call on videos of unequal length, or on pictures beside videos."""
PLAIN = [(name, form) for name, form in CASES if name not in APART.get(form, ())]


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
def test_states_equal_those_of_transformers_alone(name: str, form: str, tiny: Tiny) -> None:
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


def test_the_error_numbers_the_medium_among_several() -> None:
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
