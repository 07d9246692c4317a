"""A shared prefix changes how long a batch takes, and nothing else."""

import threading
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.items import Item
from probes.measure.framing import FRAMES
from probes.model.backbone import Backbone
from probes.model.batches.prefix import Prefix, common_prefix, share_error
from probes.model.batches.run import run_batches
from probes.model.encoding import Row
from probes.model.trace import record
from probes.prompts import ControlPrompt
from tests.models import MULTIMODAL, TEXT, causal, tokenizer
from tests.samples import items_for

Tiny = Callable[[str], Backbone]
SITES = ["attn[0]", "attn[-1]", "mlp[-1]", "norm"]

FALLS_BACK = {"gemma2", "gemma3-text", "gemma3-vl"}
"""Families whose window is shorter here than the rows that sharing is tried on."""


def plain(length: int, seed: int) -> list[int]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 250, (length,), generator=draw).tolist()


def rows(prefix: int, tails: Sequence[int]) -> list[Row]:
    start = plain(prefix, seed=0)
    return [Row(start + plain(tail, seed=1 + i)) for i, tail in enumerate(tails)]


def whole(backbone: Backbone, row: Row) -> Tensor:
    states = record(backbone, backbone.collate([row]), SITES, logits=True)
    assert states.logits is not None
    return torch.cat([*(states[site] for site in SITES), states.logits], dim=-1)[0]


def shared(backbone: Backbone, prefix: Prefix, batch: Sequence[Row]) -> Tensor:
    states = record(backbone, prefix.collate(batch), SITES, logits=True)
    assert states.logits is not None
    return torch.cat([*(states[site] for site in SITES), states.logits], dim=-1)


def apart(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm() / right.norm()).item()


def final(backbone: Backbone, batch: Sequence[Row]) -> list[Tensor]:
    """States at the norm from `run_batches`."""
    return run_batches(backbone, batch, lambda b: list(record(backbone, b, ["norm"])["norm"]))


def test_which_families_share_is_known(tiny: Tiny) -> None:
    reasons = {name: share_error(tiny(name)) for name in [*TEXT, *MULTIMODAL]}
    assert {name for name, reason in reasons.items() if reason} <= FALLS_BACK


@pytest.mark.parametrize("name", [n for n in [*TEXT, *MULTIMODAL] if n not in FALLS_BACK])
@given(prefix=st.integers(1, 40), tails=st.lists(st.integers(1, 30), min_size=1, max_size=5))
@settings(max_examples=6)
def test_shared_equals_whole(name: str, prefix: int, tails: list[int], tiny: Tiny) -> None:
    backbone, batch = tiny(name), rows(prefix, tails)
    states = shared(backbone, Prefix(backbone, batch[0].ids[:prefix]), batch)
    for row, state in zip(batch, states, strict=True):
        assert apart(state, whole(backbone, row)) <= 1e-5


@pytest.mark.parametrize("name", ["smollm2", "gemma", "qwen"])
def test_shared_equals_whole_on_real_weights(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    assert share_error(backbone) is None
    prompt = ControlPrompt()
    texts = ["rain", "The cat sleeps on the warm stove.", "日本の冬は寒い"]
    batch = [backbone.row(prompt.apply(Item(text))) for text in texts]
    ids = common_prefix(batch)
    assert len(ids) > 20
    states = shared(backbone, Prefix(backbone, ids), batch)
    for row, state in zip(batch, states, strict=True):
        assert apart(state, whole(backbone, row)) <= 1e-5


def test_a_prefix_can_be_continued_again_and_again(tiny: Tiny) -> None:
    """A batch that wrote into the prefix would spoil the next one."""
    backbone, batch = tiny("llama"), rows(20, [3, 9, 5])
    prefix = Prefix(backbone, batch[0].ids[:20])
    first = shared(backbone, prefix, batch)
    shared(backbone, prefix, batch[::-1])
    assert torch.equal(shared(backbone, prefix, batch), first)


WINDOWED = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 128},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 128},
    "mistral": {"sliding_window": 128},
    "qwen2": {"use_sliding_window": True, "sliding_window": 128, "max_window_layers": 0},
}


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize(("prefix", "tails"), [(100, (20, 60)), (150, (20, 60)), (50, (9, 300))])
def test_rows_longer_than_a_window_are_right(
    name: str, prefix: int, tails: tuple[int, ...]
) -> None:
    """Padding between prefix and tail would count as distance in a sliding window."""
    backbone = Backbone.load(causal(name, **WINDOWED[name]), tokenizer=tokenizer())
    batch = rows(prefix, tails)
    for row, state in zip(batch, final(backbone, batch), strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


def test_gemma_is_right_beyond_its_window(gemma: Backbone) -> None:
    batch = rows(500, (10, 60))
    for row, state in zip(batch, final(gemma, batch), strict=True):
        alone = record(gemma, gemma.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


@pytest.mark.parametrize("name", sorted(FALLS_BACK))
def test_families_that_cannot_share_are_still_right(name: str, tiny: Tiny) -> None:
    backbone, batch = tiny(name), rows(30, (5, 20, 40))
    for row, state in zip(batch, final(backbone, batch), strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


def test_a_model_that_ignores_its_cache_does_not_share() -> None:
    """The trial compares states, so that a cache that is accepted but not read fails."""
    model = TEXT["llama"].__wrapped__()
    backbone = Backbone.load(model, tokenizer=tokenizer())
    forward = model.model.forward

    def forgetful(*args, cache=None, past_key_values=None, attention_mask=None, **kwargs):
        width = kwargs["input_ids"].shape[1] if "input_ids" in kwargs else args[0].shape[1]
        return forward(*args, attention_mask=attention_mask[:, -width:], **kwargs)

    model.model.forward = forgetful
    assert share_error(backbone) is not None


# ---------------------------------------------------------------------- the common prefix


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=2, max_size=6))
def test_the_common_prefix_is_the_longest_that_leaves_a_token(ids: list[list[int]]) -> None:
    found = common_prefix([Row(i) for i in ids])
    longest = 0
    while all(len(i) > longest + 1 for i in ids) and len({i[longest] for i in ids}) == 1:
        longest += 1
    assert found == ids[0][:longest]


def test_a_single_row_shares_nothing() -> None:
    assert common_prefix([Row([1, 2, 3])]) == []
    assert common_prefix([]) == []


@pytest.mark.parametrize("name", MULTIMODAL)
def test_the_text_before_a_picture_is_shared(name: str, tiny: Tiny) -> None:
    """M-RoPE positions, features and masks are those of whole rows."""
    backbone = tiny(name)
    items = [items_for(name)["picture"], items_for(name)["interleaved"], Item("text only")]
    items += [items_for(name)["film"]] if "film" in items_for(name) else []
    batch = [backbone.row(FRAMES["mcq"].apply(Item("the word"), item)) for item in items]
    ids = common_prefix(batch, backbone.encoder.media_ids)
    assert len(ids) > 50
    assert backbone.encoder.media_ids.isdisjoint(ids)
    for row, state in zip(batch, final(backbone, batch), strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5
    started: list[int] = []
    run_batches(backbone, batch, lambda b: started.append(sum(b.lengths)) or [0] * len(b))
    shares = name not in {*FALLS_BACK, "qwen2.5-omni"}
    assert sum(started) == sum(map(len, batch)) - shares * len(ids) * len(batch)


def test_threads_can_share_at_once(tiny: Tiny) -> None:
    backbone = tiny("qwen2")
    jobs = [rows(20, (3, 8, 5)), rows(31, (9, 1)), rows(12, (4, 4, 4, 7))]
    expected = [torch.stack(final(backbone, batch)) for batch in jobs]
    found: list[Tensor | None] = [None] * len(jobs)

    def work(i: int) -> None:
        for _ in range(5):
            found[i] = torch.stack(final(backbone, jobs[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got, want in zip(found, expected, strict=True):
        assert got is not None
        assert torch.equal(got, want)
