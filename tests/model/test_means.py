"""Sites with a mean: the content of a row is found, and averaged as by hand, in packs too."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from probes.errors import BadSetting
from probes.items import Item
from probes.measure.synonyms import synonym_similarity
from probes.microscope.lens import lens
from probes.microscope.stored import store_states
from probes.microscope.turns import turn
from probes.model.backbone import Backbone
from probes.model.batches.states import device_states, states_of
from probes.model.encoding import Row
from probes.model.encoding.content import filled, overlapping
from probes.model.interventions import intervene, skip
from probes.model.trace import record
from probes.prompts import ControlPrompt, as_prompt
from tests.model.test_trace import Tiny, relative
from tests.models import MULTIMODAL, TEXT
from tests.samples import items_for

SITES = ["attn[-1]", "attn[-1]+mean", "norm+mean"]
TEXTS = [
    "The word of the image is one word.",
    "The word of the image is another word, and then a few more of them follow here.",
    "The word of the image is one word, again.",
    "One.",
]
"""The first three begin alike: were they alone, a prefix could hold content that is read."""


def unit(states: Tensor) -> Tensor:
    return torch.nn.functional.normalize(states.float(), dim=-1)


def by_hand(backbone: Backbone, row: Row) -> Tensor:
    """The states of SITES from those of all tokens of a row alone, `[sites, hidden]`."""
    batch = backbone.collate([row])
    states = record(backbone, batch, ["attn[-1]", "norm"], positions="all")
    places = [i for start, stop in row.content for i in range(start, stop)]
    attn, norm = states["attn[-1]"].float(), states["norm"].float()
    means = [unit(each[-1]) + unit(each[places]).mean(0) for each in (attn, norm)]
    return torch.stack([attn[-1], *means])


def check(backbone: Backbone, rows: list[Row]) -> None:
    states = device_states(backbone, rows, SITES)
    for row, found in zip(rows, states, strict=True):
        assert relative(found, by_hand(backbone, row)) <= 1e-5


@pytest.mark.parametrize("name", TEXT)
def test_means_of_texts_are_those_by_hand(name: str, tiny: Tiny) -> None:
    prompt = ControlPrompt()
    rows = [tiny(name).row(prompt.apply(Item(text))) for text in TEXTS]
    check(tiny(name), rows)
    check(tiny(name), rows[:3])


@pytest.mark.parametrize("name", MULTIMODAL)
def test_placeholders_of_media_belong_to_the_content(name: str, tiny: Tiny) -> None:
    backbone, prompt = tiny(name), ControlPrompt()
    items = [*items_for(name).values(), *map(Item, TEXTS)]
    rows = [backbone.row(prompt.apply(item)) for item in items]
    for row in rows:
        inside = {i for start, stop in row.content for i in range(start, stop)}
        assert inside >= {i for start, stop in row.spans for i in range(start, stop)}
    check(backbone, rows)


def test_means_of_real_weights(real: tuple[str, Backbone]) -> None:
    backbone, prompt = real[1], as_prompt("prompteol")
    check(backbone, [backbone.row(prompt.apply(Item(text))) for text in TEXTS])


def test_the_content_is_the_text_and_nothing_else(real: tuple[str, Backbone]) -> None:
    backbone = real[1]
    for text in ("A cat 日本 🐈.", "x"):
        row = backbone.row(ControlPrompt().apply(Item(text)))
        ((start, stop),) = row.content
        decoded = backbone.tokenizer.decode(row.ids[start:stop])
        around = backbone.tokenizer.decode(row.ids[max(0, start - 1) : stop + 1])
        # A token may hold a character of the prompt beside the first or the last of the text.
        assert text in decoded
        assert len(decoded) <= len(text) + 4 < len(around) + 4


def test_a_text_that_is_cut_keeps_its_content(smollm2: Backbone) -> None:
    encoder = smollm2.encoder
    whole = encoder.row(ControlPrompt().apply(Item("word " * 50)))
    cut = encoder.row(ControlPrompt().apply(Item("word " * 50)), reserved=encoder.max_tokens - 120)
    assert len(cut) <= 120 < len(whole)
    ((start, stop),) = cut.content
    assert set(cut.ids[start + 1 : stop]) == set(whole.ids[slice(*whole.content[0])][1:-1])


def test_a_lone_item_and_raw_texts_have_means_too(smollm2: Backbone) -> None:
    states = states_of(smollm2, TEXTS[:2], SITES)
    rows = smollm2.rows(TEXTS[:2])
    assert [row.content for row in rows] == [((0, len(row)),) for row in rows]
    for row, found in zip(rows, states, strict=True):
        assert relative(found, by_hand(smollm2, row)) <= 1e-5
    one = record(smollm2, TEXTS[0], "attn[-1]+mean")["attn[-1]+mean"]
    assert relative(one[0], states[0, 1]) <= 1e-5


def test_a_row_without_content_is_its_last_token(tiny: Tiny) -> None:
    backbone = tiny("llama")
    row = replace(Row(backbone.rows(TEXTS)[0].ids), mean=True)
    states = record(backbone, backbone.collate([row]), SITES)
    assert relative(states["attn[-1]+mean"], 2 * unit(states["attn[-1]"])) <= 1e-6


def test_what_cannot_be_averaged_is_said(tiny: Tiny, unchecked: None) -> None:
    backbone = tiny("llama")
    with pytest.raises(BadSetting, match=r"make the batch by Backbone\.encode"):
        record(backbone, backbone.collate(backbone.rows(TEXTS)), "norm+mean")
    with pytest.raises(BadSetting, match="leave positions at 'last'"):
        record(backbone, TEXTS, "norm+mean", positions="all")


def test_what_reads_single_positions_refuses_a_mean(tiny: Tiny, tmp_path: Path) -> None:
    backbone, site = tiny("llama"), "mlp[-1]+mean"
    uses: list[Callable[[], object]] = [
        lambda: intervene(backbone, {site: skip}).__enter__(),
        lambda: lens(backbone, TEXTS[0], sites=[site, "norm"]),
        lambda: synonym_similarity(backbone, [site]),
        lambda: store_states(backbone, TEXTS, [site], tmp_path / "states"),
        lambda: turn(backbone, TEXTS, site=site),
    ]
    for use in uses:
        with pytest.raises(BadSetting, match=r"mlp\[-1\]\+mean is read at several tokens"):
            use()
    assert not (tmp_path / "states").exists()


@given(st.lists(st.text("ab ", max_size=5), min_size=1, max_size=4), st.text("xy", max_size=4))
def test_each_stretch_has_the_tokens_that_hold_its_characters(
    contents: list[str], between: str
) -> None:
    marked = between.join(f"\ue000{i}\ue001" for i in range(len(contents)))
    text, stretches = filled(marked, contents)
    assert text == between.join(contents)
    assert [text[start:stop] for start, stop in stretches] == contents
    offsets = [(i, min(i + 2, len(text))) for i in range(0, len(text), 2)]
    found = overlapping(offsets, stretches, 10)
    expected = [
        [10 + i for i, (a, b) in enumerate(offsets) if max(a, start) < min(b, stop)]
        for start, stop in stretches
    ]
    assert [list(range(*span)) for span in found] == [places for places in expected if places]
