"""Training questions about scenes and clips, with their answers."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from probes.scenes.generator import NUMBERS, Clip, Scene

Shown = Scene | Clip


@dataclass(frozen=True)
class Branch:
    """A question after the picture: `user` ends the user's turn, all `answers` are right.

    With several answers only the first token of each is a target, all at the same position: a
    one-word caption may be any content word of the caption.
    """

    user: str
    answers: tuple[str, ...]
    prefill: str = ""


FILLER = {
    *("a", "an", "the", "of", "on", "in", "to", "at", "and", "with", "from"),
    *("is", "are", "it", "its", "there", "which", "background"),
}
OPENINGS = (
    ("", "\n"),
    ("", " "),
    ('This {medium}: "', '"\n'),
    ('Input: "', '"\n\n'),
    ("{Medium}: ", "\n\n"),
)
"""Text before the media, and between the media and the question."""

CAPTION = (
    *("",) * 6,  # without a question, the target is the caption
    "Describe the {medium}.",
    "Write a caption for the {medium}.",
    "What does the {medium} show?",
    "What is in the {medium}?",
    "Summarise the {medium} in one sentence.",
    "Say exactly what there is to see.",
)
ONE_WORD = (
    ("Summary above {medium} in one word: ", ""),
    ("Describe the {medium} in one word:", ""),
    ("In one word, the input means:", '"'),
    ("Say what the {medium} shows in one word.", '"'),
    ("This means in one word:", '"'),
    ("What is the {medium} about? One word.", ""),
)
BRIEFLY = ("Answer in one word.", "One word:", "Answer:", "")


def content_words(caption: str) -> tuple[str, ...]:
    """The distinct content words of a caption."""
    words = caption.replace(",", "").split()
    return tuple(dict.fromkeys(word for word in words if word not in FILLER))


def ask(shown: Shown, rng: Random) -> tuple[str, list[Branch]]:
    """The text before the media, and two or three alternative questions after them."""
    medium = rng.choice(("clip", "video") if isinstance(shown, Clip) else ("picture", "image"))
    before, between = (
        part.format(medium=medium, Medium=medium.capitalize()) for part in rng.choice(OPENINGS)
    )
    one_word, prefill = rng.choice(ONE_WORD)
    question, answer = rng.choice(facts(shown))
    branches = [
        Branch(rng.choice(CAPTION), (rng.choice(shown.captions()),)),
        Branch(one_word, content_words(shown.caption()), prefill),
    ]
    if rng.random() < 0.5:
        branches.append(Branch(f"{question} {rng.choice(BRIEFLY)}".strip(), (answer,)))
    joints = [between] * len(branches)
    if before.endswith('"') and rng.random() < 0.5:
        branches[1] = Branch("means in one word:", branches[1].answers, '"')
        joints[1] = '" '
    return before, [
        Branch(joint + branch.user.format(medium=medium), branch.answers, branch.prefill)
        for joint, branch in zip(joints, branches, strict=True)
    ]


def facts(shown: Shown) -> list[tuple[str, str]]:
    """Pairs of a question with a single right answer, and that answer in a few words."""
    scene = shown.scene if isinstance(shown, Clip) else shown
    things, relation = scene.things, scene.relation
    pairs = [("What colour is the background?", scene.background)]
    if isinstance(shown, Clip):
        pairs.append(("What happens?", " ".join(_happening(shown))))
        if shown.change == "turns":
            return [
                *pairs,
                (f"What colour is the {things[0].shape} at the end?", str(shown.colour)),
            ]
    else:
        pairs.append(("How many things are there?", NUMBERS[len(things)]))
        for thing in things:
            pairs += [(f"What size is the {thing.colour} {thing.shape}?", thing.size)]
    colours, shapes = Counter(t.colour for t in things), Counter(t.shape for t in things)
    for thing in dict.fromkeys(things):
        if shapes[thing.shape] == things.count(thing):
            pairs.append((f"What colour is the {thing.shape}?", thing.colour))
        if colours[thing.colour] == things.count(thing):
            pairs.append((f"What shape is the {thing.colour} thing?", thing.shape))
        if relation is None and len(things) > 1:
            pairs.append((f"How many {thing.colour} things?", NUMBERS[colours[thing.colour]]))
    if relation is not None and len(things) == 2 and not isinstance(shown, Clip):
        one, other = (f"{thing.colour} {thing.shape}" for thing in things)
        there, back = {
            "left of": ("left", "right"),
            "above": ("above", "below"),
            "inside": ("inside", "around"),
            "overlapping": ("overlapping", "overlapping"),
        }[relation]
        pairs += [
            (f"Where is the {one}, seen from the {other}?", there),
            (f"Where is the {other}, seen from the {one}?", back),
        ]
    return pairs


def _happening(clip: Clip) -> tuple[str, ...]:
    if clip.change == "turns":
        return ("turns", str(clip.colour))
    return tuple(clip.change.split())
