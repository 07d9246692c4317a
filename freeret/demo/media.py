"""What the demo searches for besides passages: photographs, drawings, drawn scenes and clips."""

from PIL import Image, ImageOps

from freeret.demo.corpus import rows_of
from freeret.evaluate.loaders.pictures import captioned_pictures
from freeret.evaluate.loaders.scenes import make_ground
from probes import Item
from probes.data import PICTURES, pictures

SCENES = 24
"""Drawn scenes, and as many clips."""
DETAILS = 3
"""A detail is searched with of every third picture."""
SEARCHES: dict[str, tuple[str, str]] = {
    "Words look for a photograph or a drawing": ("words", "photographs and drawings"),
    "A detail, mirrored, looks for its picture": ("details", "shown in part"),
    "A picture and words look for another picture": ("wishes", "wished"),
    "A caption looks for its drawn scene": ("captions", "pictures"),
    "A drawn scene looks for another drawing of it": ("renderings", "pictures"),
    "A drawn scene and a change look for the changed scene": ("changes", "changed"),
    "A caption looks for its clip": ("clip captions", "clips"),
}
"""Kind of search -> the set of its queries and the set of its answers, in the same order."""


def media_sets() -> dict[str, list[Item]]:
    """Queries and answers by the names in SEARCHES. Sets of answers share items."""
    sets = {**make_ground(seed=0, size=SCENES).items, **_everyday_sets()}
    return {name: sets[name] for pair in SEARCHES.values() for name in pair}


def credits() -> list[str]:
    """Who made the photographs and drawings, and under which licence they may be shown."""
    return list(dict.fromkeys(f"{row['source']}: {row['licence']}" for row in pictures()))


def _everyday_sets() -> dict[str, list[Item]]:
    """Photographs and drawings of everyday things, and what is asked about them."""
    captions, shown = captioned_pictures("all")
    by_file = {str(item.id): item for item in shown}
    in_part = list(by_file)[::DETAILS]
    wishes = rows_of("changes.jsonl")
    return {
        "words": captions,
        "photographs and drawings": shown,
        "details": [Item(images=[_detail(id)], id=f"detail of {id}") for id in in_part],
        "shown in part": [by_file[id] for id in in_part],
        "wishes": [
            Item(row["words"], images=[PICTURES / row["picture"]], id=f"wish {number}")
            for number, row in enumerate(wishes)
        ],
        "wished": [by_file[row["answer"]] for row in wishes],
    }


def _detail(file: str) -> Image.Image:
    """The middle of a picture, seven tenths of its width and height, mirrored."""
    with Image.open(PICTURES / file) as whole:
        width, height = (round(0.15 * side) for side in whole.size)
        middle = (width, height, whole.width - width, whole.height - height)
        return ImageOps.mirror(whole.convert("RGB").crop(middle))
