"""Where the tokens of a picture stand in it.

Tokens of a picture have places where they form a grid, row after row, and nothing else:

- by the processor's own count of patches (`image_grid_thw` of Qwen2-VL and its successors), divided
  by the number that is merged into one token;
- or as many as fill a square, where the picture is one square tile, and each quarter of the grid
  answers to its quarter of the picture: where that fades toward its negative, the mean change of
  the tokens is largest there.

Which part of the picture a tile shows, all of it or a centre that was cut out, is found by putting
a picture of gradients of the same size through the processor. A picture that is cut into several
tiles has no places; nor has one whose grid is interspersed with tokens of other kinds.

Tokens that are names of what the picture shows, as those of photographs are in smolsight, form no
grid, but their tower knows where its evidence for each name lies.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray
from PIL import Image, ImageOps

from probes.items import Item
from probes.media.perception import Perception, Piece
from probes.media.processing import MediaProcessor, View
from probes.media.sources import open_part
from probes.model.backbone import Backbone
from probes.model.encoding import Row
from probes.model.trace import record

FADED = 0.25
"""How far a quarter of the picture fades toward its negative."""
WHOLE = (0.0, 0.0, 1.0, 1.0)
EDGE = 0.02
"""A box that ends this close to the edge of the picture ends at the edge."""


Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of a picture's width and height."""


@dataclass(frozen=True, eq=False)
class Places:
    """The grid of one picture."""

    positions: ndarray
    """The place of each token in the prompt, `[height, width]`."""
    box: Box
    """Where the grid lies in the picture."""

    @property
    def tokens(self) -> list[list[int]]:
        """The tokens at each place, row by row: a single one."""
        return self.positions.reshape(-1, 1).tolist()

    @property
    def centres(self) -> ndarray:
        """The centre of each place, `[places, 2]`, as shares of the picture's width and height."""
        return _centres(np.arange(self.positions.size), self.positions.shape, self.box)


@dataclass(frozen=True, eq=False)
class Names:
    """The names of one picture, in the order of their tokens."""

    tokens: list[list[int]]
    """The places of the tokens of each name in the prompt."""
    evidence: ndarray
    """The evidence for each name at each place of the picture, `[names, height, width]`: where the
    classifier found it, not where the language model looks."""
    box: Box
    """Where those places lie in the picture."""

    @property
    def centres(self) -> ndarray:
        """The centre of the place with the greatest evidence for each name, `[names, 2]`, as shares
        of the picture's width and height."""
        peaks = self.evidence.reshape(len(self.tokens), -1).argmax(-1)
        return _centres(peaks, self.evidence.shape[1:], self.box)


def _centres(numbers: ndarray, shape: tuple[int, ...], box: Box) -> ndarray:
    """The centres of places of a grid of that shape, which are numbered row by row."""
    left, top, right, bottom = box
    rows, columns = np.unravel_index(numbers, shape)
    across = left + (columns + 0.5) / shape[1] * (right - left)
    down = top + (rows + 0.5) / shape[0] * (bottom - top)
    return np.stack([across, down], axis=-1)


def picture_places(backbone: Backbone, row: Row) -> list[Places | Names | str]:
    """The places of each picture of a row, the names that its tokens are, or a sentence that says
    why they are neither."""
    perception = backbone.encoder.perception
    if perception is None:
        return []
    return [
        _places(backbone, perception, piece, _media_tokens(backbone, row.ids[: span[1]], span[0]))
        for piece, span in zip(row.media, row.spans, strict=True)
        if piece.part.kind == "image"
    ]


def _media_tokens(backbone: Backbone, ids: list[int], start: int = 0) -> list[int]:
    """The positions of placeholders from `start` on."""
    return [i for i, id in enumerate(ids) if i >= start and id in backbone.encoder.media_ids]


def _places(
    backbone: Backbone, perception: Perception, piece: Piece, tokens: list[int]
) -> Places | Names | str:
    counted, box = piece.processed.positions.get("image_grid_thw"), WHOLE
    if counted is not None:
        merged = perception.processor.image_processor.merge_size
        frames, height, width = counted[0].tolist()
        grid = (frames * height // merged, width // merged)
    else:
        box = _tile_box(perception, piece)
        if isinstance(box, str):
            return box
        names = _names(backbone, perception, piece, tokens, box)
        if names is not None:
            return names
        grid = (math.isqrt(len(tokens)),) * 2
    if math.prod(grid) != len(tokens):
        return f"{piece.label} has {len(tokens)} tokens, which do not form one grid of places"
    places = Places(np.array(tokens).reshape(grid), box)
    if counted is None and not _answers(backbone, _read(perception, piece), places):
        return f"the {len(tokens)} tokens of {piece.label} do not answer to places in it"
    return places


def _names(
    backbone: Backbone, perception: Perception, piece: Piece, tokens: list[int], box: Box
) -> Names | None:
    """The names that the tokens are, where their tower says that they are names in the main."""
    tower: Any = getattr(backbone.model.base_model, "vision_tower", None)
    if not hasattr(tower, "evidence"):
        return None
    processed = perception.media.process("image", _read(perception, piece), piece.view)
    pixels = processed.tensors["pixel_values"].to(tower.device, tower.dtype)
    with backbone.lock:
        scene, [concepts], [maps] = tower.evidence(pixels)
    if scene.item() > 0.5:
        return None
    starts = [0, *(concepts.diff().nonzero().flatten() + 1).tolist()]
    spelled = [part.tolist() for part in np.split(np.array(tokens), starts[1:])]
    return Names(spelled, maps[starts].float().cpu().numpy(), box)


def _read(perception: Perception, piece: Piece) -> Image.Image:
    with open_part(piece.part, perception.options, piece.name, piece.label) as source:
        return perception.media.read("image", source).convert("RGB")


def _answers(backbone: Backbone, picture: Image.Image, places: Places) -> bool:
    """Whether each quarter of the grid answers to its quarter of the picture."""
    half = len(places.positions) // 2
    if not half:
        return True
    left, top, right, bottom = np.array(places.box) * (picture.size * 2)
    across, down = (left, (left + right) / 2, right), (top, (top + bottom) / 2, bottom)
    faded = Image.blend(picture, ImageOps.invert(picture), FADED)
    variants = [picture]
    for row, column in np.ndindex(2, 2):
        edges = (across[column], down[row], across[column + 1], down[row + 1])
        quarter = tuple(round(edge) for edge in edges)
        variants.append(picture.copy())
        variants[-1].paste(faded.crop(quarter), quarter[:2])
    rows = backbone.rows([Item(images=[variant]) for variant in variants])
    states = record(backbone, backbone.collate(rows), "embed", positions="all").by_row("embed")
    whole, *quarters = (
        state[_media_tokens(backbone, row.ids)].double()
        for row, state in zip(rows, states, strict=True)
    )
    if len(whole) != places.positions.size:
        return False
    for number, changed in enumerate(quarters):
        change = (changed - whole).norm(dim=-1).reshape(places.positions.shape)
        ends = (slice(None, half), slice(-half, None))
        means = [change[ends[row], ends[column]].mean() for row, column in np.ndindex(2, 2)]
        if max(means) > means[number]:
            return False
    return True


def _tile_box(perception: Perception, piece: Piece) -> Box | str:
    """The part of a picture that its only tile shows, or why there is no such tile."""
    media, size = perception.media, _read(perception, piece).size
    black, white = (_tiles(media, piece.view, Image.new("RGB", size, c)) for c in ("#000", "#fff"))
    if black is None or white is None:
        return f"the processor of {piece.label} does not give it to the model as tiles"
    if len(black) > 1:
        return (
            f"{piece.label} is cut into {len(black)} tiles; load the backbone with "
            f"images={media.untiled or 'settings that make one'}"
        )
    gradients = _tiles(media, piece.view, _gradients(*size))
    assert gradients is not None
    _, height, width = black[0].shape
    if height != width:
        return f"the tile of {piece.label} is {width} × {height}, which is not a square"
    with np.errstate(divide="ignore", invalid="ignore"):  # black and white are equal in padding
        shares = (gradients[0] - black[0]) / (white[0] - black[0])
    left, right = _ends(np.nanmean(shares[0], axis=0))
    top, bottom = _ends(np.nanmean(shares[1], axis=1))
    return left, top, right, bottom


def _tiles(media: MediaProcessor, view: View, picture: Image.Image) -> ndarray | None:
    """The tiles of a picture, `[tiles, channels, height, width]`; None where it has none."""
    pixels = media.process("image", picture, view).tensors.get("pixel_values")
    if pixels is None or pixels.dim() < 4 or pixels.shape[-3] != 3:
        return None
    return pixels.double().reshape(-1, *pixels.shape[-3:]).numpy()


def _gradients(width: int, height: int) -> Image.Image:
    """A picture whose red is the share of its width, and whose green that of its height."""
    pixels = np.zeros((height, width, 3))
    pixels[..., 0] = (np.arange(width) + 0.5) / width
    pixels[..., 1] = ((np.arange(height) + 0.5) / height)[:, None]
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def _ends(shares: ndarray) -> tuple[float, float]:
    """Where a tile begins and ends, from the shares at the centres of its pixels: those of the line
    through them."""
    centres = (np.arange(len(shares)) + 0.5) / len(shares)
    known = np.isfinite(shares)
    slope, start = np.polyfit(centres[known], shares[known], 1)
    return _snapped(float(start)), _snapped(float(start + slope))


def _snapped(end: float) -> float:
    return float(round(end)) if abs(end - round(end)) < EDGE else end
