"""Words of an item: those that the LM head comes closest to predicting, as a text."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from probes import Backbone, record
from probes.model.vocabulary import REPEATS, WORDS, vocabulary_of, words_of
from probes.prompts import PROMPT_EOL
from tests.tiny_tokenizer import LABELS
from tests.tiny_tokenizer import WORDS as TOKENS

Tiny = Callable[[str], Backbone]


def head(backbone: Backbone) -> torch.Tensor:
    return backbone.model.get_submodule(backbone.anatomy.head).weight


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_words_are_ranked_as_the_models_own_logits_rank_them(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    prompts = [PROMPT_EOL.apply(text) for text in ("the word", "one of the image", "日本")]
    states = record(backbone, prompts, "norm", logits=True)
    assert states.logits is not None
    vocabulary = vocabulary_of(backbone)
    assert vocabulary_of(backbone) is vocabulary, "made once for a backbone"
    for text, logits in zip(words_of(backbone, states["norm"].float()), states.logits, strict=True):
        best: dict[str, float] = {}
        for id in range(len(backbone.tokenizer)):
            word = backbone.tokenizer.decode([id]).strip().casefold()
            if word in vocabulary.words:
                best[word] = max(best.get(word, -torch.inf), float(logits[id]))
        ranked = sorted(best, key=lambda word: -best[word])
        last = best[ranked[min(WORDS, len(ranked) - 1)]]
        span = best[ranked[0]] - last
        assert Counter(text.split()) == Counter(
            {w: n for w in ranked if (n := round(REPEATS * (best[w] - last) / span)) > 0}
        )
        assert list(dict.fromkeys(text.split())) == [w for w in ranked if w in text.split()]


def test_only_words_that_stand_alone_in_a_text_count(tiny: Tiny) -> None:
    expected = {word.casefold() for word in LABELS + TOKENS if len(word) > 2}
    assert set(vocabulary_of(tiny("llama")).words) == expected, "not `a`, `of`, `wor` or a byte"


def test_a_scale_or_shift_of_all_logits_changes_nothing(tiny: Tiny) -> None:
    backbone = tiny("llama")
    states = record(backbone, [PROMPT_EOL.apply("the word")], "norm")["norm"].float()
    assert words_of(backbone, states * 3) == words_of(backbone, states)
    words = set(words_of(backbone, states)[0].split())
    assert words, "some word is above the others"
    assert words != set(words_of(backbone, -states)[0].split()), "and depends on the state"


def test_a_state_that_says_nothing_has_no_words(tiny: Tiny) -> None:
    backbone = tiny("llama")
    nothing = torch.zeros(1, backbone.hidden_size)
    assert words_of(backbone, nothing) == [""]
    assert words_of(backbone, nothing * torch.nan) == [""]
    assert words_of(backbone, torch.empty(0, backbone.hidden_size)) == []


def test_many_states_are_read_as_one_is(tiny: Tiny) -> None:
    backbone = tiny("llama")
    states = torch.randn(150, backbone.hidden_size, generator=torch.Generator().manual_seed(0))
    together = words_of(backbone, states)
    assert together == [words_of(backbone, state[None])[0] for state in states]
