"""Audio is read as mono samples at the requested rate."""

import io
import math
from typing import Any

import av
import numpy as np
import pytest
from scipy.signal import resample_poly

from probes.errors import BadItem
from probes.media.audio import read_audio
from probes.media.sources import Limits

LIMITS = Limits(seconds=5)
RATE = 16_000


def tone(seconds: float = 0.5, rate: int = 8000, hertz: float = 440) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate).astype(np.float32) / 2


def recording(samples: np.ndarray, rate: int, format: str, codec: str, kind: str) -> bytes:
    """`[channels, time]` samples as a file."""
    layout = "mono" if len(samples) == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=rate, layout=layout)
        if kind == "s16":
            samples = (samples * 32767).astype(np.int16)
        packed = samples.T.reshape(1, -1) if not kind.endswith("p") else samples
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), kind, layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def pitch(samples: np.ndarray) -> float:
    """Hertz of the strongest frequency."""
    return float(np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples))


@pytest.mark.parametrize(
    ("format", "codec", "kind"),
    [
        ("wav", "pcm_s16le", "s16"),
        ("wav", "pcm_f32le", "flt"),
        ("flac", "flac", "s16"),
        ("aiff", "pcm_s16be", "s16"),
    ],
)
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_a_file_is_brought_to_the_rate(format: str, codec: str, kind: str, rate: int) -> None:
    content = recording(tone(rate=rate)[None], rate, format, codec, kind)
    samples = read_audio(io.BytesIO(content), RATE, LIMITS)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(0.5 * RATE, abs=64)
    assert pitch(samples) == pytest.approx(440, abs=4)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.03)


def test_channels_are_averaged() -> None:
    both = np.stack([tone(), np.zeros_like(tone())])
    content = recording(both, 8000, "wav", "pcm_s16le", "s16")
    for source in (io.BytesIO(content), {"array": both, "sampling_rate": 8000}):
        samples = read_audio(source, RATE, LIMITS)
        assert np.abs(samples).max() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("scale", [1, np.int16(32767)])
def test_samples_in_memory_are_brought_to_the_rate(scale: Any) -> None:
    array = tone() * scale
    array = array.astype(np.int16) if scale != 1 else array
    samples = read_audio({"array": array, "sampling_rate": 8000}, RATE, LIMITS)
    assert len(samples) == pytest.approx(0.5 * RATE, abs=64)
    assert pitch(samples) == pytest.approx(440, abs=4)
    assert np.abs(samples).max() == pytest.approx(0.5, abs=0.03)


def band_limited(seconds: float, rate: int) -> np.ndarray:
    """Tones below a quarter of 8 kHz, which every rate here represents, up to the last sample."""
    time = np.arange(round(seconds * rate)) / rate
    tones = [(0.2, 310, 0.4), (0.15, 770, 1.1), (0.1, 1430, 2.3)]
    return sum(a * np.sin(2 * np.pi * f * time + phase) for a, f, phase in tones)  # type: ignore[return-value]


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("whole", [True, False], ids=["array", "file"])
def test_resampled_values_are_those_of_the_signal_up_to_its_end(rate: int, whole: bool) -> None:
    """Against the signal itself, sampled at the requested rate, and against scipy's polyphase
    filter; the resampler withholds its last samples until it is flushed."""
    samples = band_limited(0.5, rate).astype(np.float32)
    source: Any = {"array": samples, "sampling_rate": rate}
    if not whole:
        source = io.BytesIO(recording(samples[None], rate, "wav", "pcm_f32le", "flt"))
    samples_read, expected = read_audio(source, RATE, LIMITS), band_limited(0.5, RATE)
    assert abs(len(samples_read) - len(expected)) <= 1, "no sample is lost at the end"
    length = min(len(samples_read), len(expected))
    inside = slice(200, length - 200)  # filters ring where the sound begins and ends
    np.testing.assert_allclose(samples_read[inside], expected[inside], atol=2e-3)
    common = math.gcd(RATE, rate)
    other = resample_poly(samples.astype(float), RATE // common, rate // common)[:length]
    np.testing.assert_allclose(samples_read[inside], other[inside], atol=5e-3)
    tail = slice(length - 100, length - 10)
    np.testing.assert_allclose(samples_read[tail], expected[tail], atol=0.1)


def spoilt(value: float) -> np.ndarray:
    samples = tone()
    samples[77] = value
    return samples


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"array": spoilt(np.nan), "sampling_rate": 8000}, "NaN"),
        ({"array": spoilt(np.inf), "sampling_rate": 8000}, "NaN or infinity"),
        ({"array": spoilt(1e30), "sampling_rate": 8000}, "beyond ±65536"),
        (io.BytesIO(recording(spoilt(np.nan)[None], 8000, "wav", "pcm_f32le", "flt")), "NaN"),
        ({"array": tone(9), "sampling_rate": 8000}, "longer than 5 seconds"),
        (io.BytesIO(recording(tone(9)[None], 8000, "wav", "pcm_s16le", "s16")), "longer than 5"),
        ({"array": np.zeros(0), "sampling_rate": 8000}, "samples must be"),
        ({"array": np.zeros((1, 2, 3)), "sampling_rate": 8000}, "samples must be"),
        ({"array": ["a"], "sampling_rate": 8000}, "samples must be"),
        ({"array": tone(), "sampling_rate": 0}, "sampling_rate"),
        ({"array": tone(), "sampling_rate": "8000"}, "sampling_rate"),
        ({"array": tone()}, "is not audio"),
        (tone(), "is not audio"),
    ],
)
def test_invalid_audio_is_refused(bad: Any, reason: str) -> None:
    with pytest.raises(BadItem, match=reason):
        read_audio(bad, RATE, LIMITS)


def test_a_truncated_file_is_read_up_to_its_end() -> None:
    content = recording(tone(2)[None], 8000, "wav", "pcm_s16le", "s16")
    samples = read_audio(io.BytesIO(content[: len(content) // 2]), RATE, LIMITS)
    assert 0.8 * RATE < len(samples) < 1.1 * RATE
    assert pitch(samples) == pytest.approx(440, abs=4)
