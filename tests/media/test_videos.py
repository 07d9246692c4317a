"""Frames are sampled evenly in time, upright, and from damaged files as far as possible."""

import io
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from probes.errors import BadItem
from probes.media.sources import Limits
from probes.media.videos import even, read_video

LIMITS = Limits(pixels=10_000, seconds=60)


def film(
    times: list[int], format: str = "mp4", codec: str = "mpeg4", size: tuple = (32, 16)
) -> bytes:
    """Frame i is gray of 10·i, with a white left edge, shown at times[i] hundredths of a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=100)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = 4
        stream.options = {"qscale": "1"}
        for i, time in enumerate(times):
            pixels = np.full((size[1], size[0], 3), 10 * i, np.uint8)
            pixels[:, :4] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def numbers(video: Any) -> list[int]:
    """The numbers of the frames, from their gray level."""
    return [round(float(frame[:, 16:].mean()) / 10) for frame in video.frames]


def read(content: bytes, frames: int = 8, limits: Limits = LIMITS) -> Any:
    return read_video(io.BytesIO(content), frames, limits)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 20, 24, 50])
@pytest.mark.parametrize("wanted", [1, 2, 8, 16])
def test_indices_are_evenly_spaced(count: int, wanted: int) -> None:
    chosen = even(count, wanted)
    assert len(chosen) == min(count, wanted)
    assert chosen[0] == 0
    if wanted > 1:
        assert chosen[-1] == count - 1
        assert max(np.diff(chosen), default=0) - min(np.diff(chosen), default=0) <= 1


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp4", "mpeg4"), ("matroska", "mpeg4"), ("avi", "mpeg4"), ("webm", "libvpx")],
)
def test_frames_are_taken_evenly_in_time(format: str, codec: str) -> None:
    video = read(film([4 * i for i in range(22)], format, codec), frames=8)
    assert numbers(video) == [0, 3, 6, 9, 12, 15, 18, 21]
    assert video.times == pytest.approx([0.12 * i for i in range(8)], abs=0.002)
    assert video.duration == pytest.approx(0.88, abs=0.03)


def test_a_variable_frame_rate_is_sampled_by_time() -> None:
    """Twenty frames in the first fifth of a second, then one a second."""
    times = [*range(20), 100, 200, 300, 400]
    video = read(film(times, "matroska"), frames=5)
    assert video.times == pytest.approx([0, 1, 2, 3, 4], abs=0.002)
    assert numbers(video) == [0, 20, 21, 22, 23]


def turned(content: bytes, matrix: tuple[int, ...]) -> bytes:
    """The file with another display matrix in its track header."""
    place = content.index(b"tkhd") + 4 + 40
    return content[:place] + struct.pack(">9i", *matrix) + content[place + 36 :]


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "edge"),
    [
        ((ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30), "left"),
        ((0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30), "top"),  # shown a quarter turn clockwise
        ((-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30), "right"),
        ((0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30), "bottom"),
    ],
)
def test_a_rotated_video_is_turned_upright(matrix: tuple[int, ...], edge: str) -> None:
    frame = read(turned(film([0, 4, 8]), matrix)).frames[0]
    assert frame.shape == ((16, 32, 3) if edge in ("left", "right") else (32, 16, 3))
    strips = {
        "left": frame[:, :3],
        "right": frame[:, -3:],
        "top": frame[:3],
        "bottom": frame[-3:],
    }
    assert max(strips, key=lambda name: strips[name].mean()) == edge


@pytest.mark.parametrize("format", ["matroska", "avi", "mpegts"])
def test_a_truncated_file_is_read(format: str) -> None:
    codec = "mpeg2video" if format == "mpegts" else "mpeg4"
    whole = film([4 * i for i in range(24)], format, codec, size=(96, 64))
    found = numbers(read(whole[: len(whole) * 6 // 10], frames=8))
    assert len(found) >= 4
    assert found == sorted(found)
    assert 3 <= found[-1] < 23
    assert found[0] == 0


def test_a_file_damaged_in_the_middle_is_read() -> None:
    whole = bytearray(film([4 * i for i in range(24)], "matroska", size=(96, 64)))
    middle = len(whole) // 2
    whole[middle : middle + 400] = bytes(400)
    assert len(read(bytes(whole)).frames) >= 4


def test_fewer_frames_than_wanted_are_all_taken() -> None:
    assert numbers(read(film([0, 4, 8]), frames=8)) == [0, 1, 2]
    assert numbers(read(film([0]), frames=8)) == [0]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_is_a_video(format: str) -> None:
    """Sampled by the durations of its frames, of which the last is longest."""
    frames = [Image.new("RGB", (8, 8), (40 * i,) * 3) for i in range(5)]
    file = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    durations = [100, 100, 100, 100, 600]
    frames[0].save(
        file, format, save_all=True, append_images=frames[1:], duration=durations, **options
    )
    video = read(file.getvalue(), frames=3)
    assert [int(frame[0, 0, 0]) // 40 for frame in video.frames] == [0, 2, 4]
    assert video.times == pytest.approx([0, 0.2, 0.4])
    assert video.duration == pytest.approx(1.0)


def test_frames_and_arrays_are_videos() -> None:
    array = np.stack([np.full((8, 8, 3), 10 * i, np.uint8) for i in range(9)])
    for form in (array, list(array), [Image.fromarray(frame) for frame in array]):
        video = read_video(form, 5, LIMITS)
        assert [int(frame[0, 0, 0]) // 10 for frame in video.frames] == [0, 2, 4, 6, 8]
        assert video.times == (0, 1, 2, 3, 4)
    assert read_video(array[0], 5, LIMITS).frames.shape == (1, 8, 8, 3)


def test_frames_may_be_files(tmp_path: Path) -> None:
    """As benchmarks publish them: one picture per frame."""
    paths = [tmp_path / f"frame_{i}.png" for i in range(9)]
    for i, path in enumerate(paths):
        Image.new("RGB", (8, 8), (10 * i,) * 3).save(path)
    video = read_video(paths, 5, LIMITS)
    assert [int(frame[0, 0, 0]) // 10 for frame in video.frames] == [0, 2, 4, 6, 8]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ([], "at least one frame"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5))], "one size"),
        (np.zeros((0, 4, 4, 3), np.uint8), "at least one frame"),
        (3, "int is not a video"),
        (["a"], "not a picture"),
    ],
)
def test_invalid_videos_are_refused(bad: Any, reason: str) -> None:
    with pytest.raises(BadItem, match=reason):
        read_video(bad, 8, LIMITS)


def test_limits_hold_before_decoding() -> None:
    with pytest.raises(BadItem, match="pixels"):
        read(film([0, 4], size=(320, 240)))
    with pytest.raises(BadItem, match="longer than 60 seconds"):
        read(film([0, 7000], "matroska"))


def test_a_playlist_cannot_open_other_files(tmp_path: Any) -> None:
    """ffmpeg reads playlists as videos, and would open the files that they name."""
    (tmp_path / "secret.mp4").write_bytes(film([0, 4, 8]))
    secret = tmp_path / "secret.mp4"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile {secret}\n"
    for playlist in (hls, concat):
        with pytest.raises((BadItem, av.FFmpegError)):
            read(playlist.encode())


def test_an_audio_file_is_not_a_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="wav") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BadItem, match="no video stream"):
        read(file.getvalue())
