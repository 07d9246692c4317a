"""Pictures, clips and sounds: does the backbone see each, as it is and where it stands?

For every kind that it reads: the tokens of common sizes, that placeholders and features go
together, that a row is the same alone, among other rows, after a shared prefix and from the cache
of features, that text and media keep their order, and how many are embedded a second.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from freeret.check.agreement import (
    EXACT,
    States,
    agreement,
    alone,
    distance,
    noise,
    states,
    tolerance,
)
from freeret.check.line import Check, tried
from freeret.check.samples import clip, item, picture, sound, three
from freeret.scale.sizing import items_per_second
from probes import Backbone, Item
from probes.errors import BadItem, one_line
from probes.items import Part
from probes.media.cache import Cache
from probes.media.formats import Modality
from probes.model.batching import shared_prefix
from probes.model.encoding import Row
from probes.prompts import NAMED, Prompted

PICTURES = ((640, 480), (1024, 768), (4000, 3000))
CLIPS = ((640, 480), (1024, 768), (1920, 1080))
SECONDS = (1.0, 10.0, 30.0)
"""Sizes whose tokens are counted: common ones, and one that a model scales down."""
BEFORE, AFTER = "alpha", "omega"
"""Text around a medium, to see whether it stays there."""


def checks(backbone: Backbone) -> list[Check]:
    """The lines about every kind of media that the backbone reads."""
    kinds: list[Any] = [kind for kind in backbone.modalities if kind != "text"]
    lines = [Check("reads", ", ".join(backbone.modalities))]
    for kind in kinds:
        for what, measure in (
            (f"{kind} tokens", _tokens),
            (f"{kind} placeholders", _placeholders),
            (f"text and {kind} in order", _order),
            (f"{kind} alone against a mixed batch", _agreements),
            (f"{kind} after a shared prefix", _prefix),
            (f"{kind} throughput", _throughput),
        ):
            lines += tried(what, partial(measure, backbone, kind, what))
    if len(kinds) > 1:
        what = "all kinds in one batch"
        lines += tried(what, partial(_together, backbone, kinds, what))
    return lines


def _prompted(backbone: Backbone, *parts: Part) -> Row:
    return backbone.row(NAMED["prompteol"].apply(Item(parts=parts)))


# -- one medium ------------------------------------------------------------------------------


def _tokens(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """How many tokens a medium of each size adds to a row, or why it is refused."""
    empty = len(backbone.row(Prompted(user=("x",))))
    found, refused = [], False
    for size, value in _sizes(backbone, kind):
        try:
            count = len(backbone.row(Prompted(user=("x", Part(kind, value))))) - empty
            found.append(f"{size}: {count:,}")
        except BadItem as error:
            found.append(f"{size}: refused ({one_line(error)})")
            refused = True
    return [Check(what, ", ".join(found), "note" if refused else "ok")]


def _sizes(backbone: Backbone, kind: Modality) -> list[tuple[str, Any]]:
    match kind:
        case "image":
            return [(f"{w}×{h}", picture(w, h)) for w, h in PICTURES]
        case "video":
            frames = _frames(backbone)
            return [(f"{frames} frames of {w}×{h}", clip(w, h, frames)) for w, h in CLIPS]
        case _:
            longest = _longest(backbone)
            lengths = [*(s for s in SECONDS if s < longest), *([longest] if longest < 3600 else [])]
            return [(f"{seconds:g} s", sound(seconds)) for seconds in lengths]


def _frames(backbone: Backbone) -> int:
    perception = backbone.encoder.perception
    return perception.options.frames if perception else 0


def _longest(backbone: Backbone) -> float:
    """Seconds of the longest sound that the backbone hears."""
    extractor: Any = getattr(backbone.processor, "feature_extractor", None)
    samples = getattr(extractor, "n_samples", None)
    return samples / extractor.sampling_rate if samples else float("inf")


def _placeholders(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """As many placeholders in the row as there are features that take their place."""
    row = _prompted(backbone, three(kind)[0])
    written = sum(id in backbone.encoder.media_ids for id in row.ids)
    features = _features(backbone.collate([row]).inputs.get("mm_encoder_outputs"))
    if features is None:  # then the forward compares them, and raises
        return [Check(what, f"{written} in the row", "ok" if written else "FAILED")]
    found = f"{written} in the row, {features} features"
    return [Check(what, found, "ok" if written == features > 0 else "FAILED")]


def _features(outputs: Any) -> int | None:
    """The number of features of a batch, or None where the model makes them in its forward."""
    if not outputs:
        return None
    pooled = [output.pooler_output for output in outputs.values()]
    tensors = [t for p in pooled for t in (p if isinstance(p, list | tuple) else [p])]
    return sum(t.shape[:-1].numel() for t in tensors)


def _order(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Whether the row of text, medium, text holds them in this order."""
    texts = Part("text", BEFORE), Part("text", AFTER)
    row = backbone.row(Item(parts=[texts[0], three(kind)[0], texts[1]]))
    places = [i for i, id in enumerate(row.ids) if id in backbone.encoder.media_ids]
    before = backbone.tokenizer.decode(row.ids[: places[0]])
    after = backbone.tokenizer.decode(row.ids[places[-1] :])
    if BEFORE not in before or AFTER not in after:
        moved = (
            f"the chat template moves the {kind} away from where it stands in the text; give the "
            "processor a chat_template that keeps the order"
        )
        return [Check(what, moved, "FAILED")]
    by = "by the chat template" if backbone.encoder.keeps_order else "in spite of the chat template"
    return [Check(what, f"text, {kind}, text are kept in order {by}")]


# -- rows beside each other ------------------------------------------------------------------


def _agreements(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """States alone, in a batch of everything, from cached features and from pixels anew."""
    first, second, other = three(kind)
    rows = [_prompted(backbone, Part("text", "Rain"))]
    rows += [_prompted(backbone, *parts) for parts in ((first,), (other,))]
    rows += [_prompted(backbone, *parts) for parts in ((first, second), (second, first))]
    mixed = states(backbone, backbone.collate(rows))  # the tower looks at them here,
    single = alone(backbone, rows)  # and here their features come from the cache
    limit = tolerance(noise(backbone, rows, single))
    lines = [agreement(what, mixed, single, limit)]
    lone = rows[1:3]  # some models take no two clips of unequal length as pixels
    if all("mm_encoder_outputs" in backbone.collate([row]).inputs for row in lone):
        cached = f"cached {kind} features against pixels"
        lines.append(agreement(cached, single[1:3], _anew(backbone, lone), limit))
    return [*lines, _swapped(kind, distance(single[3:4], single[4:5]))]


def _anew(backbone: Backbone, rows: Sequence[Row]) -> States:
    """States of rows alone, their media read again and their pixels given to the model itself."""
    plain = copy.copy(backbone)
    plain.encoder = copy.copy(backbone.encoder)
    perception = copy.copy(backbone.encoder.perception)
    if perception is not None:
        perception.takes_features, perception.cache = False, Cache(0)
    plain.encoder.perception = perception
    return alone(plain, rows)


def _swapped(kind: Modality, moved: float) -> Check:
    """Two of one size in either order; were one taken for the other, no bit would change."""
    found = f"swapped, they move the state by {moved:.1e}"
    return Check(f"two {kind}s in order", found, "ok" if moved > EXACT else "FAILED", moved, EXACT)


def _prefix(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Rows that begin with the instructions of the control prompt, which are computed once."""
    media = Item("Rain"), item(kind, three(kind)[0].value)
    rows = [backbone.row(NAMED["control"].apply(one)) for one in media]
    prefix = shared_prefix(backbone, rows)
    if prefix is None:
        return [Check(what, "not used, so slower: rows are computed whole", "note")]
    single = alone(backbone, rows)
    limit = tolerance(noise(backbone, rows, single))
    return [agreement(what, states(backbone, prefix.collate(rows)), single, limit)]


def _together(backbone: Backbone, kinds: Sequence[Modality], what: str) -> list[Check]:
    """Rows of every kind in one batch are what each is alone."""
    rows = [_prompted(backbone, Part("text", "Rain"))]
    rows += [_prompted(backbone, three(kind)[0]) for kind in kinds]
    single = alone(backbone, rows)
    limit = tolerance(noise(backbone, rows, single))
    return [agreement(what, states(backbone, backbone.collate(rows)), single, limit)]


# -- throughput ------------------------------------------------------------------------------


def _throughput(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Items a second of one medium each, from memory: processor, tower and language model."""
    match kind:
        case "image":
            size, make = "640×480", lambda number: picture(640, 480, number)
        case "video":
            frames = _frames(backbone)
            size, make = f"{frames} frames of 640×480", lambda n: clip(640, 480, frames, n)
        case _:
            seconds = min(5.0, _longest(backbone))
            size, make = f"{seconds:g} s", lambda number: sound(seconds, number)
    speed = items_per_second(backbone, lambda number: item(kind, make(number)))
    return [Check(what, f"{speed:.3g} {kind}s/s of {size} on {backbone.device}", value=speed)]
