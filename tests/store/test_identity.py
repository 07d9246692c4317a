"""What made a store or a result file is said in words: names first, no checksums."""

import copy
from typing import Any

import pytest

from freeret.store.identity import differences, flat, in_words

MADE: dict[str, Any] = {
    "backbone": {
        "model": "smollm2-135m",
        "architecture": "LlamaForCausalLM",
        "weights": "0123456789abcdef",
        "tokenizer": "89abcdef01234567",
        "processor": None,
        "media": None,
        "dtype": "float32",
        "attention": "sdpa",
        "layers": 30,
        "versions": {"torch": "2.9", "transformers": "5.23"},
    },
    "embedder": {"site": "attn[29]", "prompts": [{"name": "e5v", "after": "x"}]},
}
SIGHTED = {
    "backbone.model": "smolsight",
    "backbone.architecture": "LlavaForConditionalGeneration",
    "backbone.weights": "fedcba9876543210",
    "backbone.tokenizer": "76543210fedcba98",
    "backbone.processor": "1111111111111111",
    "backbone.media": {"images": {}, "frames": 8},
}


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    asked = copy.deepcopy(MADE)
    for path, value in changes.items():
        *folders, key = path.split(".")
        part = asked
        for folder in folders:
            part = part[folder]
        part[key] = value
    return asked


def said(changes: dict[str, Any]) -> str:
    asked = changed(changes)
    return in_words(MADE, asked, differences(MADE, asked))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (SIGHTED, "was made with smollm2-135m, you asked for smolsight"),
        (
            SIGHTED | {"backbone.dtype": "bfloat16", "embedder.site": "norm"},
            "was made with smollm2-135m, you asked for smolsight; dtype float32, now bfloat16; "
            "site attn[29], now norm",
        ),
        (
            {"backbone.weights": "fedcba9876543210", "backbone.dtype": "bfloat16"},
            "was made with other settings: dtype float32, now bfloat16",
        ),
        (
            {"backbone.weights": "fedcba9876543210"},
            "was made with smollm2-135m when it had other weights",
        ),
        (
            {"backbone.tokenizer": "76543210fedcba98"},
            "was made with other settings: another tokenizer or chat template",
        ),
        (
            {"backbone.media": {"images": {"size": 3}, "frames": 8}},
            "was made with other settings: another setting of pictures and videos",
        ),
        (
            {"embedder.prompts": [{"kind": "control", "task": "x"}]},
            "was made with other settings: prompt e5v, now control",
        ),
        (
            {"embedder.prompts": [{"name": "e5v", "after": "y"}]},
            "was made with other settings: another wording of the prompt e5v",
        ),
        (
            {"backbone.versions.torch": "2.10", "backbone.attention": "eager"},
            "was made with other settings: attention implementation sdpa, now eager; "
            "torch 2.9, now 2.10",
        ),
    ],
)
def test_a_difference_in_words(changes: dict[str, Any], words: str) -> None:
    found = said(changes)
    assert found == words
    checksums = [v for v in flat(changed(changes)).values() if isinstance(v, str) and len(v) == 16]
    assert not any(checksum in found for checksum in [*checksums, "0123456789abcdef"])


def test_equal_identities_differ_in_nothing() -> None:
    assert differences(MADE, changed({})) == []
