"""A row longer than its limit is cut in the content, and keeps its prompt and its cue."""

import copy
import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.errors import BadItem
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.encoding import Encoder
from probes.prompts import ControlPrompt
from tests.model.test_encoding import PICTURES, controls, framed
from tests.models import TEXT, tokenizer

Tiny = Callable[[str], Backbone]


@given(
    text=st.builds(str.__mul__, st.text(min_size=1, max_size=9), st.integers(1, 99)),
    room=st.integers(80, 150),
)
@settings(max_examples=60)
def test_a_row_within_its_limit_ends_with_its_cue(text: str, room: int, tiny: Tiny) -> None:
    encoder = Encoder(tiny("llama").model, tokenizer(), max_tokens=room)
    row = encoder.row(framed(text))
    decoded = encoder.tokenizer.decode(row.ids)
    head, cue = "<|im_start|>user\nInput: ", "\nIt means:<|im_end|>\n<|im_start|>assistant\n"
    assert len(row) <= room
    assert decoded.startswith(head)
    assert decoded.endswith(cue)
    kept = decoded[len(head) : -len(cue)]
    assert text.startswith(kept)
    if kept != text:  # at most a character of 4 tokens, and the room for two markers, are lost
        assert len(row) >= room - 16


def test_a_cut_is_logged_with_the_name_of_the_item(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = Encoder(tiny("llama").model, tokenizer(), max_tokens=100)
    with caplog.at_level(logging.WARNING):
        encoder.row(framed("short"), name="item 'a'")
        assert caplog.text == ""
        encoder.row(framed("x" * 500), name="item 'b'")
    assert "item 'b': cut from 500 to" in caplog.text


def test_a_picture_leaves_room_for_the_text_beside_it(tiny: Tiny) -> None:
    """The tokens of the picture count, and the text is cut."""
    backbone = tiny("qwen2.5-vl")
    encoder = Encoder(backbone.model, backbone.tokenizer, backbone.processor, max_tokens=100)
    prompted = ControlPrompt(task=None, grounding=False, denoise=False).apply(
        Item("x" * 300, images=PICTURES[:1])
    )
    row = encoder.row(prompted)
    full = backbone.row(prompted)
    assert len(row) <= 100 < len(full)
    assert controls(backbone, row) == controls(backbone, full)
    assert backbone.tokenizer.decode(row.ids).endswith('assistant\n"')


def test_a_prompt_that_leaves_no_room_is_refused(tiny: Tiny) -> None:
    encoder = Encoder(tiny("llama").model, tokenizer(), max_tokens=20)
    with pytest.raises(BadItem, match=r"item 'a': its prompt alone needs \d+ of 20 tokens"):
        encoder.row(ControlPrompt().apply(Item("x" * 90)), name="item 'a'")


def test_the_length_of_a_row_is_limited_by_the_model_and_by_a_default() -> None:
    """The default is 32,768 tokens, even where a model claims a longer context."""
    for context, limit in ((2048, 2048), (16_384, 16_384), (131_072, 32_768)):
        model = copy.copy(TEXT["llama"]())
        model.config = copy.copy(model.config)
        model.config.max_position_embeddings = context
        encoder = Encoder(model, tokenizer())
        assert encoder.max_tokens == limit
        assert limit - 10 < len(encoder.row(Item("x" * 40_000))) <= limit
