"""Patched forwards are those of plain hooks, and shares are what their definition says."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch

from probes.errors import BadSetting
from probes.items import Item
from probes.microscope import patching as module
from probes.microscope.patching import PatchGrid, patch_grid
from probes.model.backbone import Backbone
from probes.model.sites import Site, all_sites
from probes.model.trace import record
from probes.prompts import Source
from tests.microscope.test_writes import PICTURED
from tests.model.test_interventions import changed_branch, with_column
from tests.model.test_trace import SCALE, Reference, reference
from tests.models import TEXT
from tests.samples import ITEMS, items_for, picture

Tiny = Callable[[str], Backbone]
Part = Literal["write", "state"]
CLEAN, CORRUPTED = "the word of the image", "the word of one user"


def check_grid(
    name: str,
    backbone: Backbone,
    sources: tuple[Source, Source],
    answers: tuple[str, str] = ("A", "B"),
    *,
    part: Part,
    positions: Literal["last", "all"] = "all",
    patches: Sequence[tuple[str, int]],
) -> PatchGrid:
    """The logits behind some shares, by site and position from the end, from plain hooks."""
    grid = patch_grid(backbone, *sources, answers, positions=positions, part=part)
    batches = [backbone.encode([source]) for source in sources]
    clean, corrupted = (reference(name, backbone.model, batch) for batch in batches)
    right, wrong = (backbone.encoder.plain.tokenize(answer)[0] for answer in answers)

    def difference(found: Reference) -> float:
        return (found.logits[0, right] - found.logits[0, wrong]).item()

    tolerance = 1e-5 * clean.logits.abs().max().item()
    ends = difference(clean), difference(corrupted)
    assert (grid.clean, grid.corrupted) == pytest.approx(ends, abs=tolerance)
    order, moved = list(map(str, all_sites(backbone))), []
    for site, column in patches:
        here = Site.parse(site).resolve(backbone.num_layers)
        value = clean.branches[str(here)][:, column]
        if part == "state":
            before = corrupted.everywhere[order[order.index(str(here)) - 1]][:, column]
            value = (clean.everywhere[str(here)][:, column] - before) / SCALE.get(name, 1.0)
        with changed_branch(name, backbone.model, site, with_column(column, value)):
            patched = difference(reference(name, backbone.model, batches[1]))
        cell = grid.values[here.layer, ("attn", "mlp").index(here.kind)]
        share = cell if positions == "last" else cell[column]
        found = grid.corrupted + share * (grid.clean - grid.corrupted)
        assert found == pytest.approx(patched, abs=tolerance), site
        moved.append(abs(patched - ends[1]))
    assert max(moved) > 100 * tolerance, "no patch changes anything"
    return grid


@pytest.mark.parametrize("part", ["write", "state"])
@pytest.mark.parametrize("name", TEXT)
def test_shares_are_those_of_plain_hooks(name: str, part: Part, tiny: Tiny) -> None:
    backbone = tiny(name)
    patches = [("mlp[0]", -1), ("attn[1]", -1), ("mlp[1]", -2), ("attn[2]", -2), ("mlp[2]", -1)]
    grid = check_grid(name, backbone, (CLEAN, CORRUPTED), part=part, patches=patches)
    assert grid.values.shape == (4, 2, len(backbone.row(CORRUPTED)))
    assert "".join(grid.tokens) == CORRUPTED


@pytest.mark.parametrize("part", ["write", "state"])
@pytest.mark.parametrize("name", PICTURED)
def test_shares_of_pictures_are_those_of_plain_hooks(name: str, part: Part, tiny: Tiny) -> None:
    """Two pictures of one size, patched at a placeholder too."""
    backbone = tiny(name)
    sources = tuple(Item("what is it", images=[picture(seed=seed)]) for seed in (0, 1))
    embedded = [record(backbone, source, "embed", positions="all")["embed"] for source in sources]
    differ = (embedded[0] != embedded[1]).any(-1).nonzero()
    placeholder = int(differ[-1]) - len(embedded[0])
    patches = [("attn[0]", placeholder), ("mlp[1]", placeholder), ("attn[2]", -1), ("mlp[2]", -1)]
    check_grid(name, backbone, (sources[0], sources[1]), part=part, patches=patches)


def test_what_must_be_restored_is(tiny: Tiny) -> None:
    """All of it by the last state, nothing before the inputs differ, whatever the batches."""
    backbone = tiny("qwen2")
    grid = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="state")
    np.testing.assert_allclose(grid.values[-1, 1, -1], 1, atol=1e-5)
    np.testing.assert_allclose(grid.values[..., :3], 0, atol=1e-5)
    np.testing.assert_allclose(grid.values[-1, :, :-1], 0, atol=1e-5)
    last = patch_grid(backbone, CLEAN, CORRUPTED, part="state")
    assert last.tokens == grid.tokens[-1:]
    np.testing.assert_allclose(last.values, grid.values[..., -1], atol=1e-5)


def test_batches_do_not_matter(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny("gemma3-text")
    grid = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="write")
    monkeypatch.setattr(module, "budget", lambda backbone: 3 * len(backbone.row(CORRUPTED)))
    few = patch_grid(backbone, CLEAN, CORRUPTED, positions="all", part="write")
    np.testing.assert_allclose(few.values, grid.values, atol=1e-4)


def test_a_write_leaves_what_came_before_it(tiny: Tiny) -> None:
    """The first attention writes from the same stream where the inputs have the same tokens."""
    backbone = tiny("llama")
    state = patch_grid(backbone, "the word", "one word", ("A", "B"), positions="all", part="state")
    write = patch_grid(backbone, "the word", "one word", ("A", "B"), positions="all", part="write")
    assert write.values[0, 0, 1] == pytest.approx(state.values[0, 0, 1], abs=1e-4)
    assert abs(write.values[0, 0, 0] - state.values[0, 0, 0]) > 0.01


def test_a_picture_and_a_text_can_be_patched(tiny: Tiny) -> None:
    """They are patched at their last token."""
    item = items_for("qwen2.5-vl")["picture"]
    grid = patch_grid(tiny("qwen2.5-vl"), item, "the word", ("A", "B"), part="state")
    assert grid.values.shape == (4, 2)
    np.testing.assert_allclose(grid.values[-1, 1], 1, atol=1e-5)


def test_shares_of_real_weights(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    sources: tuple[Source, Source] = ("The capital of France is", "The capital of Italy is")
    if name == "smolsight":
        sources = ITEMS["picture"], Item("what is it", images=[picture(seed=1)])
    check_grid(
        name,
        backbone,
        sources,
        (" Paris", " Rome"),
        part="write",
        positions="last",
        patches=[("attn[-2]", -1), ("mlp[-2]", -1), ("attn[-1]", -1), ("mlp[-1]", -1)],
    )


def test_the_answer_of_smollm2_is_restored(smollm2: Backbone) -> None:
    """By the attention that carries the country to the end of the prompt."""
    clean, corrupted = "The capital of France is", "The capital of Italy is"
    grid = patch_grid(smollm2, clean, corrupted)
    assert grid.answers == (" Paris", " Rome")
    assert grid.values.shape == (30, 2)
    assert grid.values.max() > 0.5


def test_mistakes_are_named(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadSetting, match="clean has 1 tokens and corrupted 2"):
        patch_grid(backbone, "the", "the word", ("A", "B"), positions="all")
    assert patch_grid(backbone, "the", "the word", ("A", "B")).values.shape == (4, 2)
    with pytest.raises(BadSetting, match="both answers begin with the token 'A'"):
        patch_grid(backbone, CLEAN, CORRUPTED, ("A", "A"))
    with pytest.raises(BadSetting, match="two words"):
        patch_grid(backbone, CLEAN, CORRUPTED, ("A", ""))
    with pytest.raises(BadSetting, match="nothing is restored"):
        patch_grid(backbone, CLEAN, CLEAN, ("A", "B"))
    with pytest.raises(BadSetting, match="positions must be one of"):
        patch_grid(backbone, CLEAN, CORRUPTED, positions="some")  # type: ignore[arg-type]


@torch.no_grad()
def test_the_model_is_left_as_it_is(tiny: Tiny) -> None:
    backbone = tiny("llama")
    batch = backbone.encode([CLEAN])
    before = backbone.model(**batch.inputs).logits
    patch_grid(backbone, CLEAN, CORRUPTED, positions="all")
    assert torch.equal(backbone.model(**batch.inputs).logits, before)
