"""Rows are cut into batches as is cheapest where they run."""

from collections.abc import Callable, Iterator
from itertools import combinations
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.model.backbone import Backbone
from probes.model.batches import cost
from probes.model.batches.cost import CPU, GPU, cut
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.loading import Loading

Tiny = Callable[[str], Backbone]


def captions(count: int, tokens: int) -> list[int]:
    """Lengths of captions, ascending, which add up to so many tokens."""
    draw = Random(0)
    lengths = [draw.randint(12, 40) for _ in range(count)]
    while (missing := tokens - sum(lengths)) != 0:
        lengths[draw.randrange(count)] += 1 if missing > 0 else -1
    return sorted(lengths)


def sizes(lengths: list[int], budget: int, fixed: float) -> list[int]:
    return [len(batch) for batch in cut(range(len(lengths)), lengths, budget, fixed)]


def padded(lengths: list[int], budget: int, fixed: float) -> int:
    return sum(len(b) * lengths[b[-1]] for b in cut(range(len(lengths)), lengths, budget, fixed))


def test_many_captions_are_as_few_batches_as_possible_where_a_batch_is_dear() -> None:
    lengths = captions(256, 7411)
    fewest, end = 0, 256  # greedily from the longest
    while end:
        end, fewest = max(0, end - 2048 // lengths[end - 1]), fewest + 1
    assert len(sizes(lengths, 2048, 2048.0)) == fewest == 5
    assert sizes(lengths, GPU.budget, float(GPU.budget)) == [256]
    assert len(sizes(lengths, GPU.budget, GPU.fixed)) == 2, "padding is worth a second"
    assert len(sizes(lengths, CPU.budget, CPU.fixed)) > 5


def test_the_candidates_of_a_query_are_one_batch_on_a_gpu() -> None:
    assert sizes(captions(50, 1332), GPU.budget, GPU.fixed) == [50]


def test_no_token_is_padded_where_a_batch_costs_nothing() -> None:
    lengths = captions(256, 7411)
    assert padded(lengths, 2048, 1e-6) == 7411
    assert padded(lengths, 2048, 64.0) < 1.15 * 7411


@given(
    st.lists(st.integers(1, 30), max_size=9).map(sorted),
    st.integers(1, 80),
    st.sampled_from([0.0, 1.0, 17.0, 1000.0]),
)
def test_no_other_cut_is_cheaper(lengths: list[int], budget: int, fixed: float) -> None:
    def price(edges: tuple[int, ...]) -> float:
        ends = list(zip((0, *edges), (*edges, len(lengths)), strict=True))
        if any(b - a > 1 and (b - a) * lengths[b - 1] > budget for a, b in ends):
            return float("inf")
        return sum(fixed + (b - a) * lengths[b - 1] for a, b in ends)

    batches = cut(range(len(lengths)), lengths, budget, fixed)
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    if lengths:
        inner = range(1, len(lengths))
        best = min(price(e) for n in range(len(lengths)) for e in combinations(inner, n))
        assert price(tuple(batch[0] for batch in batches[1:])) == best


# ------------------------------------------------------------------------------- measurement


@pytest.fixture(autouse=True)
def assumed_costs() -> None:
    """Costs are measured here."""
    cost._fixed_costs.clear()


@pytest.fixture
def timed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float, float], None]]:
    """Sets the clock of a forward to a + b·tokens seconds, and forgets what was measured."""

    def clock(a: float, b: float) -> None:
        cost._fixed_costs.clear()
        monkeypatch.setattr(cost, "_seconds", lambda _, rows: a + b * rows * cost.WIDTH)

    yield clock
    cost._fixed_costs.clear()


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [(0.064, 0.001, 64), (0.05, 0.001, 64), (0.0, 1.0, 1), (0.3, 0.0, CPU.budget)],
)
def test_the_fixed_cost_is_that_of_the_fitted_line(
    a: float, b: float, expected: float, tiny: Tiny, timed: Callable[[float, float], None]
) -> None:
    timed(a, b)
    assert cost.fixed_cost(tiny("llama"), 100_000) == expected


def test_only_large_blocks_are_worth_a_measurement(tiny: Tiny) -> None:
    """Two forwards of two sizes, once; a small block pays for none."""
    backbone = tiny("llama")
    cost._fixed_costs.pop(backbone, None)
    shapes: list[torch.Size] = []
    embed = backbone.model.get_input_embeddings()
    handle = embed.register_forward_hook(lambda _, args, __: shapes.append(args[0].shape))
    try:
        assert cost.fixed_cost(backbone, CPU.large) == CPU.fixed
        assert shapes == []
        first = cost.fixed_cost(backbone, CPU.large + 1)
        assert shapes == [(1, cost.WIDTH)] * 2 + [(CPU.sample // cost.WIDTH, cost.WIDTH)] * 2
        assert cost.fixed_cost(backbone) == cost.fixed_cost(backbone, 10**6) == first
        assert len(shapes) == 4
    finally:
        handle.remove()
        cost._fixed_costs.pop(backbone, None)


def test_the_measured_cost_decides_the_batches(
    tiny: Tiny, timed: Callable[[float, float], None]
) -> None:
    backbone, counts = tiny("llama"), list[int]()
    rows = [Row([100] * (length - 1) + [n]) for n, length in enumerate(captions(400, 11_000))]

    def batches() -> int:
        seen: list[int] = []

        def forward(batch: Batch) -> list[None]:
            seen.append(len(batch))
            return [None] * len(batch)

        run_batches(backbone, rows, forward, share_prefix=False)
        return len(seen)

    for a in (1e-9, 10.0):
        timed(a, 0.001)
        counts.append(batches())
    assert counts[1] < 10 < 25 < counts[0]


# ------------------------------------------------------------------------------------ budget


def test_the_budget_is_that_of_the_device_unless_it_is_given(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("llama")
    assert cost.budget(backbone) == CPU.budget
    monkeypatch.setattr(backbone, "loading", Loading(token_budget=77))
    assert cost.budget(backbone) == 77


def test_the_budget_follows_free_memory(tiny: Tiny) -> None:
    """A token of float32 states of the hidden size, STATES of them."""
    backbone = tiny("llama")
    token = cost.STATES * backbone.hidden_size * 4
    found = [cost.tokens_in(backbone, n * token) for n in (0, 1, 1000, 1024, 10**6)]
    assert found == [1, 1, 512, 1024, 2**19]
