"""`freeret check` shows a backbone pictures, clips and sounds, and finds out what is wrong."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from freeret.check import Check, check, media
from freeret.check.samples import clip, picture, sound, three
from freeret.scale import sizing
from probes import Backbone
from probes.media.cache import Cache, Processed
from probes.media.sources import Limits, MediaOptions
from probes.prompts import Prompted
from tests.models import MULTIMODAL
from tests.samples import READS
from tests.tiny_tokenizer import template

Tiny = Callable[[str], Backbone]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput is not what these tests are about."""
    monkeypatch.setattr(sizing, "MIN_SECONDS", 0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is how many tokens large pictures and clips become, in most of them."""
    monkeypatch.setattr(media, "PICTURES", ((64, 48),))
    monkeypatch.setattr(media, "CLIPS", ((64, 48),))


def lines(backbone: Backbone) -> dict[str, Check]:
    return {line.what: line for line in check(backbone)}


def failed(backbone: Backbone) -> set[str]:
    """Of the lines about media."""
    return {line.what for line in media.checks(backbone) if not line.passed}


def fresh(name: str, **options: Any) -> Backbone:
    """A backbone that a test may damage."""
    model, processor = MULTIMODAL[name].__wrapped__()  # type: ignore[attr-defined]
    return Backbone.load(model, processor=processor, media=MediaOptions(**options))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_every_kind_that_a_family_reads_passes(name: str, tiny: Tiny) -> None:
    found = lines(tiny(name))
    assert [line for line in found.values() if not line.passed] == []
    for kind in ("image", "video", "audio"):
        about = [f"{kind} tokens", f"{kind} placeholders", f"text and {kind} in order",
                 f"{kind} alone against a mixed batch", f"two {kind}s in order",
                 f"{kind} after a shared prefix", f"{kind} throughput"]  # fmt: skip
        assert all((what in found) == (kind in READS[name]) for what in about)
        cached = f"cached {kind} features against pixels" in found
        assert cached == (kind in READS[name] - {"audio"})
    assert ("all kinds in one batch" in found) == (len(READS[name]) > 1)
    assert found["reads"].found == ", ".join(["text", *tiny(name).encoder.perception.kinds])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["qwen2.5-vl", "llava", "smolvlm"])
def test_half_precision_passes(name: str) -> None:
    model, processor = MULTIMODAL[name].__wrapped__()  # type: ignore[attr-defined]
    assert failed(Backbone.load(model.to(torch.bfloat16), processor=processor)) == set()


def test_smolsight_passes() -> None:
    found = lines(Backbone.load("smolsight"))
    assert all(line.status == "ok" for line in found.values())
    assert found["image tokens"].found == "640×480: 16, 1024×768: 16, 4000×3000: 16"
    assert found["image throughput"].value is not None
    assert 0.1 < found["image throughput"].value < 10_000


def test_tokens_are_those_that_a_picture_adds(tiny: Tiny) -> None:
    """LLaVA: 16 features and a line break; Qwen2.5-VL: up to its 64 × 64 pixels, and two marks."""
    assert lines(tiny("llava"))["image tokens"].found.startswith("640×480: 17, ")
    assert lines(tiny("qwen2.5-vl"))["image tokens"].found.startswith("640×480: 14, ")
    assert lines(tiny("qwen2.5-omni"))["audio tokens"].found == "1 s: 27, 4 s: 102"


def test_a_size_that_is_refused_is_a_note() -> None:
    found = lines(fresh("llava", limits=Limits(pixels=1_000_000)))["image tokens"]
    assert found.status == "note"
    assert "640×480: 17, 1024×768: 17, 4000×3000: refused (" in found.found
    assert "1000000 pixels" in found.found


# ------------------------------------------------------------------------------ what is broken


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_template_that_moves_media_to_the_front_fails(kind: str) -> None:
    backbone = fresh("qwen2.5-omni")
    render = backbone.encoder.render

    def moved(marked: Any, system: str | None, prefill: str) -> str:
        media = [p for p in marked if isinstance(p, dict) and p["type"] == kind]
        return render((*media, *(p for p in marked if p not in media)), system, prefill)

    backbone.encoder.render = moved  # type: ignore[method-assign]
    assert failed(backbone) == {f"text and {kind} in order"}
    assert "chat_template" in lines(backbone)[f"text and {kind} in order"].found


@pytest.mark.usefixtures("small")
def test_a_template_that_moves_media_is_made_up_for() -> None:
    model, processor = MULTIMODAL["llava-onevision"].__wrapped__()  # type: ignore[attr-defined]
    processor.chat_template = template(
        "{%- for part in message['content'] if part['type'] == 'image' %}{{- '<image>' }}"
        "{%- endfor %}{%- for part in message['content'] if part['type'] == 'text' %}"
        "{{- part['text'] }}{%- endfor %}",
        cue="Answer:",
        video="<video>",
    )
    found = {line.what: line for line in media.checks(Backbone.load(model, processor=processor))}
    line = found["text and image in order"]
    assert line.passed
    assert "in spite of the chat template" in line.found


@pytest.mark.usefixtures("small")
def test_a_template_that_drops_media_fails() -> None:
    backbone = fresh("llava")
    render = backbone.encoder.render

    def dropped(marked: Any, system: str | None, prefill: str) -> str:
        return render([p for p in marked if isinstance(p, str)], system, prefill)

    backbone.encoder.render = dropped  # type: ignore[method-assign]
    assert {"image tokens", "image placeholders", "text and image in order"} <= failed(backbone)
    assert "placeholders" in lines(backbone)["image tokens"].found


@pytest.mark.usefixtures("small")
def test_a_tower_that_depends_on_its_neighbours_fails() -> None:
    """Where features are not kept, all pictures of a batch go through the tower together."""
    backbone = fresh("llava")
    assert backbone.encoder.perception is not None
    backbone.encoder.perception.takes_features = False
    backbone.model.model.multi_modal_projector.register_forward_hook(
        lambda module, args, output: output + output.mean(0, keepdim=True)
    )
    assert failed(backbone) == {"image alone against a mixed batch"}


@pytest.mark.usefixtures("small")
def test_a_tower_that_depends_on_what_it_saw_before_fails() -> None:
    backbone, seen = fresh("llava"), []

    def drift(module: Any, args: tuple, output: Tensor) -> Tensor:
        seen.append(output)
        return output * (1 + 0.01 * len(seen))

    backbone.model.model.multi_modal_projector.register_forward_hook(drift)
    assert failed(backbone) == {"cached image features against pixels"}


class Forgetful(Cache):
    """A cache that gives the first picture for every other."""

    def get(self, key: str) -> Processed | None:
        return next(iter(self._entries.values()), None)


@pytest.mark.usefixtures("small")
def test_features_cached_under_the_wrong_picture_fail() -> None:
    backbone = fresh("llava")
    assert backbone.encoder.perception is not None
    backbone.encoder.perception.cache = Forgetful(2**29)
    assert failed(backbone) == {"cached image features against pixels", "two images in order"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["qwen2-vl", "llava"])
def test_pictures_that_the_model_does_not_look_at_fail(name: str) -> None:
    """A tower whose output says nothing: all pictures are the same to the language model."""
    backbone = fresh(name)
    base = backbone.model.base_model
    tower = base.visual.merger if name == "qwen2-vl" else base.multi_modal_projector
    tower.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    assert "two images in order" in failed(backbone)


@pytest.mark.usefixtures("small")
def test_padding_that_leaks_into_rows_with_pictures_fails() -> None:
    backbone = fresh("llava")

    def see_all(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["attention_mask"])}

    backbone.model.model.register_forward_pre_hook(see_all, with_kwargs=True)
    assert "image alone against a mixed batch" in failed(backbone)


# ------------------------------------------------------------------------------------ samples


def test_no_two_samples_are_the_same() -> None:
    pictures = [np.asarray(picture(640, 480, number)) for number in range(3)]
    clips = [clip(64, 48, 4, number) for number in range(3)]
    sounds = [sound(0.5, number)["array"] for number in range(3)]
    for several in (pictures, clips, sounds):
        assert not any(np.array_equal(several[i], several[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert pictures[0].shape == (480, 640, 3)
    assert clips[0].shape == (4, 48, 64, 3)
    assert not np.array_equal(clips[0][0], clips[0][1]), "something moves"
    assert np.abs(sounds[0]).max() <= 1


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_two_of_three_have_one_size(kind: Any) -> None:
    values = [part.value["array"] if kind == "audio" else part.value for part in three(kind)]
    first, second, other = map(np.asarray, values)
    assert first.shape == second.shape != other.shape
    assert not np.array_equal(first, second)


@pytest.mark.usefixtures("small")
def test_warnings_about_samples_say_that_they_are_samples(caplog: pytest.LogCaptureFixture) -> None:
    backbone = fresh("qwen2.5-vl")
    room = 10
    backbone.encoder.max_tokens = len(backbone.row(Prompted(user=("x",)))) + room
    media.checks(backbone)
    assert "item without id" not in caplog.text
    assert "sample of image" in caplog.text
