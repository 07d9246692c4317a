"""Perception: the media of a row and of a batch, from the parts of items to the model's inputs.

Each picture, video and audio goes through the model's own processor by itself, and each picture and
video through its tower once: features are cached by content and given to the language model
wherever that medium stands. A candidate that is embedded and then judged against many queries is
encoded once, and a row never depends on the pictures of its neighbours.

docs/families.md lists the kinds that each family reads, in any number and order. Rows of every kind
may share a batch. LLaVA-OneVision cuts a picture into tiles only when it is alone in its row,
Gemma 3 only with `do_pan_and_scan`.

Pictures and frames are reduced to `MediaOptions.max_pixels`, and further where their row would
exceed its limit (`probes/model/encoding/fitting.py`).

A kind that a family does not read is a BadItem before anything is rendered: the chat template
would drop it silently.
"""

import functools
import inspect
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import BadItem, UnsupportedBackbone
from probes.items import Part
from probes.media.cache import Cache, Processed
from probes.media.processing import READERS, ROUTES, MediaProcessor, View, content_digest
from probes.media.segments import segmented, whole_sequences
from probes.media.sources import MediaOptions, label_media, open_part
from probes.media.towers import Towers, cast, merge, to_device


@dataclass(frozen=True)
class Piece:
    """One picture, video or audio of a row, with its placeholder."""

    part: Part = field(repr=False)
    name: str
    """How messages call its item."""
    label: str
    """How messages call it among the media of its item."""
    view: View
    key: str
    """Hash of the content, and the view of it."""
    processed: Processed = field(repr=False, compare=False)
    """Its placeholder, and its pixels, samples or features: it is never read again."""


class Perception:
    """The processor, the towers and the cache of one model."""

    def __init__(self, model: Any, processor: Any, options: MediaOptions):
        self.model, self.processor = model, processor
        self.media = MediaProcessor(processor, options)
        self.options, self.tokens = self.media.options, self.media.tokens
        self.kinds = list(self.tokens)
        """The kinds of media that the model reads."""
        self.cache = Cache(options.cache_bytes)
        self.towers = Towers(model, processor.tokenizer)
        accepted = inspect.signature(model.forward).parameters
        self.takes_features = "mm_encoder_outputs" in accepted
        types = [name for name in ("mm_token_type_ids", "token_type_ids") if name in accepted]
        # M-RoPE positions are counted from the types, whether the processor returns them or not.
        returned = processor.return_mm_token_type_ids or hasattr(model.base_model, "get_rope_index")
        self.types_name = types[0] if types and returned else None
        self.segmented = segmented(model)
        self.takes_routes = ROUTES in accepted and hasattr(processor, f"create_{ROUTES}")

    # -- one row -----------------------------------------------------------------------------

    def pieces(self, media: Sequence[Part], name: str) -> list[Piece]:
        """The media of a row, read and processed. Raises BadItem, naming the item."""
        for part in media:
            if part.kind not in self.kinds:
                readable = ", ".join(["text", *self.kinds])
                raise BadItem(
                    f"{name}: this backbone does not read {part.kind}; it reads {readable}"
                )
        view = self.media.view(media)
        labels = label_media(media)
        return [self._piece(p, view, name, label) for p, label in zip(media, labels, strict=True)]

    def _piece(self, part: Part, view: View, name: str, label: str) -> Piece:
        """The medium, opened and hashed; decoded and processed where the cache lacks it."""
        with open_part(part, self.options, name, label) as source:
            is_file = isinstance(source, io.BufferedIOBase)
            value = source if is_file else self.media.read(part.kind, source)

            def process() -> Processed:
                read = self.media.read(part.kind, source) if is_file else value
                processed = self.media.process(part.kind, read, view)
                return replace(processed, tensors=cast(processed.tensors, self.model.dtype))

            key = f"{part.kind}:{view}:{content_digest(value)}"
            processed = self.cache.get_or_make(key, process)
        return Piece(part, name, label, view, key, processed)

    def smaller(self, piece: Piece, ratio: float) -> Piece:
        """The same medium with about `ratio` of its tokens: in one tile where it is in several,
        else with fewer pixels."""
        view = self.media.smaller(piece.view, piece.part.kind, piece.processed.pixels, ratio)
        return self._piece(piece.part, view, piece.name, piece.label)

    def expand(self, text: str, pieces: Sequence[Piece]) -> str:
        """Rendered text with each placeholder expanded to the tokens of its medium.

        Raises UnsupportedBackbone when the chat template does not write one for each.
        """
        expanded = {
            kind: [p.processed.text for p in pieces if p.part.kind == kind] for kind in READERS
        }
        for kind, replacements in expanded.items():
            token = self.tokens.get(kind)
            written = text.count(token) if token else 0
            if written != len(replacements):
                raise UnsupportedBackbone(
                    f"the chat template writes {written} placeholders {token!r} for "
                    f"{len(replacements)} {kind}s; give the processor another chat_template"
                )
        (whole,), _ = self.processor.get_text_with_replacements(
            [text],
            images_replacements=self._numbered(expanded["image"]),
            videos_replacements=self._numbered(expanded["video"]),
            audio_replacements=expanded["audio"],
        )
        return whole

    def _numbered(self, texts: Sequence[str]) -> list[str]:
        """MiniCPM numbers the pictures of a row; processed alone, each is number 0."""
        names = ("image_id_start_token", "image_id_end_token")
        start, end = (getattr(self.processor, name, None) for name in names)
        first = f"{start}0{end}"
        return [
            f"{start}{i}{end}{text.removeprefix(first)}" if text.startswith(first) else text
            for i, text in enumerate(texts)
        ]

    def token_types(self, ids: Sequence[int]) -> dict[str, list[int]]:
        """The kind of content behind each token, under each name by which the model takes it."""
        makers = {}
        if self.types_name is not None:
            makers[self.types_name] = self.processor.create_mm_token_type_ids
        if self.takes_routes:
            makers[ROUTES] = self.processor.create_moe_mm_token_type_ids
        return {name: [int(t) for t in make([list(ids)])[0]] for name, make in makers.items()}

    def positions(
        self, ids: Sequence[int], types: Sequence[int], pieces: Sequence[Piece]
    ) -> Tensor:
        """M-RoPE positions `[axes, length]` of a row, computed by the model from it alone."""
        count = self.model.base_model.get_rope_index
        row: dict[str, Any] = {
            "input_ids": torch.tensor([list(ids)]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "mm_token_type_ids": torch.tensor([list(types)]),
        }
        counted = [piece.processed.positions for piece in pieces]
        for key in {key for positions in counted for key in positions}:
            row[key] = _pad_cat([positions[key] for positions in counted if key in positions])
        return count(**{k: v for k, v in row.items() if k in self._counted_from})[0][:, 0]

    @functools.cached_property
    def _counted_from(self) -> Collection[str]:
        """The names under which the model takes what it counts positions from."""
        return inspect.signature(self.model.base_model.get_rope_index).parameters.keys()

    def opening(self) -> str:
        """What the processor writes before every prompt (Molmo2: a first token that neither its
        tokenizer nor its chat template adds)."""
        try:
            ids = list(self.processor(text=["x"])["input_ids"][0])
        except Exception:  # processors that take no text without a picture
            return ""
        plain = self.processor.tokenizer("x")["input_ids"]
        ends = ids[-len(plain) :] == plain
        return self.processor.tokenizer.decode(ids[: -len(plain)]) if ends else ""

    # -- a batch -----------------------------------------------------------------------------

    def inputs(self, pieces: Sequence[Piece], device: Any) -> dict[str, Any]:
        """The model's keyword arguments for the media of a batch, in order of their placeholders.

        Media whose features are not cached go through their towers here.
        """
        tensors: dict[str, list[Tensor]] = {}
        features: dict[str, list[Any]] = {}
        encodings = self._encoded(pieces, device) if self.takes_features else {}
        for piece in pieces:
            encoded = encodings.get(piece.key, piece.processed)
            for key, tensor in {**encoded.positions, **encoded.tensors}.items():
                tensors.setdefault(key, []).append(tensor)
            for kind, output in encoded.features.items():
                features.setdefault(kind, []).append(output)
        inputs: dict[str, Any] = {
            key: to_device(_pad_cat(values), device) for key, values in tensors.items()
        }
        if features:
            inputs["mm_encoder_outputs"] = {
                kind: merge(outputs, device) for kind, outputs in features.items()
            }
        return inputs

    def _encoded(self, pieces: Sequence[Piece], device: Any) -> dict[str, Processed]:
        """The media with their features, by key: from the row, the cache or the tower."""
        known: dict[str, Processed] = {}
        missing: dict[View, dict[str, Processed]] = {}
        for piece in pieces:
            cached = self.cache.get(piece.key)
            best = cached if cached is not None and cached.features else piece.processed
            known[piece.key] = best
            if not best.features:
                missing.setdefault(piece.view, {})[piece.key] = best
        for media in missing.values():
            with whole_sequences(self.segmented):
                encoded = self.towers.encode(list(media.values()), device)
            for key, processed in zip(media, encoded, strict=True):
                known[key] = processed
                if processed.features:
                    self.cache.put(key, processed)
        return known


def _pad_cat(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along axis 0, zero-padding other axes to the largest (tiles, frames, time)."""
    largest = [max(t.shape[axis] for t in tensors) for axis in range(1, tensors[0].dim())]
    padded = []
    for tensor in tensors:
        missing = [n - have for n, have in zip(largest, tensor.shape[1:], strict=True)]
        widths = [w for m in reversed(missing) for w in (0, m)]
        padded.append(nn.functional.pad(tensor, widths) if any(missing) else tensor)
    return torch.cat(padded)
