"""Prompts put an item of any form to the model."""

import pytest

from probes import NAMED, Item, Part
from probes.errors import BadItem
from tests.samples import picture

RED = picture(8, 8)


@pytest.mark.parametrize("name", NAMED)
def test_a_prompt_takes_whatever_is_read_as_an_item(name: str) -> None:
    prompt = NAMED[name]
    assert prompt.apply("a cat") == prompt.apply(Item("a cat"))
    assert prompt.apply({"text": "a cat"}) == prompt.apply(Item("a cat"))
    assert Part("image", RED) in prompt.apply(RED).user
    with pytest.raises(BadItem, match="no content"):
        prompt.apply("")
