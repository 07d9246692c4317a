"""Chat templates with thinking off, the date fixed, and text and media in order.

A template is written for conversation, and three of its habits spoil a measurement. It may open a
thought, so that the next word begins a thought and not the answer; it may write today's date, so
that vectors change with the day; it may move media before all text, so that "A, not B" reads like
"B, not A". Each habit is detected by rendering, not by the name of a model.
"""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

from jinja2.exceptions import TemplateError
from transformers.processing_utils import ProcessorMixin
from transformers.utils.chat_template_utils import _get_template_variables

Thinking = Literal["none", "switched off", "closed by hand"]

SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates switch thinking on and off."""
THOUGHTS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<seed:think>": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|channel>": "<channel|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|begin_of_thought|>": "<|end_of_thought|>",
}
"""The marks that open and close a thought, by family: Qwen, GLM, DeepSeek and others first."""
TODAY = date(2024, 7, 26)
"""The date in every prompt: the one that Llama 3's template falls back to."""
DIRECTIVES = "YymdBbAaejHMS"
"""Directives of `strftime` that are replaced: those of a date, and of its midnight."""
PROBE = "\ue002{}\ue003"
"""Text that no template knows, to see where a template puts its content."""


class ChatTemplate:
    """The chat template of a model, without the habits above.

    `text` is the template that is rendered: the original after a setting for each habit.
    """

    def __init__(self, templater: Any, template: Any, tokens: Mapping[str, str]):
        """Look for the habits of a template.

        Args:
            templater: The processor, or the tokenizer of a model without one.
            template: The template, or several by name, of which "default" is used.
            tokens: The placeholder token of each kind of media that the model reads.
        """
        self.templater, self.tokens = templater, tokens
        template = template["default"] if isinstance(template, Mapping) else template
        variables = _get_template_variables(template)
        self.switches = [name for name in SWITCHES if name in variables]
        settings = [f"{{% set {name} = false +%}}" for name in self.switches]
        settings += [_fixed_date()] if "strftime_now" in template else []
        self.text = "".join(settings) + template
        self._keeps = functools.cache(self._keeps_uncached)

    def render(self, user: Sequence[str | dict], system: str | None = None) -> str:
        """Render a user turn, of texts and `{"type": kind}` for media, and the opening of the
        answer."""
        kinds = {piece["type"] for piece in user if isinstance(piece, dict)}
        if all(map(self._keeps, kinds)):
            return self._render(user, system) + self.closing
        texts = [p if isinstance(p, str) else PROBE.format(p["type"]) for p in user]
        text = self._render(["".join(texts)], system) + self.closing
        for kind in kinds:
            text = text.replace(PROBE.format(kind), self._placeholder(kind))
        return text

    @functools.cached_property
    def generation_prompt(self) -> str:
        """The text that opens the model's turn, after the user's."""
        written = self._render(["x"])
        return written.removeprefix(self._render(["x"], generation=False)) + self.closing

    @functools.cached_property
    def closing(self) -> str:
        """The text that closes the thought that the template opens; "" if it opens none."""
        probe = PROBE.format("")
        try:
            opening = self._render([probe]).rpartition(probe)[2]
        except TemplateError:  # it refuses any input, and will say so when it is used
            return ""
        for opened, closed in THOUGHTS.items():
            _, mark, thought = opening.rpartition(opened)
            if mark and closed not in thought:
                gap = "\n" if thought == "\n" else ""
                return f"{gap}{closed}{gap * 2}"
        return ""

    @property
    def thinking(self) -> Thinking:
        """How the model is kept from thinking before it answers."""
        if self.closing:
            return "closed by hand"
        return "switched off" if self.switches else "none"

    @functools.cached_property
    def keeps_order(self) -> bool:
        """Whether the template itself keeps text and media in order; where it does not, `render`
        does."""
        try:
            return all(map(self._keeps, self.tokens))
        except TemplateError:
            return True

    def identity(self) -> str:
        """Everything that decides how an exchange is rendered, as a string."""
        return self.text + self.closing + ("" if self.keeps_order else "media in order")

    def _keeps_uncached(self, kind: str) -> bool:
        """Whether media of a kind stay between the texts around them."""
        token, medium = self.tokens[kind], {"type": kind}
        first, second, third = (PROBE.format(i) for i in range(3))
        written = self._render([first, medium, second, medium, third])
        order = re.findall("|".join(map(re.escape, (first, second, third, token))), written)
        # A medium that is dropped is noticed later, where its placeholder is expanded.
        return token not in order or order == [first, token, second, token, third]

    def _placeholder(self, kind: str) -> str:
        """The text that the template writes for a medium, which is its difference to a turn."""
        probe = PROBE.format("")
        without, whole = self._render([probe]), self._render([{"type": kind}, probe])
        pairs = zip(without, whole, strict=False)
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
        start = sum(1 for _ in alike)
        return whole[start : start + len(whole) - len(without)]

    def _render(
        self, user: Sequence[str | dict], system: str | None = None, *, generation: bool = True
    ) -> str:
        messages: list[dict] = [{"role": "user", "content": user}]
        if system is not None:
            messages.insert(0, {"role": "system", "content": [system]})
        with_parts = isinstance(self.templater, ProcessorMixin)
        for message in messages:
            parts = message["content"]
            message["content"] = (
                [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]
                if with_parts
                else "".join(parts)
            )
        # SmolVLM's processor uses another template for videos, unless one is given.
        videos = any(isinstance(p, dict) and p["type"] == "video" for p in user)
        chooses = type(self.templater).__dict__.get("apply_chat_template") if with_parts else None
        return self.templater.apply_chat_template(
            messages,
            chat_template=None if videos and chooses else self.text,
            tokenize=False,
            add_generation_prompt=generation,
        )


def _fixed_date() -> str:
    """A macro that replaces transformers' function `strftime_now` and writes TODAY."""
    written = {f"%{letter}": TODAY.strftime(f"%{letter}") for letter in DIRECTIVES}
    written |= {f"%-{letter}": written[f"%{letter}"].lstrip("0") for letter in "mdej"}
    replaced = "".join(f" | replace({key!r}, {value!r})" for key, value in written.items())
    return f"{{% macro strftime_now(format) -%}}{{{{ format{replaced} }}}}{{%- endmacro +%}}"
