"""Reference items: bundled, unlabelled examples of documents and queries.

The geometry of a corpus is estimated from them where the corpus itself does not suffice: the mean
of queries of a modality that it does not hold (captions, for a corpus of pictures), and the mean
and the spread of a modality of which it holds only a few items.
"""

import functools
from collections.abc import Callable, Sequence
from random import Random

import torch
from PIL import Image
from torch import Tensor

from probes.data import PICTURES, everyday_captions, paraphrases, pictures
from probes.items import Item
from probes.prompts import Side
from probes.scenes.generator import SEEN, Scene, distinct_scenes, random_clip

DRAWN, CLIPS = 60, 30
KINDS = 3
"""Kinds of texts, equally many of each, that stand for queries for media."""
TEXT_FOR_MEDIA = "text for media"

Encode = Callable[[Sequence[Item], Side], Tensor]
"""Raw vectors `[items, hidden]` of items on one side."""
Reference = Callable[[Side, str], Tensor | None]
"""Raw vectors `[items, hidden]` of the reference items of a side and a modality signature; None
where there are no such items."""
Keep = Callable[[str, Callable[[], Tensor]], Tensor]
"""Vectors by a name, made at the first call with it."""


def reference_items(side: Side, signature: str) -> list[Item]:
    """The reference items of one modality signature.

    Args:
        side: Texts differ by side: documents are sentences, queries are sentences and as many
            captions, since queries for texts and for pictures differ. Media are the same on both.
        signature: `text`, `image`, `image+text` or `video`, or for queries what `cross_modal` says.

    Returns:
        The items in a fixed order; none for any other signature.
    """
    return [item for group in _GROUPS.get((side, signature), ()) for item in _MAKERS[group]()]


def cross_modal(signature: str) -> str:
    """The signature of the reference queries for a corpus that holds nothing of a query's own.

    Texts that look for media are captions more often than texts that look for texts, and a corpus
    without texts is one of media.
    """
    return TEXT_FOR_MEDIA if signature == "text" else signature


def reference_vectors(
    encode: Encode, *, symmetric: bool = False, keep: Keep | None = None
) -> Reference:
    """Vectors of the reference items; each group is encoded at most once, on first use.

    `symmetric` says whether `encode` treats queries and documents alike; `keep` keeps the vectors
    of a group beyond this function's memory.
    """

    @functools.cache
    def group_vectors(group: str, side: Side) -> Tensor:
        def make() -> Tensor:
            return encode(_MAKERS[group](), side)

        return make() if keep is None else keep(f"{side}: {group}", make)

    def reference(side: Side, signature: str) -> Tensor | None:
        groups = _GROUPS.get((side, signature))
        if groups is None:
            return None
        return torch.cat([group_vectors(g, "document" if symmetric else side) for g in groups])

    return reference


def at_column(reference: Reference, column: int) -> Reference:
    """The vectors at one site of a reference whose vectors are states `[items, sites, hidden]`."""

    def at_site(side: Side, signature: str) -> Tensor | None:
        states = reference(side, signature)
        return None if states is None else states[:, column]

    return at_site


def no_reference(side: Side, signature: str) -> None:
    """The reference of a corpus that needs none."""


@functools.cache
def sentences() -> list[Item]:
    """200 sentences on many subjects."""
    return [Item(row["sentence"]) for row in paraphrases()]


@functools.cache
def captions() -> list[Item]:
    """Captions of drawn scenes, as many as there are sentences."""
    return [Item(scene.caption()) for scene in _scenes(len(sentences()))]


@functools.cache
def everyday() -> list[Item]:
    """Captions of everyday things, as many as there are sentences."""
    return [Item(caption) for caption in everyday_captions()]


def _captioned_pictures() -> list[Item]:
    """Pictures beside a text: in turn a sentence and a caption, neither of them the picture's."""
    texts = [text for pair in zip(sentences(), captions(), strict=True) for text in pair]
    pairs = zip(texts, _drawings(), strict=False)
    return [Item(text.text, images=[picture]) for text, picture in pairs]


def _drawn_scenes() -> list[Item]:
    return [Item(images=[picture]) for picture in _drawings()]


def everyday_pictures() -> list[Item]:
    """Photographs and drawings of everyday things."""
    return [Item(images=[PICTURES / row["file"]]) for row in pictures()]


def _clips() -> list[Item]:
    rng = Random("own clips")
    return [Item(videos=[random_clip(rng, SEEN).frames(rng=rng)]) for _ in range(CLIPS)]


_MAKERS: dict[str, Callable[[], list[Item]]] = {
    "sentences": sentences,
    "captions": captions,
    "captions of everyday things": everyday,
    "drawn scenes": _drawn_scenes,
    "everyday pictures": everyday_pictures,
    "captioned pictures": _captioned_pictures,
    "clips": _clips,
}
_GROUPS: dict[tuple[Side, str], tuple[str, ...]] = {
    ("document", "text"): ("sentences",),
    ("query", "text"): ("sentences", "captions"),
    ("query", TEXT_FOR_MEDIA): ("sentences", "captions", "captions of everyday things"),
    **{
        (side, signature): groups
        for side in ("query", "document")
        for signature, groups in (
            ("image", ("drawn scenes", "everyday pictures")),
            ("image+text", ("captioned pictures",)),
            ("video", ("clips",)),
        )
    },
}


def _drawings() -> list[Image.Image]:
    rng = Random("own pictures")
    return [scene.draw(rng=rng) for scene in _scenes(DRAWN)]


@functools.cache
def _scenes(count: int) -> list[Scene]:
    return distinct_scenes(Random("own scenes"), count, SEEN)
