"""Tokenise content as plain characters, so that none of it can act as a control token."""

import json
from typing import Any

from tokenizers import Encoding, Tokenizer

from probes.errors import BadItem, UnsupportedBackbone


class PlainTokenizer:
    """A fast tokenizer without its control tokens: no text can open a turn or stand for a medium.

    Added tokens that are only white space (Gemma's runs of newlines) stay, since they are plain
    text. SentencePiece puts its word mark in front of text that begins a row and nowhere else, so
    there are two tokenizers: one for text that begins a row, one for text inside it.
    """

    def __init__(self, tokenizer: Any):
        """Raises UnsupportedBackbone where it is not a fast tokenizer, or cannot write text."""
        if not hasattr(tokenizer, "backend_tokenizer"):
            raise UnsupportedBackbone(
                f"a {type(tokenizer).__name__} is not a fast transformers tokenizer; load it with "
                "AutoTokenizer"
            )
        added = tokenizer.added_tokens_decoder
        self.control_ids = {id for id, token in added.items() if token.content.strip()}
        """Ids of the control tokens: those of chat turns, padding, media placeholders, …"""
        control = {added[id].content for id in self.control_ids}
        try:
            self._inside, self._first = _without_tokens(tokenizer, control)
            self.encode("the tokenizer's class and its file may not go together")
        except Exception as error:  # tokenizers raises Exception itself
            raise UnsupportedBackbone(
                f"{type(tokenizer).__name__} cannot write text: {error}; does tokenizer_class in "
                "tokenizer_config.json fit tokenizer.json?"
            ) from error

    def encode(self, text: str, *, first: bool = False) -> Encoding:
        """The tokens of a text, with their offsets in it; `first` where it begins the row."""
        return (self._first if first else self._inside).encode(text, add_special_tokens=False)

    def tokenize(self, text: str, name: str = "the text", *, first: bool = False) -> list[int]:
        """The token ids of a text. Raises BadItem as `checked` does."""
        return self.checked(text, name, first=first).ids

    def checked(self, text: str, name: str, *, first: bool = False) -> Encoding:
        """The tokens of a text, none of which is a control token, with their offsets in it.

        Raises BadItem, with `name`, for text that the tokenizer cannot write.
        """
        try:
            encoding = self.encode(text, first=first)
        except Exception as error:  # tokenizers raises Exception itself
            raise BadItem(f"{name}: the tokenizer cannot write this text: {error}") from None
        if not self.control_ids.isdisjoint(encoding.ids) or (not encoding.ids and text):
            raise BadItem(f"{name}: the tokenizer cannot write this text as plain tokens")
        return encoding


def _without_tokens(tokenizer: Any, control: set[str]) -> tuple[Tokenizer, Tokenizer]:
    """The fast tokenizer without the tokens `control`, for text inside a row and for text that
    begins one. Both are the same where neither writes a word mark."""
    settings = json.loads(tokenizer.backend_tokenizer.to_str())
    settings["added_tokens"] = [t for t in settings["added_tokens"] if t["content"] not in control]
    settings["truncation"] = settings["padding"] = None
    first = Tokenizer.from_str(json.dumps(settings))
    if not _never_prepend(settings["pre_tokenizer"]):
        return first, first
    return Tokenizer.from_str(json.dumps(settings)), first


def _never_prepend(pre_tokenizer: dict[str, Any] | None) -> bool:
    """Switch off the word mark in front of a text; returns whether there was one."""
    marked = False
    for part in [pre_tokenizer, *(pre_tokenizer or {}).get("pretokenizers", [])]:
        if part and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "never"
            marked = True
    return marked
