"""Does a picture become a word where a text does? Lexicalization curves of both, side by side.

    python figures/curves_pictures.py --model smolsight

The same scenes of held-out combinations, as captions and as pictures, under the E5-V prompt.
Writes figures/curves_pictures_<model>.json and the figure beside it; without --model it only draws.
"""

from pathlib import Path
from random import Random

import cyclopts

from probes import E5V, Backbone, Curves, Item, lexicalization_curves
from probes.files import read_json, write_json
from probes.plots import curves_figure, save
from probes.scenes.generator import HELD_OUT, distinct_scenes

HERE = Path(__file__).parent


def main(*, model: str | None = None, count: int = 48) -> None:
    if model:
        measure(model, count)
    for file in sorted(HERE.glob("curves_pictures_*.json")):
        found = read_json(file)["curves"]
        curves = {kind: Curves.from_json(data) for kind, data in found.items()}
        save(curves_figure(curves), file.with_suffix(""))


def measure(model: str, count: int) -> None:
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
    found = {kind: measured.to_json() for kind, measured in curves.items()}
    write_json(
        HERE / f"curves_pictures_{Path(model).name}.json",
        {"fingerprint": backbone.fingerprint(), "curves": found},
    )


if __name__ == "__main__":
    cyclopts.run(main)
