"""A token of a picture stands at the place that changes it most, or where the evidence for its name
lies, and is drawn there."""

import json
import re
from collections.abc import Callable
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from probes import lens, plots, record
from probes.data import PICTURES
from probes.embedded.smolsight import CONCEPTS
from probes.errors import BadSetting, NotRecorded, UnsupportedBackbone
from probes.items import Item
from probes.microscope.places import Names, Places, picture_places
from probes.model.backbone import Backbone
from probes.plots.microscope import LETTERS
from probes.plots.style import writable
from probes.scenes.generator import distinct_scenes
from tests.models import MULTIMODAL
from tests.samples import picture

Tiny = Callable[[str], Backbone]
GRIDS = {
    "llava": (4, 4),
    "internvl": (2, 2),
    "gemma3-vl": (4, 4),
    "smolvlm": (2, 2),
    "idefics3": (2, 2),
    "qwen2-vl": (3, 2),
    "qwen2.5-vl": (3, 2),
    "qwen3-vl": (3, 2),
}
TOWERS = ("vision_tower", "vision_model", "visual")
UNTILED = {"smolvlm": {"do_image_splitting": False}, "idefics3": {"do_image_splitting": False}}


def without_attention(name: str) -> Backbone:
    """A backbone whose tower moves nothing from one place to another."""
    model, processor = MULTIMODAL[name].__wrapped__()
    tower = next(m for path, m in model.named_modules() if path.endswith(TOWERS))
    for path, weight in tower.named_parameters():
        if ("attn." in path or "attention." in path) and re.search(r"proj(ection_layer)?\.", path):
            weight.data.zero_()
    return Backbone.load(model, processor=processor, images=UNTILED.get(name, {}))


def places_of(backbone: Backbone, item: Item) -> list[Places | Names | str]:
    return picture_places(backbone, backbone.row(item))


@pytest.mark.parametrize("name", GRIDS)
def test_a_token_stands_where_it_sees_the_picture(name: str, tiny: Tiny) -> None:
    """A cell of the picture is painted, and the state of the token at its place alone changes."""
    backbone, (height, width) = without_attention(name), GRIDS[name]
    size = (16 * width, 16 * height)
    blank = Image.new("RGB", size, "grey")
    [places] = places_of(backbone, Item("what", images=[blank]))
    assert isinstance(places, Places)
    assert places.positions.shape == (height, width)
    assert places.box == (0, 0, 1, 1)

    def embedded(image: Image.Image) -> torch.Tensor:
        item = Item("what", images=[image])
        states = record(backbone, item, "embed", positions="all")["embed"]
        return states[torch.tensor(places.positions.ravel())]

    before = embedded(blank)
    for row, column in np.ndindex(height, width):
        painted = blank.copy()
        corner = (16 * column + 6, 16 * row + 6, 16 * column + 9, 16 * row + 9)
        ImageDraw.Draw(painted).rectangle(corner, fill="red")
        changed = (embedded(painted) - before).norm(dim=-1) > 1e-4
        assert changed.nonzero().flatten().tolist() == [row * width + column]


def test_several_pictures_have_places_of_their_own(tiny: Tiny) -> None:
    backbone = tiny("qwen2.5-vl")
    item = Item("two", images=[picture(32, 48), picture(64, 32)])
    first, second = places_of(backbone, item)
    assert isinstance(first, Places)
    assert isinstance(second, Places)
    assert first.positions.shape == (3, 2)
    assert second.positions.shape == (2, 4)
    assert first.positions.max() < second.positions.min()


def test_a_centre_that_is_cut_out_has_its_place_in_the_picture(tiny: Tiny) -> None:
    """LLaVA reads the square in the middle of a picture."""
    [places] = places_of(tiny("llava"), Item("what", images=[picture(96, 48)]))
    assert isinstance(places, Places)
    assert places.box == pytest.approx((0.25, 0, 0.75, 1), abs=0.02)


@pytest.mark.parametrize("name", ["smolvlm", "llava-onevision"])
def test_tiles_have_no_places(name: str, tiny: Tiny) -> None:
    backbone = tiny(name)
    item = Item("what", images=[picture(64, 64)])
    [reason] = places_of(backbone, item)
    assert "is cut into" in str(reason)
    table = lens(backbone, item, sites="norm")
    with pytest.raises(UnsupportedBackbone, match="tiles"):
        plots.draw_places(table, picture(64, 64))


def test_tokens_that_do_not_answer_to_their_places_have_none(tiny: Tiny) -> None:
    """The tokens stand in the opposite order, as many as before."""
    model, processor = MULTIMODAL["llava"].__wrapped__()
    model.model.multi_modal_projector.register_forward_hook(lambda *call: call[-1].flip(1))
    backbone = Backbone.load(model, processor=processor)
    item = Item("what", images=[picture(32, 32)])
    assert places_of(backbone, item) == ["the 16 tokens of the image do not answer to places in it"]
    assert isinstance(places_of(tiny("llava"), item)[0], Places)


# -------------------------------------------------------------------------------------- names


def halves(left: str, right: str) -> Image.Image:
    """The middles of two photographs side by side."""
    both = Image.new("RGB", (400, 400))
    for number, name in enumerate((left, right)):
        with Image.open(PICTURES / f"{name}.webp") as photograph:
            middle = photograph.convert("RGB").resize((400, 400)).crop((100, 0, 300, 400))
        both.paste(middle, (200 * number, 0))
    return both


def names_of(backbone: Backbone, image: Image.Image) -> tuple[Names, list[str]]:
    """The names of a picture, and how their tokens are spelled."""
    item = Item("what", images=[image])
    [names] = places_of(backbone, item)
    assert isinstance(names, Names)
    states = record(backbone, item, "embed", positions="all")["embed"]
    rows = backbone.model.get_input_embeddings().weight.detach()
    spelled = [
        backbone.tokenizer.decode(torch.cdist(states[tokens], rows).argmin(-1)).strip()
        for tokens in names.tokens
    ]
    return names, spelled


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        ("cat", "espresso", ("tabby", "espresso")),
        ("espresso", "cat", ("espresso", "tabby")),
        ("motorcycle", "hamburger", ("moped", "french loaf")),
    ],
)
def test_names_of_two_things_stand_on_their_sides(
    left: str, right: str, words: tuple[str, str], smolsight: Backbone
) -> None:
    names, spelled = names_of(smolsight, halves(left, right))
    across = dict(zip(spelled, names.centres[:, 0], strict=True))
    assert across[words[0]] < 0.4
    assert across[words[1]] > 0.6
    concepts = json.loads(CONCEPTS.read_text())
    assert set(spelled[:-1]) <= set(concepts)  # the last name may be cut off
    tokens = [token for of_name in names.tokens for token in of_name]
    assert tokens == list(range(tokens[0], tokens[0] + 16))


def test_the_centre_of_a_name_is_where_its_evidence_is_greatest() -> None:
    evidence = np.zeros((2, 7, 7))
    evidence[0, 6, 0] = evidence[1, 0, 3] = 1
    names = Names([[0], [1]], evidence, (0.25, 0.0, 0.75, 1.0))
    assert names.centres == pytest.approx(np.array([[0.25 + 0.5 / 14, 13 / 14], [0.5, 1 / 14]]))


def test_a_drawn_scene_keeps_its_grid(smolsight: Backbone) -> None:
    scene = distinct_scenes(Random(3), 1)[0].draw(size=256, rng=Random(0))
    [places] = places_of(smolsight, Item(images=[scene]))
    assert isinstance(places, Places)
    assert places.positions.shape == (4, 4)


# ------------------------------------------------------------------------------------ figures


def test_words_are_drawn_at_their_places(tiny: Tiny) -> None:
    image = picture(96, 48)
    table = lens(tiny("llava"), Item("what", images=[image]))
    ax = plots.draw_places(table, image, "attn[-1]")
    [places] = table.pictures
    assert isinstance(places, Places)
    columns = table.columns(places.positions.ravel().tolist())
    expected = table.words[table.row("attn[-1]"), columns, 0]
    assert len(ax.texts) == 16
    for place, (text, word) in enumerate(zip(ax.texts, expected, strict=True)):
        row, column = divmod(place, 4)
        x, y = text.get_position()
        assert x == pytest.approx(24 + 12 * (column + 0.5), abs=1)
        assert y == pytest.approx(12 * (row + 0.5), abs=1)
        assert text.get_text() == writable(word, LETTERS)
    assert ax.get_title(loc="left") == "attn[3]"


def test_the_words_of_a_name_are_one_label_that_overlaps_no_other(smolsight: Backbone) -> None:
    """Most names of a cup of coffee have their evidence at one place."""
    image = Image.open(PICTURES / "espresso.webp").convert("RGB")
    table = lens(smolsight, Item("what", images=[image]), sites="norm", content=True)
    figure = plots.places_figure(table, image, ["norm"])
    figure.draw_without_rendering()
    [ax] = figure.axes
    [names] = table.pictures
    assert isinstance(names, Names)
    held = [table.words[0, table.columns(tokens), 0] for tokens in names.tokens]
    assert [text.get_text().split("\n") for text in ax.texts] == [
        [writable(word) for word in words] for words in held
    ]
    assert ax.texts[0].get_position() == pytest.approx(names.centres[0] * image.size)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    assert all(ax.bbox.contains(x, y) for box in boxes for x, y in box.corners())
    starts = {tuple(np.array(line.get_xydata())[0]) for line in ax.lines}
    assert starts
    assert starts <= {tuple(centre) for centre in names.centres * image.size}
    assert "evidence" in figure.get_supxlabel()


def test_sites_are_side_by_side(tiny: Tiny) -> None:
    image = picture(32, 48)
    table = lens(tiny("qwen2.5-vl"), Item("what", images=[image]))
    figure = plots.places_figure(table, image, ["embed", "norm"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["embed", "norm"]
    assert len(plots.places_figure(table, image).axes) == 4


def test_what_cannot_be_drawn_over_a_picture(tiny: Tiny) -> None:
    backbone, image = tiny("llava"), picture(32, 32)
    item = Item("what", images=[image])
    with pytest.raises(BadSetting, match="no picture 1: the item has 1"):
        plots.draw_places(lens(backbone, item, sites="norm"), image, number=1)
    with pytest.raises(NotRecorded, match="positions='all'"):
        plots.draw_places(lens(backbone, item, sites="norm", positions="last"), image)
    with pytest.raises(BadSetting, match=r"probes\.lens returns"):
        plots.draw_places(np.zeros(3), image)  # type: ignore[arg-type]
