"""Each medium goes through the tower once, whatever its row, prompt or form."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from probes.items import Item, Part
from probes.media.cache import Cache, Processed
from probes.model.backbone import Backbone
from probes.model.trace import record
from probes.prompts import ControlPrompt
from tests.media.states import SITES, apart, loaded, states
from tests.models import MULTIMODAL
from tests.samples import items_for, picture, png, text

Tiny = Callable[[str], Backbone]


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
    """In every prompt and pair; another picture goes through the tower."""
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
