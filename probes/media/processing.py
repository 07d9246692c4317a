"""One picture, video or audio through the model's processor: placeholder tokens and tensors."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from transformers.video_utils import VideoMetadata

from probes.arguments import check_count
from probes.errors import BadItem, BadSetting, UnsupportedBackbone, one_line
from probes.items import Part
from probes.media.audio import read_audio
from probes.media.cache import Processed
from probes.media.images import read_image, shrink
from probes.media.sources import MediaOptions
from probes.media.videos import Video, read_video, shrink_frames

READERS = {"image": "image_processor", "video": "video_processor", "audio": "feature_extractor"}
"""The part of a processor that reads each kind."""
POSITIONS = (
    *("image_grid_thw", "video_grid_thw", "second_per_grid_ts", "video_second_per_grid"),
    *("target_sizes", "target_sizes_videos"),
)
"""Processor outputs from which token positions are counted; the language model needs them too."""
ROUTES = "moe_mm_token_type_ids"
"""Ernie 4.5's second kind of token type: the experts to which a token goes."""
TEXTUAL = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", ROUTES, *POSITIONS)
"""Processor outputs that do not go to a tower."""
PATCH = "temporal_patch_size"
BENCHMARK_TOKENS = 1280
"""Default bound on the tokens of a picture: MMEB's (VLM2Vec, resize_max_pixels)."""
UNTILED = {"max_patches": 1, "do_image_splitting": False, "do_pan_and_scan": False}
"""Settings under which processors that cut pictures into tiles make one tile."""
MILLISECONDS = 1000
VALID: dict[str, Any] = {
    "image": Image.new("RGB", (64, 64), "grey"),
    "video": Video(np.full((8, 64, 64, 3), 128, np.uint8), tuple(map(float, range(8))), 8.0, 8),
    "audio": np.zeros(16_000, np.float32),
}
"""A valid medium of each kind: a processor that fails on it fails on every medium."""
NO_EFFECT = dict.fromkeys(
    ("min_pixels", "max_pixels"),
    "give MediaOptions(max_pixels=…), or size={'shortest_edge': pixels, 'longest_edge': pixels}",
) | {"image_grid_pinpoints": "the tiles are those of the model's config"}
"""Settings that processors accept and ignore, or that must agree with the model."""


@dataclass(frozen=True)
class View:
    """The form in which a medium is given to the processor."""

    tiled: bool = True
    """Whether a processor that cuts pictures into tiles may do so."""
    pixels: int | None = None
    """The most pixels of a picture or frame."""


class MediaProcessor:
    """The processor of one model, applied to one medium at a time."""

    def __init__(self, processor: Any, options: MediaOptions):
        self.processor = processor
        self.tokens: dict[str, str] = {
            kind: token
            for kind, reader in READERS.items()
            if getattr(processor, reader, None) is not None and (token := _token(processor, kind))
        }
        """The placeholder of each kind that it reads."""
        pictures = getattr(processor, "image_processor", None)
        # LLaVA-OneVision cuts a picture into tiles only when it is alone in its row.
        self.counts_pictures = "batch_num_images" in getattr(pictures, "model_input_names", ())
        for kind, settings in (("image", options.images), ("video", options.videos)):
            _check_settings(getattr(processor, READERS[kind], None), settings)
        available = _settings(pictures)
        self.untiled = {key: value for key, value in UNTILED.items() if key in available}
        self.token_pixels, self.counted = _budget(pictures)
        self.options = replace(options, max_pixels=self._most_pixels(pictures, options))

    def _most_pixels(self, pictures: Any, options: MediaOptions) -> int | None:
        """`max_pixels` as given, or the bound for which None stands."""
        if options.max_pixels is not None:
            if self.token_pixels and "size" in options.images:
                raise BadSetting("max_pixels and images={'size': …} both bound pictures; give one")
            return check_count("max_pixels", options.max_pixels)
        if self.token_pixels is None or "size" in options.images:
            return None
        bound = BENCHMARK_TOKENS * self.token_pixels
        return bound if pictures.size["longest_edge"] > bound * self.counted else None

    def view(self, media: Sequence[Part]) -> View:
        """The view of every medium of a row."""
        pictures = sum(part.kind == "image" for part in media)
        return View(pictures < 2 or not self.counts_pictures, self.options.max_pixels)

    def smaller(self, view: View, kind: str, pixels: int, ratio: float) -> View:
        """A view with about `ratio` of the tokens of a medium that has `pixels` now: in one tile
        where it is in several, else with fewer pixels."""
        if kind == "image" and view.tiled and (self.counts_pictures or self.untiled):
            return replace(view, tiled=False)
        return replace(view, pixels=max(1, int(pixels * ratio)))

    def read(self, kind: str, source: Any) -> Any:
        """A PIL image, a `Video` or samples, from an open file or an object in memory.

        Raises BadItem, and whatever a decoder raises on damaged bytes.
        """
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

    def process(self, kind: str, value: Any, view: View) -> Processed:
        """Placeholder tokens and tensors of one medium, as `read` returns it.

        Raises UnsupportedBackbone where the processor fails on a valid medium of this kind too.
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
            outputs = self._call(kind, value, view, count)
        except Exception as error:
            try:
                self._call(kind, VALID[kind], view, count)
            except Exception:
                raise UnsupportedBackbone(
                    f"{type(self.processor).__name__} fails on any {kind} beside text "
                    f"({one_line(error)}): this backbone reads {kind}s in no form that is known "
                    "here; leave them out, or choose another model"
                ) from error
            raise
        offsets = outputs.pop("text_replacement_offsets", None)
        text = offsets[0][0]["replacement"] if offsets else self._decoded(outputs["input_ids"][0])
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

    def _call(self, kind: str, value: Any, view: View, count: int) -> dict[str, Any]:
        return dict(
            self.processor(
                text=[self._placeholder(kind) * count],
                return_tensors="pt",
                return_text_replacement_offsets=True,
                text_kwargs={"padding": False},  # else it changes the tokenizer, in any thread
                **self._arguments(kind, value, view, count),
            )
        )

    def _placeholder(self, kind: str) -> str:
        """A medium's token, with the delimiters that HunYuan's processor needs."""
        start, end = (
            getattr(self.processor, f"{kind}_{side}_token", None) or "" for side in ("start", "end")
        )
        return f"{start}{self.tokens[kind]}{end}"

    def _decoded(self, ids: Tensor) -> str:
        """The expanded placeholder, where the processor does not return it as text (Idefics2)."""
        bos = self.processor.tokenizer.bos_token_id
        return self.processor.tokenizer.decode(ids[1:] if ids[0] == bos else ids)

    def _arguments(self, kind: str, value: Any, view: View, count: int) -> dict[str, Any]:
        if kind == "image":
            # Nested: to some processors a flat list means one image per row.
            return {"images": [[value] * count], "images_kwargs": self._image_settings(view)}
        if kind == "audio":
            return {"audio": [value]}
        video: Video = _at_least(value, getattr(self.processor.video_processor, PATCH, 1))
        total = max(round(video.duration * MILLISECONDS), 1)
        # Frame indices at 1,000 frames per second give exact times at any frame rate.
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
            "input_data_format": "channels_last",  # a guess fails on frames 3 pixels high
        }
        if hasattr(self.processor, "position_id_per_seconds"):  # Qwen2.5-Omni assumes 2 otherwise
            settings["fps"] = len(video.frames) / video.duration
        return {"videos": [video.frames], "videos_kwargs": {**self.options.videos, **settings}}


def _token(processor: Any, kind: str) -> str | None:
    """The token that the chat template writes for a medium; Qianfan-OCR has a separate one."""
    names = (f"{kind}_placeholder_token", f"{kind}_token")
    return next((str(t) for name in names if (t := getattr(processor, name, None))), None)


def _at_least(video: Video, frames: int) -> Video:
    """The video with its last frame repeated until it has as many frames as one patch spans."""
    missing = frames - len(video.frames)
    if missing <= 0:
        return video
    more = np.repeat(video.frames[-1:], missing, axis=0)
    times = (*video.times, *[video.duration] * missing)
    return replace(video, frames=np.concatenate([video.frames, more]), times=times)


def content_digest(value: Any) -> str:
    """SHA-256 of an open file, which is then rewound, or of a medium as `read` returns it."""
    if isinstance(value, io.BufferedIOBase):
        hexdigest = hashlib.file_digest(value, "sha256").hexdigest()
        value.seek(0)
        return hexdigest
    array = value.frames if isinstance(value, Video) else np.asarray(value)
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    digest.update(repr(value.times).encode() if isinstance(value, Video) else b"")
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _budget(pictures: Any) -> tuple[int | None, int]:
    """Pixels per token where the processor's `size` is a pixel budget, else None; and how often
    the budget counts each pixel: once, or twice where a picture is two frames (GLM-4V)."""
    size, patch = getattr(pictures, "size", None) or {}, getattr(pictures, "patch_size", None)
    merge = getattr(pictures, "merge_size", None)
    if not ("shortest_edge" in size and "longest_edge" in size and isinstance(patch, int)):
        return None, 1
    if not isinstance(merge, int):
        return None, 1
    side = patch * merge
    bound = {"shortest_edge": side**2, "longest_edge": 128 * side**2}
    outputs = pictures(Image.new("RGB", (16 * side, 16 * side)), size=bound, return_tensors="pt")
    # A budget of 128 tokens gives 11 × 11, or 8 × 8 where each pixel counts twice.
    return side**2, round(128 * merge**2 / int(outputs["image_grid_thw"].prod()))


def _settings(reader: Any) -> Mapping[str, Any]:
    """The settings of a processor of pictures or videos, by name."""
    return getattr(getattr(reader, "valid_kwargs", None), "__annotations__", {})


def _check_settings(reader: Any, settings: Mapping[str, Any]) -> None:
    available = _settings(reader)
    for key in settings:
        if key not in available:
            raise BadSetting(f"{type(reader).__name__} has no setting {key!r}")
        if key in NO_EFFECT:
            raise BadSetting(f"{key!r} has no effect here: {NO_EFFECT[key]}")
