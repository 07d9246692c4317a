"""Videos as a few frames, evenly spaced in time, with their timestamps."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageSequence

from probes.errors import BadItem
from probes.media.images import read_image, shrink, shrunk_size, to_rgb
from probes.media.sources import (
    Limits,
    check_pixels,
    check_seconds,
    check_size,
    decoded,
    open_container,
)

FRAMES_PER_SECOND = 2.0
"""Assumed rate of frames without timestamps: the sampling rate of Qwen's processors."""
MAX_ANIMATION_FRAMES = 64
"""Frames of the largest allowed size that an animation may hold: all of them must be decoded."""


@dataclass(frozen=True)
class Video:
    """Sampled frames `[frames, height, width, 3]`, uint8, and the time of each in seconds."""

    frames: np.ndarray
    times: tuple[float, ...]
    duration: float
    """Seconds of the whole video; at least one interval between frames."""
    count: int
    """Frames of the whole video, sampled or not."""


def read_video(source: Any, frames: int, limits: Limits) -> Video:
    """Sample a video; frames that cannot be decoded (a truncated end) are skipped.

    Args:
        source: A video file or an animation (GIF, WebP, APNG) as an open file, a PIL image, a list
            of pictures (paths, PIL images or arrays), or an array `[frames, height, width, 3]`.
        frames: The most frames to sample.
        limits: Upper bounds on the file, its frames and its duration.

    Raises:
        BadItem: No frame can be decoded, or a limit is exceeded.
    """
    if isinstance(source, np.ndarray | torch.Tensor):
        source = list(np.asarray(source)) if source.ndim == 4 else [source]
    if isinstance(source, list | tuple):
        return _from_frames(source, frames, limits)
    if isinstance(source, Image.Image):
        return _from_animation(source, frames, limits)
    if not hasattr(source, "read"):
        raise BadItem(
            f"a {type(source).__name__} is not a video; give a path, bytes, a list of frames or an "
            "array [frames, height, width, 3]"
        )
    animation = _animation(source)
    if animation is not None:
        with animation:
            return _from_animation(animation, frames, limits)
    return _from_file(source, frames, limits)


def shrink_frames(video: Video, pixels: int | None) -> Video:
    """The video with each frame reduced to at most `pixels`, as by `images.shrink`."""
    height, width = video.frames.shape[1:3]
    if shrunk_size(width, height, pixels) == (width, height):
        return video
    frames = [np.asarray(shrink(Image.fromarray(frame), pixels)) for frame in video.frames]
    return replace(video, frames=np.stack(frames))


def even(count: int, wanted: int) -> list[int]:
    """`wanted` of `count` indices, evenly spaced from first to last; all where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).round().astype(int)).tolist()


def _from_frames(frames: Sequence[Any], wanted: int, limits: Limits) -> Video:
    if not frames:
        raise BadItem("a video needs at least one frame")
    indices = even(len(frames), wanted)
    pictures = [_read_frame(frames[i], limits) for i in indices]
    if len({picture.size for picture in pictures}) > 1:
        raise BadItem("all frames of a video must have one size")
    times = tuple(i / FRAMES_PER_SECOND for i in indices)
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return Video(stacked, times, len(frames) / FRAMES_PER_SECOND, len(frames))


def _read_frame(frame: Any, limits: Limits) -> Image.Image:
    if not isinstance(frame, Path):
        return read_image(frame, limits)
    check_size(frame.stat().st_size, limits)
    with frame.open("rb") as file:
        return read_image(file, limits)


# -- animations (GIF, WebP, APNG) ------------------------------------------------------------


def _animation(source: Any) -> Image.Image | None:
    """The file as a PIL image, or None if Pillow does not recognise it."""
    try:
        return Image.open(source)
    except Image.UnidentifiedImageError:
        return None


def _from_animation(image: Image.Image, wanted: int, limits: Limits) -> Video:
    check_pixels(*image.size, limits)
    starts, elapsed = [], 0.0
    for frame in ImageSequence.Iterator(image):
        if len(starts) * image.width * image.height > MAX_ANIMATION_FRAMES * limits.pixels:
            raise BadItem("an animation of this many pixels would take too long to read")
        frame.load()  # WebP sets the duration on load
        starts.append(elapsed)
        elapsed += max(float(frame.info.get("duration", 0)), 10.0) / 1000  # as browsers do
        check_seconds(elapsed, limits)
    targets = np.linspace(0, starts[-1], min(wanted, len(starts)))
    indices = sorted({int(np.searchsorted(starts, t + 1e-9, side="right")) - 1 for t in targets})
    pictures = []
    for i in indices:
        image.seek(i)
        pictures.append(np.asarray(to_rgb(image, limits)))
    times = tuple(starts[i] for i in indices)
    return Video(np.stack(pictures), times, elapsed, len(starts))


# -- video files -----------------------------------------------------------------------------


@contextmanager
def _opened(file: Any) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream, rewound."""
    file.seek(0)
    with open_container(file) as container:
        if not container.streams.video:
            raise BadItem("it has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _from_file(file: Any, wanted: int, limits: Limits) -> Video:
    with _opened(file) as (container, stream):
        check_pixels(stream.codec_context.width, stream.codec_context.height, limits)
        unit = float(stream.time_base)
        times, keys = _packet_times(container, stream)
    if not times:
        raise BadItem("none of its frames has a timestamp")
    check_seconds((times[-1] - times[0]) * unit, limits)
    targets = np.linspace(times[0], times[-1], min(wanted, len(times)))
    nearest = sorted({times[int(np.abs(np.array(times) - t).argmin())] for t in targets})
    frames = _frames_at(file, nearest, keys)
    if not frames:
        raise BadItem("none of its frames can be decoded")
    seconds = tuple((time - times[0]) * unit for time in frames)
    step = (times[-1] - times[0]) * unit / max(len(times) - 1, 1)
    stacked = np.stack(list(frames.values()))
    duration = seconds[-1] + (step or 1 / FRAMES_PER_SECOND)
    return Video(stacked, seconds, duration, len(times))


def _packet_times(container: Any, stream: Any) -> tuple[list[int], list[int]]:
    """Timestamps of all frames and of the key frames, in units of the stream, without decoding.

    They are read from the packets: the header also counts frames that a truncated file lacks.
    """
    times, keys = [], []
    try:
        for packet in container.demux(stream):
            if packet.pts is not None:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append(packet.pts)
    except av.FFmpegError:
        pass  # the packets before the damage are kept
    return sorted(times), sorted(keys)


def _frames_at(file: Any, targets: Sequence[int], keys: Sequence[int]) -> dict[int, np.ndarray]:
    """The frames at the target timestamps, or the next after each, by timestamp.

    It seeks to the key frame before a target; where a container does not land there, everything is
    decoded from the beginning.
    """
    with _opened(file) as (container, stream):
        sampled: dict[int, np.ndarray] = {}
        frames, position = decoded(container, stream), targets[0] - 1
        for target in targets:
            key = max((key for key in keys if key <= target), default=position)
            seeks = key > max(position, targets[0])
            if seeks:
                container.seek(key, stream=stream)
                frames = decoded(container, stream)
            for frame in frames:
                if frame.pts is None:
                    continue
                if seeks and frame.pts > target:
                    return _frames_at(file, targets, [])
                position, seeks = frame.pts, False
                if frame.pts >= target:
                    sampled[frame.pts] = _upright(frame)
                    break
        return sampled


def _upright(frame: Any) -> np.ndarray:
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90))
