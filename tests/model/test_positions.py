"""States of all positions, and of some, are those of plain PyTorch hooks, row by row."""

import pytest
import torch
from torch import Tensor

from probes.errors import BadSetting
from probes.model.backbone import Backbone
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch
from probes.model.sites import all_sites
from probes.model.trace import record
from tests.model.test_trace import TEXTS, Tiny, reference, relative, sources_for
from tests.models import MULTIMODAL, TEXT
from tests.samples import items_for


def check_all_positions(name: str, backbone: Backbone, batch: Batch) -> None:
    expected = reference(name, backbone.model, batch).everywhere
    states = record(backbone, batch, all_sites(backbone.num_layers), positions="all")
    mask = batch.inputs["attention_mask"].bool()
    assert {str(site) for site in states} == set(expected)
    for site, state in expected.items():
        rows = states.by_row(site)
        assert [len(row) for row in rows] == batch.lengths
        for row, whole, kept in zip(rows, state, mask, strict=True):
            assert torch.equal(row, whole[kept]), f"{site} of {name}"


@pytest.mark.parametrize("name", TEXT)
def test_states_of_all_positions_are_those_of_plain_hooks(name: str, tiny: Tiny) -> None:
    check_all_positions(name, tiny(name), tiny(name).encode(TEXTS))


@pytest.mark.parametrize("name", MULTIMODAL)
def test_placeholders_of_media_are_positions_too(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    check_all_positions(name, backbone, backbone.encode(["Yes", *items_for(name).values()]))


def test_real_states_of_all_positions(real: tuple[str, Backbone]) -> None:
    name, backbone = real
    check_all_positions(name, backbone, backbone.encode(sources_for(name)))


def test_a_slice_is_counted_in_each_row(tiny: Tiny) -> None:
    backbone = tiny("qwen2")
    batch = backbone.encode(TEXTS)
    whole = record(backbone, batch, ["attn[1]"], positions="all").by_row("attn[1]")
    for chosen in (slice(-5, None), slice(0, 1), slice(1, None, 2), slice(3, None)):
        states = record(backbone, batch, ["attn[1]"], positions=chosen)
        for row, every in zip(states.by_row("attn[1]"), whole, strict=True):
            assert torch.equal(row, every[chosen])
        ids = [[int(batch.inputs["input_ids"][place]) for place in row] for row in states.read]
        assert ids == [row.ids[chosen] for row in backbone.rows(TEXTS)]


def test_the_last_position_is_the_end_of_all(tiny: Tiny) -> None:
    backbone = tiny("llama")
    states = record(backbone, TEXTS, "norm", positions="all", logits=True)
    last = record(backbone, TEXTS, "norm", logits=True)
    assert isinstance(states.logits, Tensor)
    assert isinstance(last.logits, Tensor)
    ends = torch.tensor([len(row) for row in states.by_row("norm")]).cumsum(0) - 1
    assert torch.equal(states["norm"][ends], last["norm"])
    assert relative(states.logits[ends], last.logits) <= 1e-6


def test_positions_that_cannot_be_read(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadSetting, match="not 'first'"):
        record(backbone, TEXTS, "norm", positions="first")  # type: ignore[arg-type]
    states = record(backbone, TEXTS, "norm", positions=slice(500, None))
    assert [row.shape for row in states.by_row("norm")] == [(0, 64)] * len(TEXTS)


def test_a_batch_without_its_beginning_is_read_at_its_end_alone(tiny: Tiny) -> None:
    backbone = tiny("llama")
    rows = backbone.rows([f"one word of the image is as long as it must be: {i}" for i in range(3)])

    def forward(batch: Batch) -> list[Tensor]:
        return record(backbone, batch, "norm", positions="all").by_row("norm")

    with pytest.raises(BadSetting, match="share_prefix=False"):
        run_batches(backbone, rows, forward)
    found = run_batches(backbone, rows, forward, share_prefix=False)
    assert [len(states) for states in found] == [len(row) for row in rows]
