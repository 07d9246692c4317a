"""Where in a photograph is the evidence for its names, and what does the lens read at their tokens?

    python figures/places.py --model smolsight

The words of one photograph at three sites, drawn over it. And a check of the places: the middles of
two photographs are put side by side, and each name that belongs to one of them alone should have
its greatest evidence in that half. Writes figures/places.json and the figure; without --model it
only draws.
"""

from itertools import permutations
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from PIL import Image

from probes import E5V, Backbone, Item, lens
from probes.data import PICTURES, pictures
from probes.embedded.smolsight.model import pixels, tower_of
from probes.embedded.smolsight.tower import IMAGE_SIZE
from probes.files import read_json, write_json
from probes.microscope.lens import LensTable
from probes.microscope.places import Names
from probes.model.sites import Site
from probes.plots import places_figure, save

HERE = Path(__file__).parent
FILE = HERE / "places.json"
SHOWN = "room.webp"
SITES = ("attn[0]", "mlp[-5]", "norm")
ARRAYS = ("words", "probability", "entropy", "alpha", "beta")
MIDDLE = 3
"""The column of places that both halves share."""


def main(*, model: str | None = None) -> None:
    """Draw the figure.

    Args:
        model: Measure this backbone first: smolsight, whose tokens are names.
    """
    if model:
        backbone = Backbone.load(model)
        found = {
            "fingerprint": backbone.fingerprint(),
            "halves": halves(backbone),
            "lens": read(backbone),
        }
        write_json(FILE, found)
    with Image.open(PICTURES / SHOWN) as picture:
        save(places_figure(table(read_json(FILE)["lens"]), picture, SITES), HERE / "places.png")


def halves(backbone: Backbone) -> dict[str, Any]:
    """Over all pairs of photographs side by side, where the names of one of them alone stand: on
    its side, in the middle column of places, which both share, or on the other side."""
    tower = tower_of(backbone.model)
    files = [row["file"] for row in pictures() if row["kind"] == "photograph"]
    middles = {file: middle(file) for file in files}

    def named(picture: Image.Image) -> dict[int, int] | None:
        """The column of the greatest evidence for each name; None of what is taken for a scene."""
        scene, [concepts], [maps] = tower.evidence(pixels([picture]))
        columns = maps.amax(1).argmax(-1).tolist()
        return None if scene > 0.5 else dict(zip(concepts.tolist(), columns, strict=True))

    square = (IMAGE_SIZE, IMAGE_SIZE)
    alone = {file: named(picture.resize(square)) for file, picture in middles.items()}
    counts, pairs = dict.fromkeys(("its side", "middle column", "other side"), 0), 0
    for left, right in permutations((file for file in files if alone[file]), 2):
        both = Image.new("RGB", square)
        both.paste(middles[left], (0, 0))
        both.paste(middles[right], (IMAGE_SIZE // 2, 0))
        found = named(both)
        if found is None:
            continue
        pairs += 1
        for concept, column in found.items():
            sides = [concept in (alone[file] or {}) for file in (left, right)]
            if sum(sides) == 1:
                if column == MIDDLE:
                    counts["middle column"] += 1
                elif sides[column > MIDDLE]:
                    counts["its side"] += 1
                else:
                    counts["other side"] += 1
    return {"pairs": pairs, "names": counts}


def middle(file: str) -> Image.Image:
    """The middle of a photograph, half as wide as it is high."""
    with Image.open(PICTURES / file) as picture:
        whole = picture.convert("RGB").resize((IMAGE_SIZE, IMAGE_SIZE))
    return whole.crop((IMAGE_SIZE // 4, 0, IMAGE_SIZE * 3 // 4, IMAGE_SIZE))


def read(backbone: Backbone) -> dict[str, Any]:
    """What the lens reads at the tokens of the photograph that is shown."""
    prompted = E5V.apply(Item(images=[PICTURES / SHOWN]))
    whole = lens(backbone, prompted, sites=SITES, top=1, content=True)
    [names] = whole.pictures
    assert isinstance(names, Names)
    columns = whole.columns([token for tokens in names.tokens for token in tokens])
    return {
        "backbone": whole.backbone,
        "num_layers": whole.num_layers,
        "sites": list(map(str, whole.sites)),
        "length": whole.length,
        "tokens": [whole.tokens[column] for column in columns],
        "predicted": [whole.predicted[column] for column in columns],
        **{key: getattr(whole, key)[:, columns].tolist() for key in ARRAYS},
        "names": names.tokens,
        "evidence": names.evidence.round(3).tolist(),
        "box": list(names.box),
    }


def table(found: dict[str, Any]) -> LensTable:
    """The table that `read` wrote."""
    names = Names(found["names"], np.array(found["evidence"]), tuple(found["box"]))
    arrays = {key: np.array(found[key], dtype=object if key == "words" else None) for key in ARRAYS}
    return LensTable(
        backbone=found["backbone"],
        num_layers=found["num_layers"],
        sites=tuple(map(Site.parse, found["sites"])),
        positions=tuple(token for tokens in names.tokens for token in tokens),
        length=found["length"],
        tokens=tuple(found["tokens"]),
        predicted=tuple(found["predicted"]),
        content=True,
        pictures=(names,),
        **arrays,
    )


if __name__ == "__main__":
    cyclopts.run(main)
