"""Prompts: wordings after which the model's next word says what an item means.

A prompt turns an item into a `Prompted` exchange: trusted instructions (str) around untrusted
content (`Part`). Only instructions may act as a prompt; `Backbone.encode` tokenises content as
plain text. `ControlPrompt` has the paper's three priors, each with a switch; the others are
published baselines.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Protocol

from probes.errors import BadSetting
from probes.items import Item, Part, as_item, with_places

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
"""Task alignment: the instruction for each side of a retrieval task."""


@dataclass(frozen=True)
class Prompted:
    """An exchange that is ready to encode."""

    user: tuple[str | Part, ...]
    """The user's turn: instructions are str, content is Part."""
    system: str | None = None
    """The system's turn."""
    prefill: str = ""
    """The beginning of the model's turn. States are read at its last token, which predicts the
    word."""


Source = str | Item | Prompted | Any
"""A prompted exchange, or an item in any form that `as_item` reads."""


def as_sources(sources: Source | Sequence[Source]) -> list[tuple[Item | Prompted, str]]:
    """Read items and prompts, each with the name that messages call it by; a lone one is a list of
    one. Raises BadItem for anything else."""
    if isinstance(sources, Prompted):
        return [(sources, "the prompt")]
    read: list[tuple[Item | Prompted, str]] = []
    for place, value in with_places(sources):
        source = value if isinstance(value, Prompted) else as_item(value, place=place)
        read.append((source, source.name if isinstance(source, Item) else str(place)))
    return read


class Prompt(Protocol):
    """A wording that turns an item into an exchange."""

    @property
    def name(self) -> str: ...

    def apply(self, item: Any, side: Side = "document") -> Prompted: ...

    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ControlPrompt:
    """The paper's control prompt (§3.3): task alignment, semantic grounding, noise suppression.

    Instructions precede the content, so that all items of one side share a prefix.
    """

    task: str | None = "same meaning"
    """The task: a key of TASKS or free text. None switches task alignment off."""
    grounding: bool = True
    """Semantic grounding: ask for the concrete main subject."""
    denoise: bool = True
    """Noise suppression: rule out filler and function words, punctuation and formatting."""

    @property
    def name(self) -> str:
        priors = [self.task or "no task"]
        priors += [word for word in ("grounding", "denoise") if getattr(self, word)]
        return f"control({', '.join(priors)})"

    def instructions(self, side: Side) -> str:
        """The wording of the priors that are switched on. The task is a key of TASKS or free
        text."""
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
        """Ask for the meaning of an item, given in any form that `as_item` reads, in one word.
        Raises BadItem where it cannot be read."""
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
    """A fixed wording around the content, the same for queries and documents.

    Attributes:
        name: Its name in reports and recipes.
        before: Text in front of the content; `{medium}` stands for the kind of the content.
        after: Text behind the content.
        system: The system's turn.
        prefill: The beginning of the model's turn.
        medium: The word for `{medium}` by kind of content, where it is not the kind itself.
    """

    name: str
    before: str = ""
    after: str = ""
    system: str | None = None
    prefill: str = ""
    medium: dict[str, str] = field(default_factory=dict, hash=False)

    def apply(self, item: Any, side: Side = "document") -> Prompted:
        """Put an item, given in any form that `as_item` reads, into the wording. Raises BadItem
        where it cannot be read."""
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
"""E5-V (arXiv 2407.12580): its wordings for sentences and for images."""

PROMPT_EOL = TemplatePrompt(
    "prompteol",
    before='This {medium}: "',
    after='" means in one word:',
    prefill='"',
    medium={"text": "sentence"},
)
"""PromptEOL (arXiv 2307.16645): an opening quotation mark begins the model's turn."""

TOPIC = TemplatePrompt(
    "topic",
    before='This {medium}: "',
    after='" is about the following topic, in one word:',
    prefill='"',
)
"""PromptEOL's form with a question for the topic, which sums up long texts better."""

HIERARCHICAL = TemplatePrompt(
    "hierarchical",
    system="Given an input, summarise its meaning in one word.",
    after="\nSummary above {medium} in one word: ",
    medium={"text": "sentence"},
)
"""Hierarchical prompt (arXiv 2508.00955): the task in the system turn, over E5-V's wording."""

NAMED: dict[str, Prompt] = {
    "control": ControlPrompt(),
    "control, no task": ControlPrompt(task=None),
    "e5v": E5V,
    "prompteol": PROMPT_EOL,
    "topic": TOPIC,
    "hierarchical": HIERARCHICAL,
}
"""The prompts that have a name, which the diagnostic compares."""


def as_prompt(prompt: "str | Prompt", task: str | None = None) -> Prompt:
    """Look up a prompt by name, and set its task.

    Args:
        prompt: A name in NAMED, or a prompt.
        task: A key of TASKS or free text, which replaces the task of a prompt that states one.
            None changes nothing.

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
