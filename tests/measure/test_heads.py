"""Heads: the attention that is read is that of the query to its candidate, and choice is honest."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from probes.items import Item
from probes.measure.judges.heads import (
    HEADS,
    NO_HEADS,
    Head,
    RelevanceHeads,
    _around,
    attention_scores,
    heads_named,
    relevance_heads,
    relevance_of,
)
from probes.measure.judges.likelihood import likelihood_prompt, predicted_row
from probes.measure.judges.named import check_judge
from probes.model.backbone import Backbone
from probes.stats import Interval
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
RANDOM = np.random.default_rng


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("candidate", [candidate for _, candidate in PAIRS])
def test_the_candidate_is_found_in_its_row(candidate: str, chat: bool) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(chat=chat))
    opening, closing = _around(backbone)
    ids = backbone.row(likelihood_prompt(Item(candidate))).ids
    assert backbone.tokenizer.decode(ids[opening:-closing]).strip() == candidate.strip()


def test_scores_are_the_mean_log_attention_of_the_heads(tiny: Tiny) -> None:
    backbone, heads = tiny("qwen2"), [Head(1, 1), Head(0, 2)]
    model = TEXT["qwen2"].__wrapped__()
    model.set_attn_implementation("eager")
    opening, closing = _around(backbone)
    expected = []
    for query, candidate in ITEMS:
        prompt = backbone.row(likelihood_prompt(candidate)).ids
        row = [*prompt, *backbone.encoder.plain.tokenize(f" {query.text}")[:-1]]
        with torch.no_grad():
            weights = model(torch.tensor([row]), output_attentions=True).attentions
        place = slice(opening, len(prompt) - closing)
        logs = [
            weights[layer][0, head, len(prompt) - 1 :, place].sum(-1).log().mean()
            for layer, head in heads
        ]
        expected.append(float(torch.stack(logs).mean()))
    np.testing.assert_allclose(attention_scores(backbone, ITEMS, heads), expected, rtol=1e-4)


def test_a_score_does_not_depend_on_its_batch(tiny: Tiny) -> None:
    backbone, heads = tiny("gemma3-text"), [Head(1, 0)]
    together = attention_scores(backbone, ITEMS, heads)
    alone = [attention_scores(backbone, [pair], heads)[0] for pair in ITEMS]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_picture_is_attended_to_from_either_side(tiny: Tiny) -> None:
    """Where the query is a picture, its candidate is the text that is predicted."""
    backbone, heads = tiny("smolvlm"), [Head(0, 0)]
    image, words = Item(images=[picture()]), Item("the word")
    forth, back, none = attention_scores(
        backbone, [(words, image), (image, words), (image, image)], heads
    )
    assert forth == pytest.approx(back)
    assert forth < 0 == none
    row, (opening, closing) = predicted_row(backbone, (image, words)), _around(backbone)
    ((start, stop),) = row.spans
    assert opening <= start < stop <= len(row) - len(row.targets) + 1 - closing


def test_no_pairs_have_no_scores(tiny: Tiny) -> None:
    assert attention_scores(tiny("llama"), [], [Head(0, 0)]).shape == (0,)


def test_the_head_that_knows_relevance_is_chosen_first() -> None:
    unrelated, near_miss = RANDOM(0).normal(size=(50, 4, 5)), RANDOM(1).normal(size=(100, 4, 5))
    unrelated[:, 2, 3] += 2.5
    near_miss[:, 2, 3] += 2.5
    found = relevance_of(unrelated, near_miss, [0, 1, 4, 5])
    assert found.chosen[0] == Head(4, 3)
    for wins in ("beats_unrelated", "beats_near_miss"):
        best = max(found.heads, key=lambda score: getattr(score, wins).mean)
        assert (best.layer, best.head) == (4, 3)
        assert getattr(found, wins).low > 0.5
    assert found.discriminates


def test_near_misses_have_no_part_in_the_choice() -> None:
    unrelated, near_miss = RANDOM(0).normal(size=(50, 4, 5)), RANDOM(1).normal(size=(100, 4, 5))
    better = near_miss + 9.0 * (np.arange(5) == 3)
    chosen = [relevance_of(unrelated, near, range(4)).chosen for near in (near_miss, better)]
    assert chosen[0] == chosen[1]


def test_heads_that_are_best_by_chance_are_not_believed() -> None:
    """The best of 400 heads at chance prefers the paraphrase for 33 sentences of 50 and more."""
    held_out = []
    for seed in range(10):
        noise = RANDOM(seed).normal(size=(50, 20, 20))
        found = relevance_of(noise, noise, range(20))
        assert max(score.beats_unrelated.mean for score in found.heads) > 0.66
        held_out.append(found.beats_unrelated.mean)
    assert np.mean(held_out) < 0.56


def test_a_head_that_sees_no_difference_is_no_better_than_chance() -> None:
    differences = RANDOM(0).normal(size=(50, 1, HEADS + 1)) + 1.0
    differences[:, 0, 0] = 0.0
    assert Head(0, 0) not in relevance_of(differences, differences, [0]).chosen


@pytest.mark.parametrize("heads", [[Head(15, 7)], [Head(0, 11), Head(3, 2)]])
def test_heads_are_named_as_they_are_read(heads: list[Head]) -> None:
    sure = Interval(0.9, 0.8, 1.0)
    judge = RelevanceHeads([], heads, sure, sure).judge
    assert heads_named(judge) == heads
    assert check_judge(judge) == judge


@pytest.mark.parametrize("judge", ["mcq", "heads", "heads[]", "heads[1]", "heads[1.2,3.4]", "x"])
def test_other_names_name_no_heads(judge: str) -> None:
    assert heads_named(judge) == []


def test_a_model_without_attention_weights_has_no_heads(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("probes.measure.judges.heads.attention_modules", lambda *_: [99])
    assert relevance_heads(tiny("llama")) == NO_HEADS
    assert "layer 99" in caplog.text


def test_every_head_of_a_backbone_is_scored(tiny: Tiny) -> None:
    backbone = tiny("llama")
    config = backbone.model.config
    found = relevance_heads(backbone)
    layers, heads = range(config.num_hidden_layers), range(config.num_attention_heads)
    assert [(s.layer, s.head) for s in found.heads] == [(i, j) for i in layers for j in heads]
    assert len(found.chosen) == min(HEADS, len(found.heads))
