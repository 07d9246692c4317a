"""Drawings with names, from emoji sets in the npm registry; none of them is shipped.

    npm pack emoji-datasource-twitter@16.0.0 fluentui-emoji@1.3.0 openmoji@17.0.0

Unpack each archive into a folder of its package's name (emoji-datasource-twitter, fluentui-emoji,
openmoji) under SETS. Rendering needs `pip install resvg-py`.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image

from probes.embedded.smolsight.tower import IMAGE_SIZE

STYLES = ("openmoji", "twemoji", "flat", "modern")
ROLES = ("role", "fantasy", "activity", "sport", "resting")
NOT_THINGS = re.compile(
    "arrow|av-symbol|alphanum|zodiac|gender|math|punct|other-symbol|keycap|country-flag|subdivision"
)
"""Groups of signs, which show nothing that could be named by looking."""
SIGNS = re.compile("o'clock|thirty|button|japanese|input|keycap|zodiac")
VARIANTS = re.compile(r"\b(man|woman|men|women|facing)\b")
"""Words in the names of persons that mark a variant of another concept."""
ADULTS = ("man", "woman", "old man", "old woman")


@dataclass(frozen=True)
class Drawing:
    """A picture with transparent ground, in one of STYLES, and the name of what it shows."""

    name: str
    style: str
    picture: Image.Image

    def on_ground(self, rng: Random | None = None) -> Image.Image:
        """It on white, filling the picture; with `rng` on any ground, smaller, perhaps flipped."""
        ground, scale, x, y = (255, 255, 255), 1.0, 0.5, 0.5
        picture = self.picture
        if rng is not None:
            any_colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
            ground = rng.choice([ground, ground, (0, 0, 0), (200, 200, 200), any_colour])
            scale, x, y = rng.uniform(0.45, 1), rng.random(), rng.random()
            if rng.random() < 0.4:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        ratio = scale * IMAGE_SIZE / max(picture.size)
        width, height = (max(1, round(side * ratio)) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.BICUBIC)
        canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), ground)
        canvas.paste(small, (int((IMAGE_SIZE - width) * x), int((IMAGE_SIZE - height) * y)), small)
        return canvas


def drawings(sets: Path) -> Iterator[Drawing]:
    """Every drawing of a thing, person or feeling in the sets, concept by concept."""
    openmoji = sets / "openmoji" / "package"
    for emoji in json.loads((openmoji / "data" / "openmoji.json").read_text()):
        name = concept(emoji)
        if name is None:
            continue
        files = _files(sets, emoji["hexcode"], emoji["annotation"])
        for style, file in zip(STYLES, files, strict=True):
            if file is not None:
                yield Drawing(name, style, _read(file))


def concept(emoji: dict) -> str | None:
    """What an emoji shows, in everyday words; None for signs and for variants of others."""
    name = emoji["annotation"].lower().replace("’", "'")
    group, kind = emoji["group"], emoji["subgroups"]
    base = emoji["skintone_base_hexcode"]
    if emoji["skintone"] or (base and base != emoji["hexcode"]):
        return None
    if group.startswith("extras") or group == "component" or NOT_THINGS.search(kind):
        return None
    if SIGNS.search(name) or (kind.startswith("person-") and not kind.endswith(ROLES)):
        return None
    if kind.startswith("person") and VARIANTS.search(name) and name not in ADULTS:
        return None
    if group == "animals-nature":
        name = name.replace(" face", "")
    name = re.sub(r"^(person|people) (?=\w+ing\b|in )", "", name)
    return " ".join(re.sub(r"[:()“”]", " ", name).split())


def _files(sets: Path, code: str, annotation: str) -> list[Path | None]:
    """The file of an emoji in each of STYLES, None where a set lacks it."""
    twemoji = sets / "emoji-datasource-twitter" / "package" / "img" / "twitter" / "64"
    fluent = sets / "fluentui-emoji" / "package" / "icons"
    plain = re.sub("[’']", "", annotation.lower())
    slug = re.sub("[^a-z0-9]+", "-", plain).strip("-")
    lower = code.lower()
    choices = [
        [sets / "openmoji" / "package" / "color" / "svg" / f"{code}.svg"],
        [twemoji / f"{c}.png" for c in (lower, lower.replace("-fe0f", ""), f"{lower}-fe0f")],
        *(
            [fluent / style / f"{slug}{end}.svg" for end in ("", "-default")]
            for style in STYLES[2:]
        ),
    ]
    return [next((file for file in files if file.exists()), None) for files in choices]


def _read(file: Path) -> Image.Image:
    if file.suffix == ".svg":
        from resvg_py import svg_to_bytes  # pyright: ignore[reportMissingImports]

        return Image.open(
            io.BytesIO(bytes(svg_to_bytes(svg_path=str(file), width=256, height=256)))
        )
    return Image.open(file).convert("RGBA")
