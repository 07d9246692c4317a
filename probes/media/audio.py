"""Audio as mono samples at the rate that a processor wants."""

from collections.abc import Iterator, Mapping
from typing import Any

import av
import numpy as np

from probes.errors import BadItem
from probes.media.sources import NO_PROTOCOL, Limits, check_seconds

LOUDEST = 2**16
"""Samples are about [-1, 1]; some float files hold those of 16 bits unscaled."""


def read_audio(source: Any, rate: int, limits: Limits) -> np.ndarray:
    """float32 samples `[time]` in about [-1, 1] at `rate` a second, channels averaged.

    `source` is an open file or `{"array": samples, "sampling_rate": rate}` with samples `[time]` or
    `[channels, time]`. What cannot be decoded is passed over. Raises BadItem for values that are
    not finite, for silence of no length, and for more seconds than allowed.
    """
    if hasattr(source, "read"):
        with av.open(source, options=NO_PROTOCOL, metadata_errors="ignore") as container:
            return _resampled(_decoded(container), rate, limits)
    return _resampled(_framed(*in_memory(source), limits), rate, limits)


def in_memory(source: Any) -> tuple[np.ndarray, Any]:
    """Samples and rate of `{"array": samples, "sampling_rate": rate}`. Raises BadItem."""
    if isinstance(source, Mapping) and {"array", "sampling_rate"} <= source.keys():
        return np.asarray(source["array"]), source["sampling_rate"]
    raise BadItem(
        f"a {type(source).__name__} is no audio; give a path, bytes or "
        '{"array": samples, "sampling_rate": rate}'
    )


def _decoded(container: Any) -> Iterator[av.AudioFrame]:
    if not container.streams.audio:
        raise BadItem("there is no audio stream in it")
    try:
        for packet in container.demux(container.streams.audio[0]):
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue
    except av.FFmpegError:
        return


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
    # The layout stays as it is: turned to mono by ffmpeg, two channels are louder than one.
    resampler = av.AudioResampler(format="fltp", rate=rate)
    pieces, length = [], 0
    for frame in frames:
        for new in resampler.resample(frame):
            pieces.append(new.to_ndarray().mean(axis=0))
            length += len(pieces[-1])
        check_seconds(length / rate, limits)
    pieces += [new.to_ndarray().mean(axis=0) for new in resampler.resample(None)] if pieces else []
    if not pieces:
        raise BadItem("it holds no samples that can be decoded")
    samples = np.concatenate(pieces)
    _check(samples, rate, limits)
    return samples


def _check(samples: np.ndarray, rate: int, limits: Limits) -> None:
    if not np.isfinite(samples).all():
        raise BadItem("its samples are not all finite numbers (NaN or infinity)")
    if np.abs(samples).max(initial=0) > LOUDEST:
        raise BadItem(f"its samples go beyond ±{LOUDEST}: they are damaged, or no sound")
    check_seconds(len(samples) / rate, limits)
