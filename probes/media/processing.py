"""Perception: from media to the placeholders of a row and to the features of the towers.

Each picture, video and audio goes through the model's own processor by itself, and through its
tower once: features are kept by content, in a cache of bounded size, and given to the language
model wherever that medium stands (`mm_encoder_outputs`). So a candidate that is embedded and then
judged against many queries is looked at once, and a row never depends on its neighbours' pictures.

What the families most used read (docs/families.md has all):

| family                                 | a row may hold, in any number and order  |
|----------------------------------------|------------------------------------------|
| Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V | text, pictures, videos                   |
| Qwen2.5-Omni (its Thinker)             | text, pictures, videos, audio            |
| InternVL3, SmolVLM, LLaVA-OneVision    | text, pictures (in tiles), videos        |
| Idefics3                               | text, pictures (in tiles)                |
| LLaVA-1.5, Gemma 3                     | text, pictures                           |

Rows of every kind stand together in one batch. LLaVA-OneVision cuts a picture into tiles only when
it is alone in its row, Gemma 3 only with `do_pan_and_scan`.

Pictures and frames are made smaller to `MediaOptions.max_pixels`, and further where a row would be
too long with them (`probes/model/encoding/fitting.py`).

A kind that a family does not read is a BadItem before anything is rendered: its chat template
would drop it without a word.
"""

import hashlib
import inspect
import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.video_utils import VideoMetadata

from probes.arguments import check_count
from probes.errors import BadItem, BadSetting, UnsupportedBackbone, one_line
from probes.items import Part
from probes.media.audio import read_audio
from probes.media.cache import Cache, Processed, detach_output, merge_outputs, pad_cat
from probes.media.images import read_image, shrink
from probes.media.sources import MediaOptions, bad_item_on_error, open_source
from probes.media.videos import Video, read_video, shrink_frames

READERS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
"""The part of a processor that reads each kind."""
POSITIONS = (
    *("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "video_second_per_grid"),
    *("target_sizes", "target_sizes_videos"),
)
"""Processor outputs that token positions are counted from; the language model needs them too."""
TOWERS = {"pixel_values": "image", "pixel_values_images": "image", "pixel_values_videos": "video"}
"""The tower (`get_…_features`) that reads each kind of pixels."""
ROUTES = "moe_mm_token_type_ids"
"""Ernie 4.5's second kind of token type: which experts a token goes to."""
TEXTUAL = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", ROUTES, *POSITIONS)
"""What does not go to a tower."""
PATCH = "temporal_patch_size"
BENCHMARK_TOKENS = 1280
"""Tokens of a picture at most, unless said otherwise: MMEB's bound (VLM2Vec, resize_max_pixels)."""
UNTILED = {"max_patches": 1, "do_image_splitting": False, "do_pan_and_scan": False}
"""Settings by which processors cut a picture into tiles, where they make one tile of it."""
MILLISECONDS = 1000
PLAIN: dict[str, Any] = {
    "image": Image.new("RGB", (64, 64), "grey"),
    "video": Video(np.full((8, 64, 64, 3), 128, np.uint8), tuple(map(float, range(8))), 8.0, 8),
    "audio": np.zeros(16_000, np.float32),
}
"""A medium of each kind with which nothing can be wrong."""
NO_EFFECT = dict.fromkeys(
    ("min_pixels", "max_pixels"),
    "give MediaOptions(max_pixels=…), or size={'shortest_edge': pixels, 'longest_edge': pixels}",
) | {"image_grid_pinpoints": "the tiles are those of the model's config"}
"""Settings that processors take and pass over, or that must agree with the model."""


@dataclass(frozen=True)
class View:
    """How a medium is put to the processor."""

    tiled: bool = True
    """Whether a processor that cuts pictures into tiles may do so."""
    pixels: int | None = None
    """The most pixels of a picture or frame."""


@dataclass(frozen=True)
class Piece:
    """One picture, video or audio of a row: what stands for it among the tokens."""

    part: Part = field(repr=False)
    name: str
    view: View
    key: str
    """Hash of the content, and the view of it."""
    text: str
    """The placeholder as the processor expands it."""
    positions: dict[str, Tensor]
    pixels: int
    """Of the picture or of a frame, as the processor was given it."""


class Perception:
    """The processor and the towers of one model."""

    def __init__(self, model: Any, processor: Any, options: MediaOptions):
        self.model, self.processor = model, processor
        self.cache = Cache(options.cache_bytes)
        self.tokens: dict[str, str] = {
            kind: token
            for kind, reader in READERS.items()
            if getattr(processor, reader, None) is not None and (token := _token(processor, kind))
        }
        """The placeholder of each kind that it reads."""
        self.kinds = list(self.tokens)
        accepted = inspect.signature(model.forward).parameters
        self.takes_features = "mm_encoder_outputs" in accepted
        types = [name for name in ("mm_token_type_ids", "token_type_ids") if name in accepted]
        # M-RoPE positions are counted from the types, whether the processor returns them or not.
        returned = processor.return_mm_token_type_ids or hasattr(model.base_model, "get_rope_index")
        self.types_name = types[0] if types and returned else None
        self.takes_routes = ROUTES in accepted and hasattr(processor, f"create_{ROUTES}")
        pictures = getattr(processor, "image_processor", None)
        # LLaVA-OneVision cuts a picture into tiles only when it is alone in its row.
        self.counts_pictures = "batch_num_images" in getattr(pictures, "model_input_names", ())
        for kind, settings in (("image", options.images), ("video", options.videos)):
            _check_settings(getattr(processor, READERS[kind], None), settings)
        known = _settings(pictures)
        self.untiled = {key: value for key, value in UNTILED.items() if key in known}
        self.token_pixels, self.counted = _budget(pictures)
        self.options = replace(options, max_pixels=self._most_pixels(pictures, options))

    def _most_pixels(self, pictures: Any, options: MediaOptions) -> int | None:
        """`max_pixels` as it was given, or the bound that None stands for."""
        if options.max_pixels is not None:
            if self.token_pixels and "size" in options.images:
                raise BadSetting("max_pixels and images={'size': …} both bound pictures; give one")
            return check_count("max_pixels", options.max_pixels)
        if self.token_pixels is None or "size" in options.images:
            return None
        bound = BENCHMARK_TOKENS * self.token_pixels
        return bound if pictures.size["longest_edge"] > bound * self.counted else None

    # -- one row -----------------------------------------------------------------------------

    def pieces(self, media: Sequence[Part], name: str) -> list[Piece]:
        """The media of a row, read and processed. Raises BadItem, naming the item."""
        for part in media:
            if part.kind not in self.kinds:
                known = ", ".join(["text", *self.kinds])
                raise BadItem(f"{name}: this backbone does not read {part.kind}; it reads {known}")
        pictures = sum(part.kind == "image" for part in media)
        view = View(pictures < 2 or not self.counts_pictures, self.options.max_pixels)
        return [self._piece(part, view, name) for part in media]

    def _piece(self, part: Part, view: View, name: str) -> Piece:
        key, seen = self._see(part, view, name)
        return Piece(part, name, view, key, seen.text, seen.positions, seen.pixels)

    def smaller(self, piece: Piece, ratio: float) -> Piece:
        """The same medium with fewer tokens, about `ratio` of them: in one tile where it is in
        several, else with fewer pixels."""
        tiles = piece.part.kind == "image" and (self.counts_pictures or self.untiled)
        if tiles and piece.view.tiled:
            view = replace(piece.view, tiled=False)
        else:
            view = replace(piece.view, pixels=max(1, int(piece.pixels * ratio)))
        return self._piece(piece.part, view, piece.name)

    def expand(self, text: str, pieces: Sequence[Piece]) -> str:
        """Rendered text with each placeholder as long as its medium is in tokens.

        Raises UnsupportedBackbone when the chat template does not write one for each.
        """
        expanded = {kind: [p.text for p in pieces if p.part.kind == kind] for kind in READERS}
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
        """MiniCPM numbers the pictures of a row; each was read by itself, as number 0."""
        names = ("image_id_start_token", "image_id_end_token")
        start, end = (getattr(self.processor, name, None) for name in names)
        first = f"{start}0{end}"
        return [
            f"{start}{i}{end}{text.removeprefix(first)}" if text.startswith(first) else text
            for i, text in enumerate(texts)
        ]

    def token_types(self, ids: Sequence[int]) -> dict[str, list[int]]:
        """What kind each token stands for, under the name that the model takes it by, if any."""
        makers = {}
        if self.types_name is not None:
            makers[self.types_name] = self.processor.create_mm_token_type_ids
        if self.takes_routes:
            makers[ROUTES] = self.processor.create_moe_mm_token_type_ids
        return {name: [int(t) for t in make([list(ids)])[0]] for name, make in makers.items()}

    def positions(
        self, ids: Sequence[int], types: Sequence[int], pieces: Sequence[Piece]
    ) -> Tensor:
        """M-RoPE positions `[axes, length]` of a row, counted by the model from it alone."""
        count = self.model.base_model.get_rope_index
        row: dict[str, Any] = {
            "input_ids": torch.tensor([list(ids)]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "mm_token_type_ids": torch.tensor([list(types)]),
        }
        for key in {key for piece in pieces for key in piece.positions}:
            row[key] = pad_cat([p.positions[key] for p in pieces if key in p.positions])
        taken = inspect.signature(count).parameters
        return count(**{key: value for key, value in row.items() if key in taken})[0][:, 0]

    def opening(self) -> str:
        """What the processor writes before every prompt (Molmo2: a first token that its tokenizer
        does not add and its chat template does not bring)."""
        try:
            given = list(self.processor(text=["x"])["input_ids"][0])
        except Exception:  # processors that take no text without a picture
            return ""
        plain = self.processor.tokenizer("x")["input_ids"]
        ends = given[-len(plain) :] == plain
        return self.processor.tokenizer.decode(given[: -len(plain)]) if ends else ""

    # -- a batch -----------------------------------------------------------------------------

    def inputs(self, pieces: Sequence[Piece], device: Any) -> dict[str, Any]:
        """The model's keyword arguments for the media of a batch, in order of their placeholders.

        A medium is processed again when it was dropped from the cache in the meantime.
        """
        tensors: dict[str, list[Tensor]] = {}
        features: dict[str, list[Any]] = {}
        for piece in pieces:
            processed = self._looked_at(piece, device)
            for key, tensor in {**processed.positions, **self._cast(processed.tensors)}.items():
                tensors.setdefault(key, []).append(tensor)
            for kind, output in processed.features.items():
                features.setdefault(kind, []).append(output)
        inputs: dict[str, Any] = {key: pad_cat(found).to(device) for key, found in tensors.items()}
        if features:
            inputs["mm_encoder_outputs"] = {
                kind: merge_outputs(outputs, device) for kind, outputs in features.items()
            }
        return inputs

    def _looked_at(self, piece: Piece, device: Any) -> Processed:
        key, processed = self._see(piece.part, piece.view, piece.name, piece.key)
        if key != piece.key:
            raise BadItem(f"{piece.name}: its {piece.part.kind} changed while it was in use")
        pixels = [key for key in TOWERS if key in processed.tensors]
        if not self.takes_features or not pixels:
            return processed
        tensors = {**processed.positions, **self._cast(processed.tensors)}
        features = {
            self._slot(TOWERS[key], processed.text): self._features(key, tensors, device)
            for key in pixels
        }
        if any(output is None for output in features.values()):
            return processed
        processed = replace(processed, tensors={}, features=features)
        self.cache.put(key, processed)
        return processed

    def _slot(self, kind: str, text: str) -> str:
        """The name that the model takes features by. GLM and Molmo2 write the picture token for
        videos too, and put features in order wherever that token stands."""
        picture = getattr(self.model.config, "image_token_id", None)
        token = self.processor.tokenizer.convert_ids_to_tokens(picture) if picture else None
        return "image" if kind == "video" and token and token in text else kind

    @torch.no_grad()
    def _features(self, pixels: str, tensors: Mapping[str, Tensor], device: Any) -> Any:
        """The tower's output for one medium: one `[tokens, hidden]` tensor, in a list where the
        model expects lists; and the same for each layer that DeepStack feeds. None where the tower
        feeds layers only (Granite 4 Vision): the model then looks at the pixels again."""
        tower = getattr(self.model.base_model, f"get_{TOWERS[pixels]}_features")
        taken = inspect.signature(tower).parameters
        inputs = {key: value.to(device) for key, value in tensors.items() if key in taken}
        output = tower(**inputs, return_dict=True)
        return detach_output(output) if output.pooler_output is not None else None

    def _cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Pixels and sounds in the dtype of the model, as `BatchFeature.to` brings them: not every
        tower does it itself."""
        return {
            key: tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
            for key, tensor in tensors.items()
        }

    # -- one medium --------------------------------------------------------------------------

    def _see(
        self, part: Part, view: View, name: str, key: str | None = None
    ) -> tuple[str, Processed]:
        """The hash of a medium and what is known of it, from the cache or read anew."""
        if key is not None and (held := self.cache.get(key)):
            return key, held
        with (
            bad_item_on_error(name, part.kind),
            open_source(part.value, self.options) or nullcontext() as source,
        ):
            value = self._read(part.kind, part.value) if source is None else None
            key = f"{part.kind}:{view}:{_hash(value if source is None else source)}"
            held = self.cache.get(key)
            if held is None:
                value = value if source is None else self._read(part.kind, source)
                held = self._process(part.kind, value, view)
                self.cache.put(key, held)
        return key, held

    def _read(self, kind: str, source: Any) -> Any:
        limits = self.options.limits
        if kind == "image":
            return read_image(source, limits)
        if kind == "video":
            return read_video(source, self.options.frames, limits)
        extractor = self.processor.feature_extractor
        samples = read_audio(source, extractor.sampling_rate, limits)
        if len(samples) > getattr(extractor, "n_samples", len(samples)):
            raise BadItem(
                f"{len(samples) / extractor.sampling_rate:.1f} seconds, and this backbone hears "
                f"{extractor.n_samples / extractor.sampling_rate:g}; cut it"
            )
        return samples

    def _process(self, kind: str, value: Any, view: View) -> Processed:
        """One medium by itself through the model's processor.

        Raises UnsupportedBackbone where it fails on a plain medium of this kind as well.
        """
        count = 2 if self.counts_pictures and kind == "image" and not view.tiled else 1
        pixels = 0
        if kind == "image":
            value = shrink(value, None if self.token_pixels else view.pixels)
            bound = view.pixels or (
                self.token_pixels and self._size()["longest_edge"] // self.counted
            )
            pixels = min(filter(None, (value.width * value.height, bound)))
        elif kind == "video":
            value = shrink_frames(value, view.pixels)
            pixels = value.frames.shape[1] * value.frames.shape[2]
        try:
            outputs = self._processed(kind, value, view, count)
        except Exception as error:
            try:
                self._processed(kind, PLAIN[kind], view, count)
            except Exception:
                raise UnsupportedBackbone(
                    f"{type(self.processor).__name__} fails on any {kind} beside text "
                    f"({one_line(error)}): this backbone reads {kind}s in no form that is known "
                    "here; leave them out, or choose another model"
                ) from error
            raise
        offsets = outputs.pop("text_replacement_offsets", None)
        text = offsets[0][0]["replacement"] if offsets else self._written(outputs["input_ids"][0])
        if not text:
            raise BadItem("it is too short: no token stands for it")
        positions = {key: outputs[key] for key in POSITIONS if key in outputs}
        tensors = {
            key: tensor if count == 1 or key == "batch_num_images" else tensor[:1]
            for key, tensor in outputs.items()
            if isinstance(tensor, Tensor) and key not in TEXTUAL
        }
        return Processed(text, positions, tensors, pixels=pixels)

    def _image_settings(self, view: View) -> dict[str, Any]:
        settings = dict(self.options.images)
        if self.token_pixels and view.pixels is not None:
            most = view.pixels * self.counted
            least = min(self._size()["shortest_edge"], most)
            settings["size"] = {"shortest_edge": least, "longest_edge": most}
        return settings if view.tiled else settings | self.untiled

    def _size(self) -> dict[str, int]:
        return dict(self.processor.image_processor.size) | self.options.images.get("size", {})

    def _processed(self, kind: str, value: Any, view: View, count: int) -> dict[str, Any]:
        return dict(
            self.processor(
                text=[self._placeholder(kind) * count],
                return_tensors="pt",
                return_text_replacement_offsets=True,
                **self._arguments(kind, value, view, count),
            )
        )

    def _placeholder(self, kind: str) -> str:
        """A medium's token, with the delimiters that HunYuan's processor asks for."""
        start, end = (
            getattr(self.processor, f"{kind}_{side}_token", None) or "" for side in ("start", "end")
        )
        return f"{start}{self.tokens[kind]}{end}"

    def _written(self, ids: Tensor) -> str:
        """The text of a placeholder's tokens, where the processor expands it and does not say to
        what (Idefics2)."""
        bos = self.processor.tokenizer.bos_token_id
        return self.processor.tokenizer.decode(ids[1:] if ids[0] == bos else ids)

    def _arguments(self, kind: str, value: Any, view: View, count: int) -> dict[str, Any]:
        if kind == "image":
            # Nested: a flat list means one image a row to some processors.
            return {"images": [[value] * count], "images_kwargs": self._image_settings(view)}
        if kind == "audio":
            return {"audio": [value]}
        video: Video = _at_least(value, getattr(self.processor.video_processor, PATCH, 1))
        total = max(round(video.duration * MILLISECONDS), 1)
        # Times in milliseconds are exact, whatever the frame rate does.
        metadata = VideoMetadata(
            total_num_frames=total,
            fps=MILLISECONDS,
            duration=video.duration,
            height=video.frames.shape[1],
            width=video.frames.shape[2],
            frames_indices=[round(time * MILLISECONDS) for time in video.times],
        )
        settings: dict[str, Any] = {
            "video_metadata": [metadata],
            "return_metadata": True,
            "do_sample_frames": False,
            "input_data_format": "channels_last",  # else guessed, wrongly where a frame is 3 high
        }
        if hasattr(self.processor, "position_id_per_seconds"):  # Qwen2.5-Omni takes 2 otherwise
            settings["fps"] = len(video.frames) / video.duration
        return {"videos": [video.frames], "videos_kwargs": {**self.options.videos, **settings}}


def _token(processor: Any, kind: str) -> str | None:
    """What the chat template writes for a medium; Qianfan-OCR has a token for that alone."""
    names = (f"{kind}_placeholder_token", f"{kind}_token")
    return next((str(t) for name in names if (t := getattr(processor, name, None))), None)


def _at_least(video: Video, frames: int) -> Video:
    """A video of fewer frames than one patch spans, with its last frame repeated."""
    missing = frames - len(video.frames)
    if missing <= 0:
        return video
    more = np.repeat(video.frames[-1:], missing, axis=0)
    times = (*video.times, *[video.duration] * missing)
    return replace(video, frames=np.concatenate([video.frames, more]), times=times)


def _hash(value: Any) -> str:
    """Of an open file, which is then at its beginning again, or of what was read from memory."""
    if isinstance(value, io.BufferedIOBase):
        found = hashlib.file_digest(value, "sha256").hexdigest()
        value.seek(0)
        return found
    array = value.frames if isinstance(value, Video) else np.asarray(value)
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(value.times).encode() if isinstance(value, Video) else b"")
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _budget(pictures: Any) -> tuple[int | None, int]:
    """Pixels that one token stands for where `size` is a budget of pixels (else None), and how
    often the budget counts each: once, or twice where a picture is two frames (GLM-4V)."""
    size, patch = getattr(pictures, "size", None) or {}, getattr(pictures, "patch_size", None)
    merged = getattr(pictures, "merge_size", None)
    if not ("shortest_edge" in size and "longest_edge" in size and isinstance(patch, int)):
        return None, 1
    if not isinstance(merged, int):
        return None, 1
    side = patch * merged
    bound = {"shortest_edge": side**2, "longest_edge": 128 * side**2}
    seen = pictures(Image.new("RGB", (16 * side, 16 * side)), size=bound, return_tensors="pt")
    # 11 x 11 tokens of a budget of 128, or 8 x 8 where each is counted twice.
    return side**2, round(128 * merged**2 / int(seen["image_grid_thw"].prod()))


def _settings(reader: Any) -> Mapping[str, Any]:
    """The settings that a processor of pictures or videos knows, by name."""
    return getattr(getattr(reader, "valid_kwargs", None), "__annotations__", {})


def _check_settings(reader: Any, settings: Mapping[str, Any]) -> None:
    known = _settings(reader)
    for key in settings:
        if key not in known:
            raise BadSetting(f"{type(reader).__name__} has no setting {key!r}")
        if key in NO_EFFECT:
            raise BadSetting(f"{key!r} has no effect here: {NO_EFFECT[key]}")
