"""Scene tasks: retrieval among compositional pictures and clips, made from a seed on the spot.

A `Ground` holds every item once, in parallel sets: item i of one set answers item i of another.
`TASKS` says which set holds the queries and which the documents. Beside them stand hard negatives,
by what it takes to tell them apart: binding, relation, counting. As a dataset these have two
candidates per query, so that chance is one half.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, TypeVar, get_args

from freeret.evaluate.datasets import Dataset, Judgements
from probes import Item, Part
from probes.errors import BadSetting
from probes.scenes.generator import (
    HELD_OUT,
    Clip,
    Failure,
    Scene,
    distinct_scenes,
    random_clip,
    random_scene,
)

TASKS: dict[str, tuple[str, str]] = {
    "text→image": ("captions", "pictures"),
    "image→text": ("pictures", "captions"),
    "image→image": ("pictures", "renderings"),
    "composed→image": ("changes", "changed"),
    "text→video": ("clip captions", "clips"),
    "video→text": ("clips", "clip captions"),
    "document→image": ("documents", "pages"),
}
"""The sets of queries and of documents. `changed` continues, past its last answer, with the
pictures before the change: an embedding that ignores the words finds those."""
FAILURES: tuple[Failure, ...] = get_args(Failure)
CLIP_FRAMES = 4
LARGEST = 150
"""Beyond this, the items of a pool could not all mean something different in every task."""

Made = TypeVar("Made", Scene, Clip)


@dataclass(frozen=True)
class Ground:
    """Items by set. `hard[failure]` lists the scenes to which the items of the sets `{failure}
    captions` and `{failure} pictures` are the negatives."""

    items: dict[str, list[Item]]
    hard: dict[Failure, list[int]]

    def dataset(self, task: str) -> Dataset:
        """A task of TASKS, or the hard negatives of a failure.

        Raises BadSetting where no scene of a small pool can show the failure.
        """
        if task in self.hard:
            return self._hard_dataset(task)
        if task not in TASKS:
            raise BadSetting(f"no scene of this pool has a hard negative for {task}; draw more")
        return self._task_dataset(task)

    def _task_dataset(self, task: str) -> Dataset:
        queries, documents = (self.items[name] for name in TASKS[task])
        pairs = zip(queries, documents, strict=False)
        judgements: Judgements = {str(q.id): {str(d.id): 1} for q, d in pairs}
        prior = "composed change" if task == "composed→image" else "caption"
        return Dataset(task, queries, documents, judgements, task=prior, group=task)

    def _hard_dataset(self, failure: Any) -> Dataset:
        """Captions that choose between two pictures, and pictures between two captions."""
        queries: list[Item] = []
        documents: dict[str, Item] = {}
        judgements: Judgements = {}
        candidates: dict[str, list[str]] = {}
        for asking, searched in (("captions", "pictures"), ("pictures", "captions")):
            negatives = self.items[f"{failure} {searched}"]
            for scene, negative in zip(self.hard[failure], negatives, strict=True):
                query, right = self.items[asking][scene], self.items[searched][scene]
                queries.append(query)
                documents |= {str(item.id): item for item in (right, negative)}
                judgements[str(query.id)] = {str(right.id): 1}
                candidates[str(query.id)] = [str(right.id), str(negative.id)]
        return Dataset(
            failure, queries, list(documents.values()), judgements, candidates,
            task="caption", group=f"hard negatives: {failure}",
        )  # fmt: skip


def load_scenes(seed: int, task: str, size: int = 100) -> Dataset:
    """A task, or the hard negatives of a failure, over the pool that `seed` draws."""
    return replace(_ground(seed, size).dataset(task), name=f"{task} {seed}")


@functools.lru_cache(maxsize=1)
def _ground(seed: int, size: int) -> Ground:
    return make_ground(seed, size)


def make_ground(seed: int, size: int = 100) -> Ground:
    """Draw `size` documents for the pool of every task, from `seed` alone.

    Raises BadSetting for a size that is not from 2 to LARGEST.
    """
    check_size(size)
    rng = Random(f"scene tasks {seed}")
    scenes = distinct_scenes(rng, size, HELD_OUT)
    items = {
        "captions": _texts("caption", scenes),
        "pictures": _pictures("picture", scenes, rng),
        "renderings": _pictures("rendering", scenes, rng),
    }
    hard: dict[Failure, list[int]] = {}
    for failure in FAILURES:
        wrong = [scene.hard_negatives().get(failure, []) for scene in scenes]
        hard[failure] = [i for i, negatives in enumerate(wrong) if negatives]
        if not hard[failure]:  # none of a few scenes can show it
            del hard[failure]
            continue
        chosen = [rng.choice(wrong[i]) for i in hard[failure]]
        items[f"{failure} captions"] = _texts(f"{failure} caption", chosen)
        items[f"{failure} pictures"] = _pictures(f"{failure} picture", chosen, rng)
    items |= _changes(rng, size) | _clips(rng, size) | _documents(rng, size)
    return Ground(items, hard)


def check_size(size: int, least: int = 2) -> None:
    """Raise BadSetting for a number of scenes that no pool can hold."""
    if not least <= size <= LARGEST:
        raise BadSetting(f"a pool of {size} scenes is not possible; choose {least} to {LARGEST}")


def _changes(rng: Random, size: int) -> dict[str, list[Item]]:
    """Composed queries, `the same, but blue`, over a pool of the changed and the old pictures."""
    changes: list[tuple[Scene, str, Scene]] = []
    scenes: list[Scene] = []
    for scene in _endless(lambda: random_scene(rng, HELD_OUT)):
        if len(changes) == size // 2:
            break
        first, *others = scene.things
        colours = [
            colour
            for colour, shape in HELD_OUT
            if shape == first.shape and colour not in {thing.colour for thing in scene.things}
        ]
        if not colours or first.shape in {thing.shape for thing in others}:
            continue
        colour = rng.choice(colours)
        after = scene.recoloured(colour)
        if any(new.means(old) for new in (scene, after) for old in scenes):
            continue
        scenes += [scene, after]
        words = (
            f"the same, but {colour}" if not others else f"the same, but a {colour} {first.shape}"
        )
        changes.append((scene, words, after))
    before, words, after = zip(*changes, strict=True)
    queries = [
        Item(text, images=[scene.draw(rng=rng)], id=f"change {i}")
        for i, (scene, text) in enumerate(zip(before, words, strict=True))
    ]
    return {"changes": queries, "changed": _pictures("changed", (*after, *before), rng)}


def _clips(rng: Random, size: int) -> dict[str, list[Item]]:
    """Clips as their frames in order, which every backbone with a vision tower reads."""
    clips: dict[str, Clip] = {}
    for clip in _endless(lambda: random_clip(rng, HELD_OUT)):
        if len(clips) == size:
            break
        clips.setdefault(clip.caption(), clip)
    shown = [
        Item(images=clip.frames(CLIP_FRAMES, rng=rng), id=f"clip {i}")
        for i, clip in enumerate(clips.values())
    ]
    return {"clip captions": _texts("clip caption", list(clips.values())), "clips": shown}


def _documents(rng: Random, size: int) -> dict[str, list[Item]]:
    """Interleaved queries: a picture of the first thing, and the rest of the scene in words."""
    scenes: list[Scene] = []
    for scene in _endless(lambda: random_scene(rng, HELD_OUT)):
        if len(scenes) == size:
            break
        pair = scene.relation is not None and len(scene.things) == 2
        if pair and not any(scene.means(other) for other in scenes):
            scenes.append(scene)
    documents = []
    for i, scene in enumerate(scenes):
        first = scene.things[0]
        alone = Scene((first,), None, scene.background).draw(rng=rng)
        rest = scene.caption().removeprefix(first.times(1))
        parts = [Part("text", "It shows this: "), Part("image", alone), Part("text", rest)]
        documents.append(Item(parts=parts, id=f"document {i}"))
    return {"documents": documents, "pages": _pictures("page", scenes, rng)}


def _texts(name: str, made: Sequence[Made]) -> list[Item]:
    return [Item(one.caption(), id=f"{name} {i}") for i, one in enumerate(made)]


def _pictures(name: str, scenes: Sequence[Scene], rng: Random) -> list[Item]:
    return [Item(images=[s.draw(rng=rng)], id=f"{name} {i}") for i, s in enumerate(scenes)]


def _endless(make: Callable[[], Made]) -> Iterator[Made]:
    while True:
        yield make()
