"""Compositional pictures and clips with exact captions, generated from a seed.

A `Scene` is one to three things with colour, shape and size, a relation or a count, and a
background; a `Clip` is a scene in which something changes. Both have several captions, and any
number of renderings, which move and shade the things while every caption stays true. The hard
negatives of a scene have attributes swapped, the relation reversed, or a count off by one: models
that see a bag of words cannot tell them apart (Yuksekgonul et al. 2023, "When and why
vision-language models behave like bags-of-words").

Positions and radii are fractions of the picture's side, y pointing down.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Literal

from PIL import Image

from probes.scenes.drawing import RGB, Placement, between, blend, paint

COLOURS = {
    "red": (214, 39, 40),
    "orange": (255, 137, 20),
    "yellow": (245, 219, 40),
    "green": (44, 150, 60),
    "blue": (35, 80, 210),
    "purple": (125, 50, 160),
    "pink": (250, 150, 195),
    "brown": (115, 70, 40),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
SIZES = {"small": 0.125, "large": 0.19}
"""Radius by name, before jitter; three things in a row are drawn smaller by ROW_OF_THREE."""
ROW_OF_THREE = 0.7
BACKGROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "black": (12, 12, 12)}
NUMBERS = ("no", "one", "two", "three", "four")

Combination = tuple[str, str]
"""(colour, shape)"""
COMBINATIONS: tuple[Combination, ...] = tuple(product(COLOURS, SHAPES))
HELD_OUT: tuple[Combination, ...] = tuple(
    (colour, SHAPES[(i + step) % len(SHAPES)])
    for i, colour in enumerate(COLOURS)
    for step in (0, 3)
)
"""Two shapes per colour and two colours per shape that never occur in training."""
SEEN: tuple[Combination, ...] = tuple(c for c in COMBINATIONS if c not in HELD_OUT)

Relation = Literal["left of", "above", "inside", "overlapping"]
Failure = Literal["binding", "relation", "counting"]


@dataclass(frozen=True)
class Thing:
    """A thing of a scene, by the words for its attributes."""

    colour: str
    shape: str
    size: str = "large"

    def __str__(self) -> str:
        return f"{self.size} {self.colour} {self.shape}"

    def times(self, count: int) -> str:
        """A count of this thing: `a large red circle`, `two large red crosses`."""
        if count == 1:
            return f"a {self}"
        return f"{NUMBERS[count]} {self}{'es' if self.shape == 'cross' else 's'}"


@dataclass(frozen=True)
class Scene:
    """Things, the relation between them, and a background.

    With `relation` None the things are scattered and the caption counts them. `left of` and
    `above` order two or three things; `inside` and `overlapping` take two, the first on top.
    """

    things: tuple[Thing, ...]
    relation: Relation | None = None
    background: str = "white"

    def caption(self) -> str:
        """The first of `captions`."""
        return self.captions()[0]

    def captions(self) -> list[str]:
        """Different captions, each true of every rendering and naming every attribute."""
        behind = f"on a {self.background} background"
        if self.relation is None:
            groups = [thing.times(count) for thing, count in Counter(self.things).items()]
            listed, backwards = _listed(groups), _listed(groups[::-1])
            be = "is" if len(self.things) == 1 else "are"
            return [
                f"{listed} {behind}",
                f"a {self.background} picture with {listed}",
                f"on {self.background}, there {be} {backwards}",
            ]
        first, *rest = (thing.times(1) for thing in self.things)
        if self.relation in ("left of", "above") and len(rest) == 2:
            ends = ("left", "right") if self.relation == "left of" else ("top", "bottom")
            order, reverse = _listed([first, *rest]), _listed([*rest[::-1], first])
            return [
                f"from {ends[0]} to {ends[1]}, {order} {behind}",
                f"{order} from {ends[0]} to {ends[1]} {behind}",
                f"on {self.background}, from {ends[1]} to {ends[0]}, {reverse}",
            ]
        second = rest[0]
        active, passive = {
            "left of": ("to the left of", "to the right of"),
            "above": ("above", "below"),
            "inside": ("inside", "around"),
            "overlapping": ("overlapping", "overlapping"),
        }[self.relation]
        return [
            f"{first} {active} {second} {behind}",
            f"{second} {passive} {first} {behind}",
            f"on {self.background}, {first} {active} {second}",
        ]

    def draw(self, size: int = 64, rng: Random | None = None) -> Image.Image:
        """An RGB picture of `size`×`size` pixels; `rng` varies the rendering."""
        return paint(self.layout(rng), _shade(BACKGROUNDS[self.background], rng, 8.0), size)

    def layout(self, rng: Random | None = None) -> list[Placement]:
        """Placements in painting order; `rng` moves, turns and shades the things."""
        wobble = _wobble(rng)
        placed = [
            Placement(
                thing.shape, x, y, radius * (1 + wobble(0.1)), wobble(0.15),
                _shade(COLOURS[thing.colour], rng, 14.0),
            )
            for thing, (x, y, radius) in zip(self.things, self._places(rng), strict=True)
        ]  # fmt: skip
        return placed[::-1]

    def recoloured(self, colour: str, index: int = 0) -> "Scene":
        """The scene with thing `index` in another colour."""
        things = list(self.things)
        things[index] = replace(things[index], colour=colour)
        return replace(self, things=tuple(things))

    def means(self, other: "Scene") -> bool:
        """Whether every caption of either scene is true of the other."""
        return self._meaning() == other._meaning()

    def hard_negatives(self) -> dict[Failure, list["Scene"]]:
        """Scenes with almost the same words of which this scene's captions are false, by the
        ability that tells them apart; an ability that this scene cannot test is left out."""
        candidates: dict[Failure, list[Scene]] = {
            "binding": [*self._swapped("colour"), *self._swapped("size")],
            "relation": self._related_otherwise(),
            "counting": self._miscounted(),
        }
        negatives: dict[Failure, list[Scene]] = {
            failure: [scene for scene in scenes if not scene.means(self)]
            for failure, scenes in candidates.items()
        }
        return {failure: scenes for failure, scenes in negatives.items() if scenes}

    def _meaning(self) -> tuple:
        unordered = self.relation in (None, "overlapping")
        things = sorted(self.things, key=str) if unordered else self.things
        return tuple(things), self.relation, self.background

    def _swapped(self, attribute: Literal["colour", "size"]) -> list["Scene"]:
        """The first thing and the first of another shape exchange an attribute."""
        if attribute == "size" and self.relation == "inside":
            return []
        first, *rest = self.things
        other = next((thing for thing in rest if thing.shape != first.shape), None)
        if other is None:
            return []
        trade = {
            first: replace(first, **{attribute: getattr(other, attribute)}),
            other: replace(other, **{attribute: getattr(first, attribute)}),
        }
        return [replace(self, things=tuple(trade.get(thing, thing) for thing in self.things))]

    def _related_otherwise(self) -> list["Scene"]:
        if self.relation is None:
            return []
        if self.relation == "overlapping":
            return [replace(self, relation="left of"), replace(self, relation="above")]
        backwards = self.things[::-1]
        if self.relation == "inside":
            sizes = [thing.size for thing in self.things]
            backwards = tuple(replace(t, size=s) for t, s in zip(backwards, sizes, strict=True))
            return [replace(self, things=backwards)]
        turned: Relation = "above" if self.relation == "left of" else "left of"
        return [replace(self, things=backwards), replace(self, relation=turned)]

    def _miscounted(self) -> list["Scene"]:
        if self.relation is not None:
            return []
        fewer = [
            self.things[:i] + self.things[i + 1 :]
            for i, thing in enumerate(self.things)
            if self.things.count(thing) > 1 and thing not in self.things[:i]
        ]
        more = [(*self.things, thing) for thing in dict.fromkeys(self.things)]
        return [replace(self, things=things) for things in fewer + more]

    def _places(self, rng: Random | None) -> list[tuple[float, float, float]]:
        """The (x, y, radius) of each thing."""
        wobble = _wobble(rng)
        count = len(self.things)
        radii = [SIZES[thing.size] for thing in self.things]
        if self.relation == "inside":
            x, y = 0.5 + wobble(0.06), 0.5 + wobble(0.06)
            return [(x + wobble(0.02), y + wobble(0.02), 0.13), (x, y, 0.38)]
        if self.relation == "overlapping":
            turn = 0.4 if rng is None else rng.uniform(0, math.tau)
            reach = 0.28 * sum(radii)
            dx, dy = reach * math.cos(turn), reach * math.sin(turn)
            x, y = 0.5 + wobble(0.08), 0.5 + wobble(0.08)
            return [(x - dx, y - dy, radii[0]), (x + dx, y + dy, radii[1])]
        if self.relation is None:
            cells = [(0.26, 0.26), (0.74, 0.74), (0.74, 0.26), (0.26, 0.74)]
            if rng is not None:
                rng.shuffle(cells)
            if count == 1:
                cells = [(0.5, 0.5)]
            loose = 0.2 if count == 1 else 0.03
            places = zip(cells, radii, strict=False)
            return [(x + wobble(loose), y + wobble(loose), radius) for (x, y), radius in places]
        along = (0.27, 0.73) if count == 2 else (0.17, 0.5, 0.83)
        if count == 3:
            radii = [ROW_OF_THREE * radius for radius in radii]
        across = 0.5 + wobble(0.15)
        lined = [(a + wobble(0.02), across + wobble(0.05)) for a in along]
        if self.relation == "above":
            lined = [(x, y) for y, x in lined]
        return [(x, y, radius) for (x, y), radius in zip(lined, radii, strict=True)]


Change = Literal["moves right", "moves left", "grows", "shrinks", "turns", "swap"]
CHANGES: tuple[Change, ...] = ("moves right", "moves left", "grows", "shrinks", "turns", "swap")


@dataclass(frozen=True)
class Clip:
    """A scene in which something changes.

    `turns` changes the only thing's colour to `colour`; `swap` needs a pair related by `left of`;
    every other change needs a single thing.
    """

    scene: Scene
    change: Change
    colour: str | None = None

    def caption(self) -> str:
        """The first of `captions`."""
        return self.captions()[0]

    def captions(self) -> list[str]:
        """Different captions, each true of every rendering."""
        first, background = self.scene.things[0], self.scene.background
        thing = _article(f"{first.colour} {first.shape}")
        if self.change in ("grows", "shrinks"):
            happens = f"{thing} {self.change}"
        elif self.change == "turns":
            happens = f"{thing} turns {self.colour}"
        elif self.change == "swap":
            second = self.scene.things[1]
            other = _article(f"{second.colour} {second.shape}")
            happens = f"{thing} on the left and {other} on the right swap places"
        else:
            ends = ("left", "right") if self.change == "moves right" else ("right", "left")
            happens = f"{thing} moves from {ends[0]} to {ends[1]}"
        return [
            f"{happens} on a {background} background",
            f"a clip on {background} in which {happens}",
            f"on {background}, {happens}",
        ]

    def frames(
        self, count: int = 8, size: int = 64, rng: Random | None = None
    ) -> list[Image.Image]:
        """`count` RGB pictures of `size`×`size` pixels at equal time steps from start to end."""
        start = self.scene.layout(rng)
        background = _shade(BACKGROUNDS[self.scene.background], rng, 8.0)
        steps = [i / max(count - 1, 1) for i in range(count)]
        return [paint(self._at(start, time), background, size) for time in steps]

    def _at(self, start: list[Placement], time: float) -> list[Placement]:
        """The layout at `time` in [0, 1]."""
        first = start[-1]
        if self.change in ("moves right", "moves left"):
            way = time if self.change == "moves right" else 1 - time
            return [replace(first, x=0.25 + 0.5 * way)]
        if self.change in ("grows", "shrinks"):
            way = time if self.change == "grows" else 1 - time
            return [replace(first, radius=0.08 + 0.27 * way)]
        if self.change == "turns":
            end = COLOURS[self.colour or self.scene.things[0].colour]
            return [replace(first, rgb=blend(first.rgb, end, time))]
        second, detour = start[0], 0.2 * math.sin(math.pi * time)
        # They pass one above the other, so neither is hidden in any frame.
        return [
            replace(second, x=between(second.x, first.x, time), y=second.y - detour),
            replace(first, x=between(first.x, second.x, time), y=first.y + detour),
        ]


def random_scene(rng: Random, combinations: Sequence[Combination] = COMBINATIONS) -> Scene:
    """A scene whose things all have a (colour, shape) of `combinations`."""
    relation: Relation | None = rng.choice(
        (None, None, "left of", "above", "inside", "overlapping")
    )
    background = rng.choice(list(BACKGROUNDS))
    count = (
        2 if relation in ("inside", "overlapping") else rng.randint(1 if relation is None else 2, 3)
    )
    sizes = ["small", "large"] if relation == "inside" else rng.choices(list(SIZES), k=count)
    kinds = rng.sample(list(combinations), count)
    while relation in ("inside", "overlapping") and kinds[0][0] == kinds[1][0]:
        kinds = rng.sample(list(combinations), count)  # two things of one colour would merge
    things = [Thing(*kind, size) for kind, size in zip(kinds, sizes, strict=True)]
    if relation is None and count > 1 and rng.random() < 0.8:
        things[1] = things[0]
        if count == 3 and rng.random() < 0.5:
            things[2] = things[0]
    return Scene(tuple(things), relation, background)


def random_clip(rng: Random, combinations: Sequence[Combination] = COMBINATIONS) -> Clip:
    """A clip whose things, before any change, have a (colour, shape) of `combinations`."""
    change = rng.choice(CHANGES)
    kinds = rng.sample(list(combinations), 2 if change == "swap" else 1)
    things = tuple(Thing(*kind, rng.choice(list(SIZES))) for kind in kinds)
    scene = Scene(things, "left of" if change == "swap" else None, rng.choice(list(BACKGROUNDS)))
    if change != "turns":
        return Clip(scene, change)
    (before, shape), *_ = kinds
    ends = [c for c in COLOURS if c != before and (c, shape) in combinations] or [
        c for c in COLOURS if c != before
    ]
    return Clip(scene, change, rng.choice(ends))


def distinct_scenes(
    rng: Random, count: int, combinations: Sequence[Combination] = COMBINATIONS
) -> list[Scene]:
    """`count` scenes of different meanings: a pool in which each caption fits a single scene."""
    scenes: dict[tuple, Scene] = {}
    while len(scenes) < count:
        scene = random_scene(rng, combinations)
        scenes.setdefault(scene._meaning(), scene)
    return list(scenes.values())


def _wobble(rng: Random | None) -> Callable[[float], float]:
    """A function that draws from ±amount, or returns 0 without `rng`."""
    if rng is None:
        return lambda amount: 0.0
    return lambda amount: rng.uniform(-amount, amount)


def _shade(rgb: RGB, rng: Random | None, amount: float) -> RGB:
    wobble = _wobble(rng)
    red, green, blue = (min(255, max(0, round(c + wobble(amount)))) for c in rgb)
    return red, green, blue


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _listed(parts: Sequence[str]) -> str:
    """Parts as `a`, `a and b`, or `a, b and c`."""
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
