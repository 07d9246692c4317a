"""Content words that a model reads into an item: the lexicalized side of its state, as a text.

An embedding is read before the state turns toward the next word, since that turn hurts a dense
vector. A lexical index needs that word itself, and those that were nearly predicted instead: they
name what a picture shows, so that a search for words reaches pictures, and a hit can be explained.
As in PromptReps (arXiv 2404.18424) the LM head's logits become term frequencies, and words are
repeated in proportion to them; only words of letters that a text can spell out are kept.
"""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.model.backbone import Backbone

WORDS = 12
"""Words of an item. More of them are words of any picture, and blur what it shows."""
REPEATS = 5
"""How often the first word is repeated; the others as their logits stand above that of the first
word left out."""
SHORTEST = 3
"""Letters of the shortest word: most tokens of fewer letters are pieces of words."""
MARKS = ("Ġ", "▁")
"""What a token of byte-level and of SentencePiece tokenizers begins with at a space."""
BLOCK = 64
"""States whose logits are held at once."""


@dataclass(frozen=True)
class Vocabulary:
    """The words that single tokens of a backbone spell out, in lower case.

    A word counts if one of its tokens begins at a space, so that it can stand alone in a text.
    Tokens that differ only in case or in that space are tokens of the same word.
    """

    words: list[str]
    ids: Int[Tensor, " tokens"]
    """All tokens of these words."""
    places: Int[Tensor, " tokens"]
    """The place of each token's word in `words`."""

    @classmethod
    def of(cls, backbone: Backbone) -> "Vocabulary":
        """The words of a tokenizer for which the LM head has a row."""
        backend = backbone.tokenizer.backend_tokenizer
        rows = backbone.model.get_submodule(backbone.anatomy.head).weight.shape[0]
        ids = range(min(backend.get_vocab_size(), rows))
        texts = backend.decode_batch([[id] for id in ids], skip_special_tokens=False)
        spelled = [text.strip().casefold() for text in texts]
        whole = {
            word
            for id, word in zip(ids, spelled, strict=True)
            if len(word) >= SHORTEST
            and word.isalpha()
            and (backend.id_to_token(id) or "").startswith(MARKS)
        }
        words = sorted(whole)
        place = {word: number for number, word in enumerate(words)}
        tokens = [(id, place[word]) for id, word in zip(ids, spelled, strict=True) if word in whole]
        pairs = torch.tensor(tokens, dtype=torch.long).reshape(-1, 2)
        return cls(words, pairs[:, 0], pairs[:, 1])

    def logits(self, logits: Float[Tensor, "batch vocabulary"]) -> Float[Tensor, "batch words"]:
        """The logit of each word: the largest of its tokens."""
        known = logits[:, self.ids.to(logits.device)]
        empty = known.new_full((len(known), len(self.words)), -torch.inf)
        places = self.places.to(logits.device).expand(len(known), -1)
        return empty.scatter_reduce(1, places, known, "amax")


_vocabularies: WeakKeyDictionary[Backbone, Vocabulary] = WeakKeyDictionary()


def vocabulary_of(backbone: Backbone) -> Vocabulary:
    """The vocabulary of a backbone, which is made on first use."""
    if backbone not in _vocabularies:
        _vocabularies[backbone] = Vocabulary.of(backbone)
    return _vocabularies[backbone]


def words_of(backbone: Backbone, states: Float[Tensor, "items hidden"]) -> list[str]:
    """The content words of items, from their states at `norm`.

    With l(w) the logit of word w, and l₁ ≥ l₂ ≥ … those of all words, word i of the first WORDS is
    repeated round(REPEATS · (lᵢ − l₁₃) / (l₁ − l₁₃)) times: a word that is hardly more likely than
    those left out is not kept, and a scale or shift of all logits changes nothing.

    Args:
        backbone: The model that the states were recorded in.
        states: Raw states at `norm`, `[items, hidden]`, under a prompt that asks for a word.

    Returns:
        For each item its words, the most likely first, separated by spaces; for a full-text index
        the repetitions of a word are its term frequency (PromptReps, arXiv 2404.18424).
    """
    vocabulary = vocabulary_of(backbone)
    count = min(WORDS, len(vocabulary.words) - 1)
    if count < 1:
        return [""] * len(states)
    texts = []
    for block in states.split(BLOCK):
        logits, places = vocabulary.logits(backbone.lens(block, "norm")).topk(count + 1)
        above = logits[:, :-1] - logits[:, -1:]
        shares = (above / above[:, :1]).nan_to_num(0)  # not a number where all logits are equal
        repeats = (REPEATS * shares).round().int()
        for times, row in zip(repeats.tolist(), places[:, :-1].tolist(), strict=True):
            named = zip(times, (vocabulary.words[place] for place in row), strict=True)
            texts.append(" ".join(" ".join([word] * n) for n, word in named if n))
    return texts
