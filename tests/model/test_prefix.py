"""What rows share changes how long they take, and nothing else."""

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
from probes.model.batches.packing import Pack
from probes.model.batches.prefix import Prefix, common_prefix
from probes.model.batches.run import planned, run_batches
from probes.model.batches.sharing import share_error
from probes.model.encoding import Row
from probes.model.trace import record
from probes.prompts import ControlPrompt
from tests.models import MULTIMODAL, TEXT, causal, tokenizer
from tests.samples import items_for, picture

Tiny = Callable[[str], Backbone]
SITES = ["attn[0]", "attn[-1]", "mlp[-1]", "norm"]

WHOLE = {"gemma3-vl", "qwen2.5-omni"}
"""Families whose rows with media are computed whole, since masks or positions depend on them."""


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


def shared(backbone: Backbone, batch: Sequence[Row], length: int) -> Tensor:
    """States of rows that continue a prefix, all but the last of the alphabet in one pack."""
    order = sorted(range(len(batch)), key=lambda i: batch[i].contents)
    parts = [part for part in (order[:-1], order[-1:]) if part]
    packs = [Pack.of(backbone.encoder, [batch[i] for i in part], length) for part in parts]
    collated = Prefix(backbone, batch[0], length).collate(packs)
    states = record(backbone, collated, SITES, logits=True)
    assert states.logits is not None
    found = torch.cat([*(states[site] for site in SITES), states.logits], dim=-1)
    return found[torch.tensor(order).argsort()]


def apart(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm() / right.norm()).item()


def final(backbone: Backbone, batch: Sequence[Row]) -> list[Tensor]:
    """States at the norm from `run_batches`."""
    return run_batches(backbone, batch, lambda b: list(record(backbone, b, ["norm"])["norm"]))


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
def test_every_family_shares(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    assert share_error(backbone) is None
    if "image" in backbone.modalities:
        assert bool(share_error(backbone, ["image"])) == (name in WHOLE)


@pytest.mark.parametrize("name", [*TEXT, *MULTIMODAL])
@given(
    prefix=st.integers(0, 40),
    tails=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=5),
)
@settings(max_examples=6)
def test_shared_equals_whole(
    name: str, prefix: int, tails: list[tuple[int, int]], tiny: Tiny
) -> None:
    """Also where rows begin alike beyond the prefix, are the same, or begin others."""
    backbone, more = tiny(name), plain(10, seed=99)
    batch = [
        Row(plain(prefix, seed=0) + more[:same] + plain(tail, seed=tail)) for same, tail in tails
    ]
    states = shared(backbone, batch, prefix)
    for row, state in zip(batch, states, strict=True):
        assert apart(state, whole(backbone, row)) <= 1e-5


@pytest.mark.parametrize("name", ["smollm2", "gemma", "qwen"])
def test_shared_equals_whole_on_real_weights(name: str, request: pytest.FixtureRequest) -> None:
    backbone = request.getfixturevalue(name)
    assert share_error(backbone) is None
    prompt = ControlPrompt()
    texts = ["rain", "The cat sleeps on the warm stove.", "日本の冬は寒い"]
    batch = [backbone.row(prompt.apply(Item(text))) for text in texts]
    length = len(common_prefix(batch))
    assert length > 20
    states = shared(backbone, batch, length)
    for row, state in zip(batch, states, strict=True):
        assert apart(state, whole(backbone, row)) <= 1e-5


def test_a_prefix_can_be_continued_again_and_again(tiny: Tiny) -> None:
    """A batch that wrote into the prefix would spoil the next one."""
    backbone, batch = tiny("llama"), rows(20, [3, 9, 5])
    first = shared(backbone, batch, 20)
    shared(backbone, batch[::-1], 20)
    assert torch.equal(shared(backbone, batch, 20), first)


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
    """They share a prefix all the same, and distance is counted in the row, not in the pack."""
    backbone = Backbone.load(causal(name, **WINDOWED[name]), tokenizer=tokenizer())
    batch = rows(prefix, tails)
    assert {p.length if p else 0 for p, _ in planned(backbone, batch, 2048)} == {prefix}
    for row, state in zip(batch, final(backbone, batch), strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


def test_gemma_is_right_beyond_its_window(gemma: Backbone) -> None:
    batch = rows(500, (10, 60))
    for row, state in zip(batch, final(gemma, batch), strict=True):
        alone = record(gemma, gemma.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


def test_a_model_that_ignores_its_cache_does_not_share() -> None:
    """The trial compares states, so that a cache that is accepted but not read fails."""
    model = TEXT["llama"].__wrapped__()
    backbone = Backbone.load(model, tokenizer=tokenizer())
    forward = model.model.forward

    def forgetful(*args, attention_mask, cache=None, past_key_values=None, **kwargs):
        width = kwargs["input_ids"].shape[1] if "input_ids" in kwargs else args[0].shape[1]
        return forward(*args, attention_mask=attention_mask[..., -width:], **kwargs)

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


def entering(backbone: Backbone, work: Callable[[], object]) -> list[int]:
    """Padded tokens of each forward of the language model."""
    counts: list[int] = []
    layer = backbone.model.get_submodule(backbone.anatomy.layers)[0]

    def count(module: object, args: tuple, kwargs: dict) -> None:
        counts.append((args[0] if args else kwargs["hidden_states"]).shape[:-1].numel())

    handle = layer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return counts


@pytest.mark.parametrize("name", MULTIMODAL)
def test_pictures_are_shared_and_rows_with_pictures_share(name: str, tiny: Tiny) -> None:
    """M-RoPE positions, features and masks are those of whole rows."""
    backbone, some = tiny(name), items_for(name)
    items = [some["picture"], some["interleaved"], Item("text only"), Item("text"), some["picture"]]
    items += [some["film"]] if "film" in some else []
    queries = [Item("the word"), some["picture"], some["interleaved"]]
    batch = [backbone.row(FRAMES["mcq"].apply(q, item)) for q in queries for item in items]
    states = final(backbone, batch)
    for row, state in zip(batch, states, strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5
    started: list[int] = []
    run_batches(backbone, batch, lambda b: started.append(sum(b.lengths)) or [0] * len(b))
    assert (sum(started) < sum(map(len, batch)) / 2) == (name not in WHOLE)


@pytest.mark.parametrize("name", sorted(set(MULTIMODAL) - WHOLE))
def test_the_picture_of_a_query_is_computed_once(name: str, tiny: Tiny) -> None:
    """Least: the row's beginning once, and what follows it in each of 50 rows."""
    backbone, query = tiny(name), Item(images=[picture(160, 160)])
    texts = [f"the word {number}" for number in range(50)]
    batch = [backbone.row(FRAMES["mcq"].apply(query, Item(text))) for text in texts]
    final(backbone, batch[:2])  # finds out whether they can be shared
    final(backbone, rows(20, [3, 4]))  # and forgets their prefix
    shared = len(common_prefix(batch))
    assert backbone.encoder.media_ids & set(batch[0].ids[:shared])
    least = shared + sum(len(row) - shared for row in batch)
    assert sum(entering(backbone, lambda: final(backbone, batch))) <= 1.1 * least


def test_queries_share_forwards(tiny: Tiny) -> None:
    """10 candidates of each of 20 queries; a query for itself would take two forwards at least."""
    backbone = tiny("llama")
    batch = [
        backbone.row(FRAMES["mcq"].apply(Item(f"{number}. is the word of"), Item(f"the {letter}")))
        for number in range(20)
        for letter in "abcdefghij"
    ]
    final(backbone, batch[:2])
    counts = entering(backbone, lambda: final(backbone, batch))
    assert len(counts) <= 5
    shared = len(common_prefix(batch))
    own = [len(common_prefix(batch[i : i + 10])) - shared for i in range(0, len(batch), 10)]
    least = sum(len(row) - shared for row in batch) - 9 * sum(own)
    assert sum(counts) - shared <= 1.2 * least


def test_a_long_beginning_gets_a_prefix_of_its_own(tiny: Tiny) -> None:
    """It would be computed in several packs; the short ones are not worth a forward."""
    backbone = tiny("llama")
    batch = rows(300, [60] * 30) + [Row(plain(20, 0) + plain(9, seed)) for seed in range(50, 60)]
    plan = planned(backbone, batch, 2048)
    assert {prefix.length if prefix else 0 for prefix, _ in plan} == {20, 300}
    counts = entering(backbone, lambda: final(backbone, batch))
    assert sum(counts) <= 1.1 * (300 + 30 * 60 + 20 + 10 * 9)


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
