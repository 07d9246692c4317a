"""Tokens as a reader sees them, and the words among them that name content."""

from collections.abc import Iterable

from probes.model.backbone import Backbone
from probes.model.vocabulary import MARKS, Vocabulary

VISIBLE = {" ": "␣", "\n": "↵", "\t": "⇥"}
"""Characters that stand for white space."""
_FUNCTION_WORDS = """
about above after again against all also although and another any anything are around because
been before being below between both but can could did does doing done down during each either
else even ever every everything few for from further had has have having her here hers herself
him himself his how however into its itself just least less let like may might more most much
must myself neither nor not nothing now off once one only onto other others our ours ourselves
out over own per rather same several shall she should since some something such than that the
their theirs them themselves then there therefore these they this those though through thus too
toward towards under until upon very was were what whatever when where whether which while who
whom whose why will with within without would yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
"""English words of at least three letters that name no content."""


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


def content_places(vocabulary: Vocabulary) -> list[int]:
    """The places in `vocabulary.words` of the words that name content."""
    return [i for i, word in enumerate(vocabulary.words) if word not in FUNCTION_WORDS]
