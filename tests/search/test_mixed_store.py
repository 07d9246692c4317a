"""One store of several modalities: a caption finds its picture beside other captions, unaided."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from freeret.retriever import FreeRet
from probes import Backbone, Item
from probes.scenes.generator import HELD_OUT, Scene, distinct_scenes

Store = tuple[FreeRet, list[Scene]]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.load("smolsight")


def ranked(retriever: FreeRet, scenes: Sequence[Scene]) -> list[list[str]]:
    """The first ten for another wording of every scene."""
    queries = [scene.captions()[1] for scene in scenes]
    return [[hit.id for hit in hits] for hits in retriever.search_many(queries, top_n=10)]


def test_captions_find_pictures_beside_captions(backbone: Backbone, tmp_path: Path) -> None:
    """20 captions and 20 pictures of other scenes, and no examples of what is asked."""
    rng = Random("mixed store")
    scenes = distinct_scenes(rng, 40, HELD_OUT)
    texts = [Item(scene.caption(), id=f"text {i}") for i, scene in enumerate(scenes[:20])]
    pictures = [
        Item(images=[scene.draw(rng=rng)], id=f"picture {i}") for i, scene in enumerate(scenes[20:])
    ]
    retriever = FreeRet(backbone)
    retriever.index([*texts, *pictures], tmp_path / "s")
    found = ranked(retriever, scenes)
    assert sum(f"picture {i}" in ids for i, ids in enumerate(found[20:])) >= 16
    assert sum(ids[0] == f"text {i}" for i, ids in enumerate(found[:20])) >= 18
    share = sum(id.startswith("picture") for ids in found for id in ids) / (10 * len(found))
    assert 0.2 <= share <= 0.8
