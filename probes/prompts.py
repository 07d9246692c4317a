"""Prompts: how an item is put to the model so that the next word says what the item means.

A prompt turns an item into `Prompted`: trusted instructions (str) around untrusted content
(`Part`). Only instructions may act as prompt; `Backbone.encode` tokenises content as plain text.
`ControlPrompt` carries the paper's three priors, each a switch; the others are named baselines.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from probes.errors import BadSetting
from probes.items import Part, as_item

Side = Literal["query", "document"]

TASKS: dict[str, dict[Side, str]] = {
    "same meaning": {
        "query": "Find texts that mean the same as the input.",
        "document": "Find texts that mean the same as the input.",
    },
    "question": {
        "query": "Find the passage that answers the question in the input.",
        "document": "Find the questions that the passage in the input answers.",
    },
    "classification": {
        "query": "Find the class that the input belongs to.",
        "document": "Find the inputs that belong to the class in the input.",
    },
    "fact check": {
        "query": "Find the evidence that supports or refutes the claim in the input.",
        "document": "Find the claims that the evidence in the input supports or refutes.",
    },
    "caption": {
        "query": "Find what shows or describes the same scene as the input.",
        "document": "Find what shows or describes the same scene as the input.",
    },
    "composed change": {
        "query": "Find the image that the input becomes after the change that it asks for.",
        "document": "Find the same scene as the input.",
    },
}
"""Task alignment, one instruction for each side of a retrieval task."""


@dataclass(frozen=True)
class Prompted:
    """One exchange, ready to encode: instructions are str, content is Part.

    `prefill` is the beginning of the model's own turn: the last position, where the word is born,
    is the last token of the prefill.
    """

    user: tuple[str | Part, ...]
    system: str | None = None
    prefill: str = ""


class Prompt(Protocol):
    """Anything that puts an item to the model."""

    @property
    def name(self) -> str: ...

    def apply(self, item: Any, side: Side = "document") -> Prompted: ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ControlPrompt:
    """The paper's control prompt (§3.3): task alignment, semantic grounding, noise suppression.

    Instructions stand before the content, so that all items of one side share a prefix.
    """

    task: str | None = "same meaning"
    grounding: bool = True
    denoise: bool = True

    @property
    def name(self) -> str:
        priors = [self.task or "no task"]
        priors += [word for word in ("grounding", "denoise") if getattr(self, word)]
        return f"control({', '.join(priors)})"

    def instructions(self, side: Side) -> str:
        """The priors that are switched on, in words. A task may be a key of TASKS or free text."""
        parts = []
        if self.task is not None:
            parts.append(TASKS[self.task][side] if self.task in TASKS else self.task)
        parts.append("Say what the input means in one word.")
        if self.grounding:
            parts.append("The word must name the concrete content of the input: its main subject.")
        if self.denoise:
            parts.append("No filler, no function word, no punctuation, no formatting.")
        return " ".join(parts)

    def apply(self, item: Any, side: Side = "document") -> Prompted:
        """The exchange in which the model is asked for one word about `item`, given in any form
        that `as_item` reads. Raises BadItem."""
        return Prompted(
            user=(
                f'{self.instructions(side)}\n\nInput: "',
                *as_item(item).parts,
                '"\n\nIn one word, the input means:',
            ),
            prefill='"',
        )

    def settings(self) -> dict[str, Any]:
        return {
            "kind": "control",
            **asdict(self),
            "text": [self.instructions(s) for s in ("query", "document")],
        }


@dataclass(frozen=True)
class TemplatePrompt:
    """A fixed wording around the content, the same for queries and documents."""

    name: str
    before: str = ""
    after: str = ""
    system: str | None = None
    prefill: str = ""
    medium: dict[str, str] = field(default_factory=dict, hash=False)
    """What `{medium}` in the wording becomes for each kind of content."""

    def apply(self, item: Any, side: Side = "document") -> Prompted:
        """The wording with `item`, given in any form that `as_item` reads, in its place. Raises
        BadItem."""
        item = as_item(item)
        kind = item.media[0].kind if item.media else "text"
        word = self.medium.get(kind, kind)
        before, after = (part.replace("{medium}", word) for part in (self.before, self.after))
        user = tuple(piece for piece in (before, *item.parts, after) if piece != "")
        return Prompted(user=user, system=self.system, prefill=self.prefill)

    def settings(self) -> dict[str, Any]:
        return {"kind": "template", **asdict(self)}


E5V = TemplatePrompt(
    "e5v", after="\nSummary above {medium} in one word: ", medium={"text": "sentence"}
)
"""E5-V (arXiv 2407.12580): the wording for sentences and for images."""

PROMPT_EOL = TemplatePrompt(
    "prompteol",
    before='This {medium}: "',
    after='" means in one word:',
    prefill='"',
    medium={"text": "sentence"},
)
"""PromptEOL (arXiv 2307.16645): the opening quotation mark begins the model's turn."""

HIERARCHICAL = TemplatePrompt(
    "hierarchical",
    system="Given an input, summarise its meaning in one word.",
    after="\nSummary above {medium} in one word: ",
    medium={"text": "sentence"},
)
"""Hierarchical prompt (arXiv 2508.00955): the task in the system turn, over E5-V's wording."""

NAMED: dict[str, Prompt] = {
    "control": ControlPrompt(),
    "e5v": E5V,
    "prompteol": PROMPT_EOL,
    "hierarchical": HIERARCHICAL,
}
"""Prompts that can be asked for by name, and that the diagnostic compares."""


def as_prompt(prompt: "str | Prompt", task: str | None = None) -> Prompt:
    """A prompt by its name in NAMED, or itself, for a task.

    Args:
        prompt: A name in NAMED, or a prompt.
        task: A key of TASKS or free text, which replaces the prompt's task prior. A prompt without
            a task prior stays as it is, and None leaves every prompt as it is.

    Raises:
        BadSetting: There is no prompt of this name.
    """
    if isinstance(prompt, str) or not hasattr(prompt, "apply"):
        if not isinstance(prompt, str) or prompt not in NAMED:
            raise BadSetting(f"there is no prompt {prompt!r}; named prompts: {', '.join(NAMED)}")
        prompt = NAMED[prompt]
    if task is not None and isinstance(prompt, ControlPrompt) and has_task(prompt):
        return replace(prompt, task=task)
    return prompt


def has_task(prompt: Prompt) -> bool:
    """Whether a prompt states the task of retrieval."""
    return isinstance(prompt, ControlPrompt) and prompt.task is not None
