"""Heads: the attention that is read is that of the query to its candidate, and choice is honest."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.items import Item
from probes.measure.judges.heads import (
    HEADS,
    Head,
    _candidate,
    _closing,
    attention_scores,
    heads_prompt,
    log_attention,
    relevance_heads,
    relevance_of,
)
from probes.model.backbone import Backbone
from tests.models import TEXT, tokenizer
from tests.samples import picture

Tiny = Callable[[str], Backbone]
PAIRS = [
    ("the word", "one of the image"),
    ("Yes", "日本 🙂"),
    ("the word", "a" * 40),
    ("n", "\n\nQuery: n"),
    ("<|im_end|>", "<|im_start|>user"),
]
ITEMS = [(Item(query), Item(candidate)) for query, candidate in PAIRS]


def rows_of(backbone: Backbone, query: Item, candidate: Item):
    return backbone.row(heads_prompt(query, candidate)), backbone.row(heads_prompt(query))


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize(("query", "candidate"), PAIRS[:3])
def test_the_candidate_is_found_in_its_row(query: str, candidate: str, chat: bool) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=chat))
    row, without = rows_of(backbone, Item(query), Item(candidate))
    found = row.ids[_candidate(row, without)]
    assert backbone.tokenizer.decode(found).strip() == candidate
    before = row.ids[: len(row) - _closing(backbone)]
    assert backbone.tokenizer.decode(before).endswith(f"Query: {query}")


def test_a_candidate_that_imitates_the_prompt_is_never_empty(tiny: Tiny) -> None:
    for query, candidate in ITEMS:
        row, without = rows_of(tiny("llama"), query, candidate)
        place = _candidate(row, without)
        assert 0 < len(row.ids[place]) <= len(row) - len(without) + 1


def test_scores_are_the_mean_log_attention_of_the_heads(tiny: Tiny) -> None:
    backbone, heads = tiny("qwen2"), [Head(1, 1), Head(0, 2)]
    model = TEXT["qwen2"].__wrapped__()
    model.set_attn_implementation("eager")
    expected = []
    for query, candidate in ITEMS:
        row, without = rows_of(backbone, query, candidate)
        with torch.no_grad():
            weights = model(torch.tensor([row.ids]), output_attentions=True).attentions
        end, place = len(row) - _closing(backbone) - 1, _candidate(row, without)
        sums = [weights[layer][0, head, end, place].sum().log() for layer, head in heads]
        expected.append(float(torch.stack(sums).mean()))
    np.testing.assert_allclose(attention_scores(backbone, ITEMS, heads), expected, rtol=1e-4)


def test_a_score_does_not_depend_on_its_batch(tiny: Tiny) -> None:
    backbone, heads = tiny("gemma3-text"), [Head(1, 0)]
    together = attention_scores(backbone, ITEMS, heads)
    alone = [attention_scores(backbone, [pair], heads)[0] for pair in ITEMS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_pictures_are_candidates_too(tiny: Tiny) -> None:
    backbone = tiny("smolvlm")
    pair = (Item("the word"), Item(images=[picture()]))
    row, without = rows_of(backbone, *pair)
    ((start, stop),) = row.spans
    place = range(len(row))[_candidate(row, without)]
    assert place.start <= start and stop <= place.stop < len(row) - len("the word") // 4
    assert log_attention(backbone, [pair], [0, 1]).shape[:2] == (1, 2)


def test_the_head_that_tells_matches_apart_is_chosen_first() -> None:
    noise = np.random.default_rng(0).normal(size=(100, 4, 5))
    noise[:, 2, 3] += 1.5
    found = relevance_of(noise, [0, 1, 4, 5])
    assert found.chosen[0] == Head(4, 3)
    best = max(found.heads, key=lambda score: score.beats_near_miss.mean)
    assert (best.layer, best.head) == (4, 3)
    assert found.discriminates


def test_heads_that_are_best_by_chance_are_not_believed() -> None:
    """The best of 400 heads at chance prefers the match for 60 queries of 100 and more."""
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=(100, 20, 20))
        found = relevance_of(noise, range(20))
        assert max(score.beats_near_miss.mean for score in found.heads) > 0.6
        assert not found.discriminates


def test_a_head_that_sees_no_difference_is_chosen_last() -> None:
    differences = np.random.default_rng(0).normal(size=(100, 1, HEADS + 1)) - 1.0
    differences[:, 0, 2] = 0.0
    assert Head(0, 2) not in relevance_of(differences, [0]).chosen


def test_every_head_of_a_backbone_is_scored(tiny: Tiny) -> None:
    backbone = tiny("llama")
    config = backbone.model.config
    found = relevance_heads(backbone)
    layers, heads = range(config.num_hidden_layers), range(config.num_attention_heads)
    assert [(s.layer, s.head) for s in found.heads] == [(i, j) for i in layers for j in heads]
    assert len(found.chosen) == min(HEADS, len(found.heads))
