"""Mixed pools: texts, pictures and both in one corpus, made from a seed on the spot.

Each drawn scene is in the corpus once: as a caption, as a picture, or as a picture beside its
caption, in turn. A retriever without a modality bias finds each form as often as it is the answer.
MixBench asks the same of photographs.
"""

from random import Random

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders.scenes import check_size
from probes import Item
from probes.scenes.generator import HELD_OUT, Scene, distinct_scenes

TASKS: tuple[str, ...] = ("text→mixed", "image→mixed")
FORMS: tuple[str, ...] = ("text", "image", "image+text")
"""Modality signatures of the documents."""
DEPTH = 10
"""Hits among which the share of each form is measured."""


def load_mixed(seed: int, task: str, size: int = 100) -> Dataset:
    """Captions or pictures as queries over the mixed pool that `seed` draws.

    Args:
        task: One of TASKS. Queries repeat no document: captions are worded in another way,
            pictures are other renderings.

    Raises:
        BadSetting: The size is not possible.
    """
    check_size(size, least=len(FORMS))
    rng = Random(f"mixed scenes {seed}")
    scenes = distinct_scenes(rng, size, HELD_OUT)
    documents = [_document(i, scene, rng) for i, scene in enumerate(scenes)]
    queries = [
        Item(scene.captions()[1], id=f"query {i}")
        if task == "text→mixed"
        else Item(images=[scene.draw(rng=rng)], id=f"query {i}")
        for i, scene in enumerate(scenes)
    ]
    return Dataset(
        name=f"{task} {seed}",
        queries=queries,
        documents=documents,
        judgements={f"query {i}": {f"scene {i}": 1} for i in range(size)},
        task="caption",
        metrics=("P@1", *(f"Share({form})@{DEPTH}" for form in FORMS)),
        group=task,
    )


def _document(place: int, scene: Scene, rng: Random) -> Item:
    form = FORMS[place % len(FORMS)]
    text = scene.caption() if "text" in form else None
    images = [scene.draw(rng=rng)] if "image" in form else []
    return Item(text, images=images, id=f"scene {place}")
