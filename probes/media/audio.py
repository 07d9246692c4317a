"""Audio as mono samples at the sampling rate of a processor."""

from collections.abc import Iterator, Mapping
from typing import Any

import av
import numpy as np

from probes.errors import BadItem
from probes.media.sources import Limits, check_seconds, decoded, open_container

MAX_AMPLITUDE = 2**16
"""Bound on samples: they usually lie in [-1, 1], but some float files hold unscaled 16 bits."""


def read_audio(source: Any, rate: int, limits: Limits) -> np.ndarray:
    """Read audio and resample it; packets that cannot be decoded are skipped.

    Args:
        source: An open file, or `{"array": samples, "sampling_rate": hertz}` with samples `[time]`
            or `[channels, time]`.
        rate: Sampling rate of the result in hertz.
        limits: Upper bounds; `seconds` is checked.

    Returns:
        float32 samples `[time]`, about in [-1, 1], channels averaged.

    Raises:
        BadItem: There are no samples, they are not finite, or they are longer than allowed.
    """
    if hasattr(source, "read"):
        with open_container(source) as container:
            if not container.streams.audio:
                raise BadItem("it has no audio stream")
            frames = decoded(container, container.streams.audio[0])
            return _resampled(frames, rate, limits)
    return _resampled(_framed(*in_memory(source), limits), rate, limits)


def in_memory(source: Any) -> tuple[np.ndarray, Any]:
    """The samples and the rate of a mapping as `read_audio` takes it. Raises BadItem."""
    if isinstance(source, Mapping) and {"array", "sampling_rate"} <= source.keys():
        return np.asarray(source["array"]), source["sampling_rate"]
    raise BadItem(
        f"a {type(source).__name__} is not audio; give a path, bytes or "
        '{"array": samples, "sampling_rate": rate}'
    )


def _framed(samples: np.ndarray, rate: Any, limits: Limits) -> Iterator[av.AudioFrame]:
    if samples.ndim not in (1, 2) or samples.size == 0 or samples.dtype.kind not in "fiu":
        raise BadItem("samples must be numbers [time] or [channels, time]")
    if not isinstance(rate, int | np.integer) or not 0 < rate <= 1_000_000:
        raise BadItem(f"sampling_rate must be a positive whole number of hertz, not {rate!r}")
    if samples.dtype.kind in "iu":
        samples = samples / float(np.iinfo(samples.dtype).max)
    mono = samples.mean(axis=0) if samples.ndim == 2 else samples
    _check(mono, int(rate), limits)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(mono[None], dtype=np.float32), format="fltp", layout="mono"
    )
    frame.sample_rate = int(rate)
    yield frame


def _resampled(frames: Iterator[av.AudioFrame], rate: int, limits: Limits) -> np.ndarray:
    # The layout is kept and averaged here: ffmpeg's own downmix makes two channels louder than one.
    resampler = av.AudioResampler(format="fltp", rate=rate)
    pieces, length = [], 0
    for frame in frames:
        for new in resampler.resample(frame):
            pieces.append(new.to_ndarray().mean(axis=0))
            length += len(pieces[-1])
        check_seconds(length / rate, limits)
    pieces += [new.to_ndarray().mean(axis=0) for new in resampler.resample(None)] if pieces else []
    if not pieces:
        raise BadItem("none of its samples can be decoded")
    samples = np.concatenate(pieces)
    _check(samples, rate, limits)
    return samples


def _check(samples: np.ndarray, rate: int, limits: Limits) -> None:
    if not np.isfinite(samples).all():
        raise BadItem("its samples are not all finite numbers (NaN or infinity)")
    if np.abs(samples).max(initial=0) > MAX_AMPLITUDE:
        raise BadItem(f"its samples go beyond ±{MAX_AMPLITUDE}: they are damaged, or not audio")
    check_seconds(len(samples) / rate, limits)
