"""Does a picture become a word where a text does? Lexicalization curves of both, side by side.

    python figures/curves_pictures.py --model smolsight

The same scenes of held-out combinations, as captions and as pictures, under the E5-V prompt.
Writes figures/curves_pictures_<model>.json and the figure beside it.
"""

from pathlib import Path
from random import Random

import cyclopts

from probes import E5V, Backbone, Item, lexicalization_curves
from probes.files import write_json
from probes.plots import curves_figure, save
from probes.scenes import HELD_OUT, distinct_scenes

HERE = Path(__file__).parent


def main(*, model: str = "smolsight", count: int = 48) -> None:
    backbone, rng = Backbone.load(model), Random("curves")
    scenes = distinct_scenes(rng, count, HELD_OUT)
    inputs = {
        "captions": [Item(scene.caption()) for scene in scenes],
        "pictures": [Item(images=[scene.draw(rng=rng)]) for scene in scenes],
    }
    curves = {
        name: lexicalization_curves(backbone, [E5V.apply(item) for item in items], progress=True)
        for name, items in inputs.items()
    }
    name = f"curves_pictures_{Path(model).name}"
    found = {kind: c.to_json() for kind, c in curves.items()}
    write_json(HERE / f"{name}.json", {"fingerprint": backbone.fingerprint(), **found})
    save(curves_figure(curves), HERE / name)


if __name__ == "__main__":
    cyclopts.run(main)
