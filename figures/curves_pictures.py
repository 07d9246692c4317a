"""Does a picture become a word where a text does? Lexicalization curves by kind of input.

    python figures/curves_pictures.py --model smolsight

Drawn scenes of held-out combinations, the photographs and the drawings that come with the project,
and the captions of them all, under the E5-V prompt. Writes figures/curves_pictures_<model>.json and
the figure beside it; without --model it only draws.
"""

from pathlib import Path
from random import Random

import cyclopts

from probes import E5V, Backbone, Curves, Item, lexicalization_curves
from probes.data import PICTURES, pictures
from probes.files import read_json, write_json
from probes.plots import curves_figure, save
from probes.scenes.generator import HELD_OUT, distinct_scenes

HERE = Path(__file__).parent


def main(*, model: str | None = None, count: int = 48) -> None:
    """Draw all files.

    Args:
        model: Measure this backbone first.
        count: The most pictures of each kind.
    """
    if model:
        measure(model, count)
    for file in sorted(HERE.glob("curves_pictures_*.json")):
        found = read_json(file)["curves"]
        curves = {kind: Curves.from_json(data) for kind, data in found.items()}
        save(curves_figure(curves), file.with_suffix(""))


def measure(model: str, count: int) -> None:
    backbone = Backbone.load(model)
    curves = {
        kind: lexicalization_curves(backbone, [E5V.apply(item) for item in items], progress=True)
        for kind, items in inputs(count).items()
    }
    found = {kind: measured.to_json() for kind, measured in curves.items()}
    write_json(
        HERE / f"curves_pictures_{Path(model).name}.json",
        {"fingerprint": backbone.fingerprint(), "curves": found},
    )


def inputs(count: int) -> dict[str, list[Item]]:
    """The same things as captions and as pictures, at most `count` of each kind."""
    rng = Random("curves")
    scenes = distinct_scenes(rng, count, HELD_OUT)
    shown = {
        kind: [row for row in pictures() if row["kind"] == kind][:count]
        for kind in ("photograph", "drawing")
    }
    captions = [scene.caption() for scene in scenes]
    captions += [row["caption"] for rows in shown.values() for row in rows]
    return {
        "captions": [Item(caption) for caption in captions],
        "scenes": [Item(images=[scene.draw(rng=rng)]) for scene in scenes],
        **{
            f"{kind}s": [Item(images=[PICTURES / row["file"]]) for row in rows]
            for kind, rows in shown.items()
        },
    }


if __name__ == "__main__":
    cyclopts.run(main)
