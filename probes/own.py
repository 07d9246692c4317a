"""The project's own items: label-free examples of what is asked and stored, for every backbone.

They stand for what a corpus cannot tell of itself: how queries of a kind that it does not hold lie
together, such as captions beside a corpus of pictures.
"""

import functools
from random import Random

from PIL import Image

from probes.data import paraphrases
from probes.items import Item
from probes.scenes import SEEN, Scene, distinct_scenes, random_clip

PICTURES = 60


@functools.cache
def own_documents() -> list[Item]:
    """200 sentences on every subject."""
    return [Item(row["sentence"]) for row in paraphrases()]


def own_queries(signature: str) -> list[Item]:
    """Examples of queries of a kind: `text` (half sentences, half captions of drawn scenes, since
    either alone is far from the other's use), `image`, `image+text`, `video`; none of other
    kinds."""
    make = {
        "text": lambda: own_documents() + own_captions(),
        "image": lambda: [Item(images=[picture]) for picture in _pictures()],
        "image+text": _told_pictures,
        "video": _clips,
    }
    return make[signature]() if signature in make else []


def own_captions() -> list[Item]:
    """As many captions as there are sentences."""
    return [Item(scene.caption()) for scene in _scenes(len(own_documents()))]


def _told_pictures() -> list[Item]:
    texts = [text for pair in zip(own_documents(), own_captions(), strict=True) for text in pair]
    shown = zip(texts, _pictures(), strict=False)
    return [Item(text.text, images=[picture]) for text, picture in shown]


def _pictures() -> list[Image.Image]:
    rng = Random("own pictures")
    return [scene.draw(rng=rng) for scene in _scenes(PICTURES)]


def _clips() -> list[Item]:
    rng = Random("own clips")
    return [Item(videos=[random_clip(rng, SEEN).frames(rng=rng)]) for _ in range(PICTURES // 2)]


@functools.cache
def _scenes(count: int) -> list[Scene]:
    return distinct_scenes(Random("own scenes"), count, SEEN)
