"""Tokens as a reader sees them."""

from collections.abc import Iterable

from probes.model.backbone import Backbone
from probes.model.vocabulary import MARKS

VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
"""Characters that stand for white space."""


def spelled(backbone: Backbone, ids: Iterable[int]) -> list[str]:
    """The spelling of each token by itself.

    White space is visible (`␣Paris`, `↵`), other characters that do not print are escapes, and a
    control token such as `<|im_start|>` stands in angle brackets that no text token begins with:
    `⟨|im_start|⟩`. A token that is a part of a character is written as `�`.
    """
    known: dict[int, str] = {}
    return [known[id] if id in known else known.setdefault(id, _spell(backbone, id)) for id in ids]


def _spell(backbone: Backbone, id: int) -> str:
    token = backbone.tokenizer.convert_ids_to_tokens(id)
    if token is None:  # the LM head may have more rows than the tokenizer has tokens
        return f"⟨{id}⟩"
    if id in backbone.encoder.plain.control_ids:
        return f"⟨{token.removeprefix('<').removesuffix('>')}⟩"
    text = backbone.tokenizer.decode([id], clean_up_tokenization_spaces=False)
    if token.startswith(MARKS) and not text[:1].isspace():  # SentencePiece drops a first space
        text = f" {text}"
    return "".join(
        VISIBLE.get(char, char if char.isprintable() else char.encode("unicode_escape").decode())
        for char in text
    )
