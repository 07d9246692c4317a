"""The names of a report's parts and of its figures, and which parts need others.

Nothing here imports torch: the command line reads the names before it loads anything.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal, get_args

from probes.arguments import check_choice

PartName = Literal[
    "framing",
    "heads",
    "curves",
    "diagnostic",
    "splitting",
    "hybrid",
    "reranking",
    "synonyms",
    "injection",
]
PARTS: tuple[PartName, ...] = get_args(PartName)
"""The parts of a report in the order in which they are measured: the diagnostic takes states of
sentences from the curves, and hybrid search and reranking from the diagnostic."""
NEEDS: dict[str, tuple[PartName, ...]] = {
    "splitting": ("diagnostic",),
    "hybrid": ("diagnostic",),
    "reranking": ("framing", "heads", "diagnostic", "hybrid"),
}
"""They are measured at the extraction that the diagnostic supports; reranking with the lexical
weight that hybrid search supports, by the best frame and the best heads, too."""
PROMPT_KINDS: dict[str, str] = {
    "word": "asked for a word (E5-V's prompt)",
    "control": "control prompt",
    "text": "running text",
}
"""The kinds of prompt that a report holds curves of, and how figures and sentences call them."""
NO_TURN = 0.9
"""A step with α of at least 0.9 (at most 26°) does not count as a turn."""
Panel = Literal["alpha", "beta", "rank", "probability", "norms"]
"""A quantity of the curves, which a panel of a figure shows."""
PANELS: tuple[Panel, ...] = get_args(Panel)
FigureKind = Literal["curves", "rank", "norms", "synonyms", "separation", "framing", "diagnostic"]
Format = Literal["png", "svg", "pdf"]


def with_needed(parts: Collection[str]) -> list[PartName]:
    """Parts together with those that they need, in the order of PARTS. Raises BadSetting where
    there is no such part."""
    names: set[Any] = {check_choice("a part of a report", part, PARTS) for part in parts}
    names |= {need for part in names for need in NEEDS.get(part, ())}
    return sorted(names, key=PARTS.index)


def listed(names: str | None, option: str, choices: Iterable[str]) -> list[Any] | None:
    """The names in a list such as `alpha,beta`, in the order given; None where there is no list.
    Raises BadSetting where a name is not among the choices."""
    if names is None:
        return None
    return [check_choice(f"--{option}", name.strip(), choices) for name in names.split(",")]


def part_names(listed: str) -> list[PartName]:
    """The parts named in a list such as `curves,synonyms`, with those that they need. Raises
    BadSetting where there is no such part, or the list names none."""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return with_needed(names or [listed])
