"""Checks of pictures, clips and sounds: is each read, unchanged and at its place in the text?

For every modality that the backbone reads: the tokens of common sizes; as many placeholders as
features; the same state alone, in a mixed batch, after a shared prefix and from cached features;
text and media in order; items per second.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

from freeret.check.agreement import (
    EXACT,
    SITE,
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
from probes import Backbone
from probes.errors import BadItem, one_line
from probes.items import Part
from probes.media.cache import Cache
from probes.media.formats import Modality
from probes.model.batches.sharing import share_error
from probes.model.batches.states import device_states
from probes.model.encoding import Row
from probes.prompts import NAMED, Prompted

PICTURES = ((640, 480), (1024, 768), (4000, 3000))
CLIPS = ((640, 480), (1024, 768), (1920, 1080))
SECONDS = (1.0, 10.0, 30.0)
"""Sizes whose tokens are counted: common ones, and one that models scale down."""
BEFORE, AFTER = "alpha", "omega"
"""Text before and after a medium, to see whether the order is kept."""


def checks(backbone: Backbone) -> list[Check]:
    """The lines about every modality that the backbone reads."""
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


def _prompted(backbone: Backbone, *parts: Part, prompt: str = "prompteol") -> Row:
    sample = item(*parts)
    return backbone.row(NAMED[prompt].apply(sample), sample.name)


# -- one medium ------------------------------------------------------------------------------


def _tokens(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """The number of tokens that a medium of each size adds to a row, or why it is refused."""
    empty = len(backbone.row(Prompted(user=("x",))))
    counts, refused = [], False
    for size, value in _sizes(backbone, kind):
        name = f"sample of {kind}, {size}"
        try:
            count = len(backbone.row(Prompted(user=("x", Part(kind, value))), name)) - empty
            counts.append(f"{size}: {count:,}")
        except BadItem as error:
            counts.append(f"{size}: refused ({one_line(error)})")
            refused = True
    return [Check(what, ", ".join(counts), "note" if refused else "ok")]


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
    """Length in seconds of the longest sound that the backbone reads whole."""
    extractor: Any = getattr(backbone.processor, "feature_extractor", None)
    samples = getattr(extractor, "n_samples", None)
    return samples / extractor.sampling_rate if samples else float("inf")


def _placeholders(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Whether the row holds as many placeholder tokens as there are features to replace them."""
    row = _prompted(backbone, three(kind)[0])
    placeholders = sum(id in backbone.encoder.media_ids for id in row.ids)
    features = _features(backbone.collate([row]).inputs.get("mm_encoder_outputs"))
    if features is None:  # then the model's forward compares them, and raises
        return [Check(what, f"{placeholders} in the row", "ok" if placeholders else "FAILED")]
    counts = f"{placeholders} in the row, {features} features"
    return [Check(what, counts, "ok" if placeholders == features > 0 else "FAILED")]


def _features(outputs: Any) -> int | None:
    """The number of features of a batch; None if the model computes them in its forward."""
    if not outputs:
        return None
    pooled = [output.pooler_output for output in outputs.values()]
    tensors = [t for p in pooled for t in (p if isinstance(p, list | tuple) else [p])]
    return sum(t.shape[:-1].numel() for t in tensors)


def _order(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Whether the row of text, medium, text holds them in this order."""
    row = backbone.row(item(Part("text", BEFORE), three(kind)[0], Part("text", AFTER)))
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


# -- several rows ----------------------------------------------------------------------------


def _agreements(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """States alone, in a mixed batch, from cached features, and from pixels."""
    first, second, other = three(kind)
    rows = [_prompted(backbone, Part("text", "Rain"))]
    rows += [_prompted(backbone, *parts) for parts in ((first,), (other,))]
    rows += [_prompted(backbone, *parts) for parts in ((first, second), (second, first))]
    mixed = states(backbone, backbone.collate(rows))  # computes the features,
    single = alone(backbone, rows)  # which come from the cache here
    limit = tolerance(noise(backbone, rows, single))
    lines = [agreement(what, mixed, single, limit)]
    # One medium each: some models take no two clips of unequal length as pixels.
    if all("mm_encoder_outputs" in backbone.collate([row]).inputs for row in rows[1:3]):
        pixels = _from_pixels(backbone, (first, other))
        lines.append(
            agreement(f"cached {kind} features against pixels", single[1:3], pixels, limit)
        )
    return [*lines, _swapped(kind, distance(single[3:4], single[4:5]))]


def _from_pixels(backbone: Backbone, media: Sequence[Part]) -> States:
    """States of media alone, with pixels instead of features as the model's input."""
    plain = copy.copy(backbone)
    plain.encoder = copy.copy(backbone.encoder)
    perception = copy.copy(backbone.encoder.perception)
    if perception is not None:
        perception.takes_features, perception.cache = False, Cache(0)
    plain.encoder.perception = perception
    return alone(plain, [_prompted(plain, medium) for medium in media])


def _swapped(kind: Modality, moved: float) -> Check:
    """Whether swapping two media of one size moves the state; a mix-up would leave it as it is."""
    words = f"swapping them moves the state by {moved:.1e}"
    return Check(f"two {kind}s in order", words, "ok" if moved > EXACT else "FAILED", moved, EXACT)


def _prefix(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Rows that share the instructions of the control prompt, which are computed once."""
    contents = Part("text", "Rain"), three(kind)[0]
    rows = [_prompted(backbone, content, prompt="control") for content in contents]
    if reason := share_error(backbone, [kind]):
        return [Check(what, f"not used, so slower: {reason}", "note")]
    single = alone(backbone, rows)
    limit = tolerance(noise(backbone, rows, single))
    return [agreement(what, device_states(backbone, rows, [SITE])[:, 0].cpu(), single, limit)]


def _together(backbone: Backbone, kinds: Sequence[Modality], what: str) -> list[Check]:
    """Whether rows of every modality in one batch equal each row alone."""
    rows = [_prompted(backbone, Part("text", "Rain"))]
    rows += [_prompted(backbone, three(kind)[0]) for kind in kinds]
    single = alone(backbone, rows)
    limit = tolerance(noise(backbone, rows, single))
    return [agreement(what, states(backbone, backbone.collate(rows)), single, limit)]


# -- throughput ------------------------------------------------------------------------------


def _throughput(backbone: Backbone, kind: Modality, what: str) -> list[Check]:
    """Items per second, one medium each, from memory: processor, tower and language model."""
    match kind:
        case "image":
            size, make = "640×480", lambda number: picture(640, 480, number)
        case "video":
            frames = _frames(backbone)
            size, make = f"{frames} frames of 640×480", lambda n: clip(640, 480, frames, n)
        case _:
            seconds = min(5.0, _longest(backbone))
            size, make = f"{seconds:g} s", lambda number: sound(seconds, number)
    speed = items_per_second(backbone, lambda number: item(Part(kind, make(number))))
    return [Check(what, f"{speed:.3g} {kind}s/s of {size} on {backbone.device}", value=speed)]
