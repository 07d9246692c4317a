"""Rows that several measurements read are computed once, and their states are those that each would
have computed itself."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from probes.measure.diagnostic.extractions import TASKED, diagnose
from probes.measure.diagnostic.hybrid import hybrid_gain
from probes.measure.diagnostic.scores import select_extraction
from probes.measure.lexicalization import curves_by_prompt
from probes.measure.parts import PARTS, PartName
from probes.measure.reranking import rerank_gain
from probes.model.backbone import Backbone
from probes.model.batches import remembering as kept
from probes.model.batches import states
from probes.model.batches.remembering import remember, remembered_states, remembering
from probes.model.batches.states import device_states
from probes.model.sites import all_sites, late_sites
from probes.prompts import NAMED
from tests.samples import few_texts, items_for

Tiny = Callable[[str], Backbone]
LAST = "norm"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[int, ...]]:
    """How often the states of each row were computed, by its tokens."""
    counts: Counter[tuple[int, ...]] = Counter()

    def counting(run: Callable) -> Callable:
        def counted(backbone: Backbone, rows: Any, *args: Any, **kwargs: Any) -> Any:
            counts.update(tuple(row.ids) for row in rows)
            return run(backbone, rows, *args, **kwargs)

        return counted

    counted_run = counting(states.run_batches)
    for module in ("model.batches.states", "measure.lexicalization"):
        monkeypatch.setattr(f"probes.{module}.run_batches", counted_run)
    return counts


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    few_texts(monkeypatch, 6, 2)


@pytest.mark.usefixtures("few")
def test_parts_of_a_report_compute_no_row_twice(
    tiny: Tiny, computed: Counter[tuple[int, ...]]
) -> None:
    backbone = tiny("llama")

    def measure() -> list[Any]:
        """Scores and gains; parts are measured in the order in which a report measures them."""
        report: dict[str, Any] = {}
        measures: dict[PartName, Callable[[], Any]] = {
            "curves": lambda: curves_by_prompt(backbone),
            "diagnostic": lambda: diagnose(backbone),
            "hybrid": lambda: hybrid_gain(backbone, select_extraction(report["diagnostic"])),
            "reranking": lambda: rerank_gain(
                backbone, select_extraction(report["diagnostic"]), "yes_no"
            ),
        }
        for part in sorted(measures, key=PARTS.index):
            report[part] = measures[part]()
        return [report[part] for part in ("diagnostic", "hybrid", "reranking")]

    with remembering():
        shared = measure()
    assert set(computed.values()) == {1}
    prompts = len(NAMED) + len(TASKED)
    short, passages = prompts * 6 * 3, (prompts + 1) // 2 * 2 * 3
    assert len(computed) == short + passages + 6, "texts under each prompt, and running text"
    computed.clear()
    apart = measure()
    assert max(computed.values()) == 3
    (together, numbers), (alone, expected) = _apart(repr(shared)), _apart(repr(apart))
    assert together == alone
    assert numbers == pytest.approx(expected, abs=1e-5)


def _apart(written: str) -> tuple[str, list[float]]:
    """A representation without its numbers, and these: batches are cut by measured time, which
    changes the rounding."""
    number = r"-?\d+\.\d+(?:e-?\d+)?"
    return re.sub(number, "", written), [float(n) for n in re.findall(number, written)]


def test_states_are_taken_from_memory_where_all_their_sites_are_known(
    tiny: Tiny, computed: Counter[tuple[int, ...]]
) -> None:
    backbone = tiny("llama")
    rows = [backbone.row(NAMED["e5v"].apply(text)) for text in ("bread", "the moon", "a cat")]
    late, every = late_sites(2), list(map(str, all_sites(backbone)))
    expected = device_states(backbone, rows, every)
    with remembering():
        remembered_states(backbone, rows[:2], late)
        computed.clear()
        found = remembered_states(backbone, rows[::-1], ["mlp[-1]", LAST])
        assert set(computed) == {tuple(rows[2].ids)}
        wanted = expected[:, [every.index(f"mlp[{backbone.num_layers - 1}]"), every.index(LAST)]]
        torch.testing.assert_close(found, wanted.flip(0), atol=1e-5, rtol=1e-5)
        computed.clear()
        found = remembered_states(backbone, rows, ["embed", *late])
        assert len(computed) == 3, "no state at `embed` was kept"
    computed.clear()
    remembered_states(backbone, rows, late)
    assert len(computed) == 3, "the memory ends with its context"


def test_pictures_with_the_same_tokens_are_not_mistaken(tiny: Tiny) -> None:
    """The placeholders of two pictures of a size are the same tokens."""
    backbone = tiny("qwen2-vl")
    row = backbone.row(items_for("qwen2-vl")["picture"])
    with remembering():
        remember(
            backbone, [row], [*all_sites(backbone)[-1:]], torch.zeros(1, 1, backbone.hidden_size)
        )
        assert kept._memory.get() == {}
        assert remembered_states(backbone, [row], [LAST]).abs().max() > 0
