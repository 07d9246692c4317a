"""Stored states are those of `record`, whatever stopped the writing, and never those of another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.errors import BadFile, BadItem, BadSetting, Mismatch, NotStored
from probes.items import Item
from probes.microscope import stored as module
from probes.microscope.stored import store_states, stored_states
from probes.model.backbone import Backbone
from probes.model.interventions import intervene, skip
from probes.model.sites import Site
from probes.model.trace import record
from probes.prompts import PROMPT_EOL
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
TEXTS = [f"the word {'of the image ' * (i % 5)}{i}" for i in range(12)]
SITES = ["attn[1]", "mlp[-1]"]


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 2**13)


def shards(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("states-*"))


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("positions", ["all", "last", slice(-3, None), slice(6, None)])
def test_states_are_those_that_are_recorded(positions: Any, tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny("qwen2")
    stored = store_states(backbone, TEXTS, SITES, tmp_path, positions=positions)
    assert list(stored) == [str(i) for i in range(len(TEXTS))]
    assert stored.sites == [Site("attn", 1), Site("mlp", 3)]
    every = []
    for i, text in enumerate(TEXTS):
        expected = record(backbone, text, SITES, positions=positions)
        tokens, states = stored[str(i)]
        ids = backbone.row(text).ids
        assert tokens == [ids[column] for _, column in states.read[0]]
        assert [column for _, column in states.read[0]] == [c for _, c in expected.read[0]]
        for site in SITES:
            torch.testing.assert_close(states[site], expected[site], atol=1e-5, rtol=1e-5)
        every.append(states["mlp[-1]"])
    assert torch.equal(stored.array("mlp[-1]"), torch.cat(every))
    if positions == "all":
        assert len(shards(tmp_path)) > 1


@pytest.mark.parametrize("name", ["qwen2.5-vl", "idefics3"])
def test_pictures_are_stored_place_by_place(name: str, tiny: Tiny, tmp_path: Path) -> None:
    backbone, items = tiny(name), items_for(name)
    given = [Item(parts=item.parts, id=kind) for kind, item in items.items()]
    stored = store_states(backbone, iter(given), ["mlp[0]"], tmp_path, positions="all")
    for item in given:
        expected = record(backbone, item, ["mlp[0]"], positions="all")
        assert item.id is not None
        torch.testing.assert_close(stored[item.id].states["mlp[0]"], expected["mlp[0]"])
        assert stored[item.id].tokens == backbone.row(item).ids


@pytest.mark.usefixtures("small_shards")
def test_after_a_kill_nothing_is_lost_or_computed_again(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("llama")
    expected = store_states(backbone, TEXTS, SITES, tmp_path / "whole", positions="all")
    write, run, computed = module.write_atomic, module.run_batches, []

    def killed(path: Path, content: Any) -> Path:
        if len(shards(tmp_path / "cut")) == 2:
            (path.parent / f".{path.name}-half").write_bytes(content[:100])
            raise KeyboardInterrupt
        return write(path, content)

    def counted(backbone: Any, rows: Any, *args: Any, **settings: Any) -> Any:
        computed.extend(rows)
        return run(backbone, rows, *args, **settings)

    monkeypatch.setattr(module, "write_atomic", killed)
    with pytest.raises(KeyboardInterrupt):
        store_states(backbone, TEXTS, SITES, tmp_path / "cut", positions="all")
    monkeypatch.setattr(module, "write_atomic", write)
    monkeypatch.setattr(module, "run_batches", counted)
    left = len(TEXTS) - len(stored_states(tmp_path / "cut"))
    assert 0 < left < len(TEXTS)
    stored = store_states(backbone, TEXTS, SITES, tmp_path / "cut", positions="all")
    assert len(computed) == left
    assert list(stored) == list(expected)
    for site in SITES:
        torch.testing.assert_close(stored.array(site), expected.array(site))
    assert len(store_states(backbone, TEXTS, SITES, tmp_path / "cut", positions="all")) == 12
    assert len(computed) == left


def test_no_more_states_than_a_shard_are_in_memory(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the items of a stream are taken as they are needed."""
    monkeypatch.setattr(module, "SHARD_BYTES", 2**11)
    sizes: list[int] = []
    write = module.write_atomic

    def measured(path: Path, content: Any) -> Path:
        sizes.append(len(content))
        return write(path, content)

    monkeypatch.setattr(module, "write_atomic", measured)
    texts = ("the word" for _ in range(40))
    store_states(tiny("llama"), texts, "norm", tmp_path, positions="all")
    assert len(sizes) == 10
    assert max(sizes) < 2**11 + 2**10


def test_a_bad_item_is_skipped_by_its_id(tiny: Tiny, tmp_path: Path) -> None:
    bad = Item(images=[tmp_path / "missing.png"], id="bad")
    items = [Item("the word", id="good"), bad, 3.5, "Yes"]
    backbone = tiny("qwen2.5-vl")
    with pytest.raises(BadItem, match="bad"):
        store_states(backbone, items, "norm", tmp_path / "a")
    stored = store_states(backbone, items, "norm", tmp_path / "b", on_error="skip")
    assert list(stored) == ["good", "3"]
    assert list(stored.skipped) == ["bad", "2"]
    assert "missing.png" in stored.skipped["bad"]


def test_other_states_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny("llama")
    store_states(backbone, TEXTS, SITES, tmp_path)
    with pytest.raises(Mismatch, match="another backbone"):
        store_states(tiny("mistral"), TEXTS, SITES, tmp_path)
    with pytest.raises(Mismatch, match=r"holds sites .*: give another folder"):
        store_states(backbone, TEXTS, ["norm"], tmp_path)
    with pytest.raises(Mismatch, match="positions last, not all"):
        store_states(backbone, TEXTS, SITES, tmp_path, positions="all")
    with pytest.raises(Mismatch, match=r"other content .* id '0'"):
        store_states(backbone, ["another"], SITES, tmp_path)
    with intervene(backbone, {"mlp[0]": skip}), pytest.raises(Mismatch, match="interventions"):
        store_states(backbone, TEXTS, SITES, tmp_path)
    assert len(stored_states(tmp_path)) == len(TEXTS)


def test_mistakes_are_named(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny("llama")
    twice = [Item("the word", id="a"), Item("Yes", id="a")]
    with pytest.raises(BadItem, match="two items have the id 'a'"):
        store_states(backbone, twice, "norm", tmp_path / "twice")
    with pytest.raises(BadSetting, match="at least one site"):
        store_states(backbone, TEXTS, [], tmp_path / "none")
    with pytest.raises(BadFile):
        stored_states(tmp_path / "nowhere")
    stored = store_states(backbone, PROMPT_EOL.apply("the word"), "norm", tmp_path / "one")
    assert stored.array("norm").shape == (1, 64)
    with pytest.raises(NotStored, match="no states of 'b'"):
        stored["b"]
    with pytest.raises(NotStored, match=r"no states at attn\[0\]"):
        stored.array("attn[0]")
    assert "1 items at norm" in repr(stored)
