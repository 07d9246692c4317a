"""Results do not depend on how rows are batched, and come back in the order given."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from probes.errors import FreeRetError
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record
from probes.prompts import ControlPrompt

Tiny = Callable[[str], Backbone]
LENGTHS = st.lists(st.integers(1, 60), max_size=25)


def rows(lengths: Sequence[int], prefix: int = 0) -> list[Row]:
    """Rows of given lengths; row i ends with token i, which identifies it."""
    start = [7] * prefix
    return [Row([*start, *([100 + i] * (n - 1)), i]) for i, n in enumerate(lengths)]


def ends(batch: Batch) -> list[int]:
    """A forward that returns the last token of each row."""
    ids = batch.inputs["input_ids"]
    return [int(ids[place]) for places in batch.read for place in places]


@given(lengths=LENGTHS, budget=st.integers(1, 200), prefix=st.sampled_from([0, 20]))
@settings(max_examples=25)
def test_every_row_once_in_order_within_the_budget(
    lengths: list[int], budget: int, prefix: int, tiny: Tiny
) -> None:
    seen: list[int] = []

    def forward(batch: Batch) -> list[int]:
        padded = batch.inputs["input_ids"]
        assert len(batch) == 1 or padded.numel() <= budget
        assert padded.numel() >= sum(batch.lengths)
        seen.extend(ends(batch))
        return ends(batch)

    results = run_batches(tiny("llama"), rows(lengths, prefix), forward, token_budget=budget)
    assert results == list(range(len(lengths)))
    assert sorted(seen) == results


def test_no_rows_give_no_results(tiny: Tiny) -> None:
    assert run_batches(tiny("llama"), [], ends) == []


@pytest.mark.parametrize("prefix", [0, 20])
def test_a_budget_is_used(prefix: int, tiny: Tiny) -> None:
    """64 rows of 8 tokens in a budget of 128 are 4 batches, whatever prefix they share."""
    sizes: list[int] = []

    def forward(batch: Batch) -> list[int]:
        sizes.append(len(batch))
        return ends(batch)

    run_batches(tiny("llama"), rows([8] * 64, prefix), forward, token_budget=128)
    assert sizes == [16] * 4


def test_little_is_padded(tiny: Tiny) -> None:
    """One long row does not make its neighbours long."""
    padded: list[int] = []

    def forward(batch: Batch) -> list[int]:
        padded.append(batch.inputs["input_ids"].numel())
        return ends(batch)

    lengths = [4, 60, 4, 58, 4, 4, 61, 4]
    run_batches(tiny("llama"), rows(lengths), forward, token_budget=200)
    assert sum(padded) <= 1.1 * sum(lengths)
    padded.clear()
    lengths = list(range(1, 61))  # would fit one batch of 3600 tokens
    run_batches(tiny("llama"), rows(lengths), forward, token_budget=3600)
    assert sum(padded) <= 1.3 * sum(lengths)


def test_a_shared_prefix_is_computed_once(tiny: Tiny) -> None:
    """It is computed again only where the next rows begin with other tokens."""
    computed: list[int] = []
    backbone = tiny("llama")
    embed = backbone.model.get_input_embeddings()

    def run(prefix: list[int]) -> Tensor:
        batch = [Row([*prefix, 100 + i, 1, 1, 1]) for i in range(8)]
        return torch.stack(
            run_batches(backbone, batch, lambda b: list(record(backbone, b, ["norm"])["norm"]))
        )

    run([9] * 50)
    handle = embed.register_forward_hook(lambda _, args, __: computed.append(args[0].numel()))
    first, again, other, third = (run(p) for p in ([7] * 50, [7] * 50, [7] * 40, [7] * 50))
    handle.remove()
    assert computed == [50, 32, 32, 40, 32, 50, 32]
    assert torch.equal(first, again)
    assert torch.equal(first, third), "what ran before changes nothing"
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", ["llama", "gemma2", "qwen2.5-vl"])
@given(data=st.data())
@settings(max_examples=8)
def test_results_do_not_depend_on_the_budget(name: str, tiny: Tiny, data: st.DataObject) -> None:
    backbone, prompt = tiny(name), ControlPrompt(task=None)
    texts = data.draw(st.lists(st.text(max_size=60), min_size=1, max_size=8))
    batch = [backbone.row(prompt.apply(Item(f"{text}."))) for text in texts]
    if name == "qwen2.5-vl":
        for size in data.draw(st.lists(st.sampled_from([32, 48, 64]), max_size=2)):
            picture = Image.new("RGB", (size, 32), "teal")
            batch.append(backbone.row(prompt.apply(Item(images=[picture]))))

    def states(budget: int) -> Tensor:
        found = run_batches(
            backbone,
            batch,
            lambda b: list(record(backbone, b, ["attn[-1]"])["attn[-1]"]),
            token_budget=budget,
        )
        return torch.stack(found)

    one_by_one = states(1)
    for budget in (300, 100_000):
        moved = (states(budget) - one_by_one).norm(dim=-1) / one_by_one.norm(dim=-1)
        assert moved.max() <= 1e-5


# ------------------------------------------------------------------------- out of memory


@given(
    lengths=LENGTHS, fits=st.integers(1, 6), error=st.sampled_from([0, 1]), prefix=st.integers(0, 1)
)
@settings(max_examples=25)
def test_a_batch_that_does_not_fit_is_halved(
    lengths: list[int], fits: int, error: int, prefix: int, tiny: Tiny
) -> None:
    sizes: list[int] = []

    def forward(batch: Batch) -> list[int]:
        if len(batch) > fits:
            raise (torch.OutOfMemoryError, MemoryError)[error]("injected")
        sizes.append(len(batch))
        return ends(batch)

    batch = rows(lengths, 20 * prefix)
    assert run_batches(tiny("llama"), batch, forward) == list(range(len(lengths)))
    assert sum(sizes) == len(lengths)


def test_halving_is_logged(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    def forward(batch: Batch) -> list[int]:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("injected")
        return ends(batch)

    run_batches(tiny("llama"), rows([3, 4, 5, 6]), forward)
    assert "a batch of 4 rows is halved" in caplog.text


def test_the_error_for_a_row_that_never_fits_names_its_length(tiny: Tiny) -> None:
    def forward(batch: Batch) -> list[int]:
        raise torch.OutOfMemoryError("injected")

    with pytest.raises(FreeRetError, match="one row of 9 tokens does not fit in memory"):
        run_batches(tiny("llama"), rows([9]), forward)


def test_any_other_error_is_raised_as_it_is(tiny: Tiny) -> None:
    def forward(batch: Batch) -> list[int]:
        raise RuntimeError("not a matter of memory")

    with pytest.raises(RuntimeError, match="not a matter of memory"):
        run_batches(tiny("llama"), rows([3, 4]), forward)


def test_a_forward_must_return_a_result_for_every_row(tiny: Tiny) -> None:
    with pytest.raises(ValueError, match="zip"):
        run_batches(tiny("llama"), rows([3, 4]), lambda batch: ends(batch)[:-1])


def test_a_progress_bar_must_be_asked_for(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    run_batches(tiny("llama"), rows([3, 4]), ends)
    assert "".join(capfd.readouterr()) == ""
