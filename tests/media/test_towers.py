"""Media of a batch go through their tower together, and none depends on its neighbours."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from probes.items import Item, Part
from probes.media.processing import MediaProcessor
from probes.media.sources import MediaOptions
from probes.media.towers import Towers
from probes.model.backbone import Backbone
from probes.model.batches.states import states_of
from probes.model.encoding import Row
from tests.models import MULTIMODAL
from tests.samples import film, picture, text
from tests.zoo import ZOO

FAMILIES = MULTIMODAL | ZOO
MEDIA: dict[Any, list[Any]] = {
    "image": [picture(*size, seed) for seed, size in enumerate(((48, 48), (48, 48), (64, 32)))],
    "video": [film(4, seed=1), film(4, seed=2), film(6, 64, 32, 3)],
}
"""Two of one size, and one of another."""
SINGLE = {"minicpm-v4.6", "minicpm-v4.7", "minicpm-ocr", "molmo2"}
"""Whose towers are made for a single medium."""
UNPOOLED = {"granite4-vision"}
"""Whose tower feeds deeper layers only, so that the model runs it itself."""


def loaded(name: str) -> Backbone:
    """Without a cache, so that every batch needs the tower."""
    model, processor = FAMILIES[name]()
    return Backbone.load(model, processor=processor, media=MediaOptions(cache_bytes=0))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of media in each call of a tower."""
    counts: list[int] = []
    run = Towers._together

    def counted(towers: Towers, media: Any, device: Any) -> Any:
        counts.append(len(media))
        return run(towers, media, device)

    monkeypatch.setattr(Towers, "_together", counted)
    return counts


def features(backbone: Backbone, rows: list[Row]) -> list[Tensor]:
    """The features that the language model takes at its input, and at deeper layers."""
    (output,) = backbone.collate(rows).inputs["mm_encoder_outputs"].values()
    layers = getattr(output, "deepstack_features", None) or []
    return [flat(value) for value in (output.pooler_output, *layers)]


def flat(value: Any) -> Tensor:
    parts = value if isinstance(value, list | tuple) else [value]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def kinds(name: str, backbone: Backbone) -> list[Any]:
    unread = {"video"} if name == "ernie4.5-vl" else set()
    return [kind for kind in MEDIA if kind in backbone.modalities and kind not in unread]


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - UNPOOLED))
def test_features_computed_together_are_those_of_each_alone(name: str, calls: list[int]) -> None:
    backbone = loaded(name)
    for kind in kinds(name, backbone):
        rows = [backbone.row(Item(parts=[text("of"), Part(kind, v)])) for v in MEDIA[kind]]
        alone = zip(*(features(backbone, [row]) for row in rows), strict=True)
        backbone.collate(rows)  # the trial of two
        calls.clear()
        together = features(backbone, rows)
        assert sum(calls) == 3
        assert len(calls) == 3 if name in SINGLE else len(calls) <= 2
        for found, parts in zip(together, alone, strict=True):
            expected = torch.cat(parts)
            error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
            assert error.max().item() <= 1e-5


def test_a_tower_that_is_not_for_the_first_layer_runs_once_in_vain(calls: list[int]) -> None:
    backbone = loaded("granite4-vision")
    rows = [backbone.row(Item(images=[value])) for value in MEDIA["image"]]
    runs: list[int] = []
    tower = backbone.model.base_model.vision_tower
    tower.register_forward_pre_hook(lambda *_: runs.append(1))
    for _ in range(3):
        backbone.collate(rows)
    tower._forward_pre_hooks.clear()
    assert (len(runs), len(calls) > 3) == (1, True)


def test_media_that_depend_on_their_neighbours_go_one_by_one(calls: list[int]) -> None:
    model, processor = MULTIMODAL["llava"].__wrapped__()  # type: ignore[attr-defined]
    backbone = Backbone.load(model, processor=processor, media=MediaOptions(cache_bytes=0))
    model.model.multi_modal_projector.register_forward_hook(
        lambda module, args, output: output + 0.01 * output.mean(0, keepdim=True)
    )
    rows = [backbone.row(Item(images=[value])) for value in MEDIA["image"]]
    alone = torch.cat([features(backbone, [row])[0] for row in rows])
    backbone.collate(rows)
    calls.clear()
    assert torch.equal(features(backbone, rows)[0], alone)
    assert calls == [1, 1, 1]


def test_a_call_holds_no_more_than_its_bytes(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = loaded("qwen2.5-vl")
    rows = [backbone.row(Item(images=[picture(48, 48, seed)])) for seed in range(5)]
    backbone.collate(rows)
    monkeypatch.setattr("probes.media.towers.CALL_BYTES", 2 * rows[0].nbytes)
    calls.clear()
    backbone.collate(rows)
    assert calls == [2, 2, 1]


@pytest.mark.parametrize("cache_bytes", [2**29, 0])
def test_a_picture_is_decoded_and_processed_once_and_never_in_a_batch(
    cache_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even in a block larger than the cache, and even without a cache."""
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    backbone = Backbone.load(
        model, processor=processor, media=MediaOptions(cache_bytes=cache_bytes)
    )
    states_of(backbone, [picture(seed=1), picture(seed=2)], "norm")  # whatever is tried once
    collating: list[int] = []
    collate = backbone.encoder.collate

    def watched(*args: Any) -> Any:
        collating.append(threading.get_ident())
        try:
            return collate(*args)
        finally:
            collating.pop()

    def counted(function: Any, counts: list[int]) -> Any:
        def call(*args: Any) -> Any:
            assert threading.get_ident() not in collating, "the model's lock is held"
            counts.append(1)
            return function(*args)

        return call

    decoded: list[int] = []
    processed: list[int] = []
    monkeypatch.setattr(backbone.encoder, "collate", watched)
    monkeypatch.setattr(MediaProcessor, "read", counted(MediaProcessor.read, decoded))
    monkeypatch.setattr(MediaProcessor, "_call", counted(MediaProcessor._call, processed))
    files = []
    for seed in range(60):
        files.append(tmp_path / f"{seed}.jpg")
        picture(128, 96, seed).resize((1024, 768)).save(files[-1])
    states_of(backbone, files, "norm")
    assert (len(decoded), len(processed)) == (60, 60)
