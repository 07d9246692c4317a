"""Pictures and videos of a published dataset, wherever its unpacked archives put them.

`locate` counts what was not found, so that a missing archive is known when its dataset is loaded
and not picture by picture.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from freeret.evaluate.failures import MissingData
from probes.media.formats import kind_of

VIDEO_FRAMES = 8
"""Frames of a video that MMEB-V2 reads."""
VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
Found = TypeVar("Found")


def first_file(folders: Iterable[Path], name: str) -> Path | None:
    """The file of this name in the first folder that holds it, or None."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


class Located(dict[str, Found]):
    """Media by name. A missing file stands there as the path where it was looked for first, so that
    its item is a bad one; `missing` says how many there are."""

    missing: MissingData | None = None


def locate(
    found: Mapping[str, Found | None], name: str, kind: str, folders: Iterable[Path], source: str
) -> Located[Any]:
    """The media of a dataset.

    Args:
        found: Media by name, None where missing.
        folders: Where they were looked for.
        source: What to get, from where.

    Raises:
        MissingData: None of them is there.
    """
    places = list(folders)
    missing = [key for key, media in found.items() if media is None]
    located = Located({key: media or places[0] / key for key, media in found.items()})
    if missing:
        reason = (
            f"{len(missing)} of {len(found)} {kind} are missing, the first is {missing[0]}; looked "
            f"in {', '.join(map(str, places))}"
        )
        located.missing = MissingData(name, reason, source)
        if len(missing) == len(found):
            raise located.missing
    return located


@dataclass(frozen=True)
class Videos:
    """The videos of one dataset of MMEB-V2: their frames as pictures, or else their files."""

    folders: tuple[Path, ...]
    """Where frames may be, one folder a video."""
    files: tuple[Path, ...]

    @classmethod
    def of(cls, root: Path, part: str, *names: str) -> "Videos":
        """Every place that the published archives produce.

        `video_ret.tar.gz` holds `data/ziyan/video_retrieval/<name>/frames/<id>`, `video_cls` holds
        `<name>/<id>`, `video_qa` and `video_mret` hold `<part>/<name>/<id>`, and each may have been
        unpacked in `frames/` or in a folder of its own.

        Args:
            part: `video_cls`, `video_ret`, `video_qa` or `video_mret`.
            names: How the dataset's folder is spelled.
        """
        frames, videos = root / "video-tasks" / "frames", root / "video-tasks" / "videos"
        inside = [part, "", f"{part}/{part}"]
        inside += [f"{above}/data/ziyan/video_retrieval" for above in (part, ".")]
        places = [frames / above / name for name in names for above in inside]
        folders = [folder for place in places for folder in (place, place / "frames")]
        files = [videos / above / name for name in names for above in (part, "")]
        return cls(tuple(folders), tuple(files))

    def find(self, ids: Iterable[str], name: str, source: str) -> Located[Path | list[Path]]:
        """The frames of each video, or its file, by its id.

        Raises MissingData when no video has either.
        """
        folders = [folder for folder in self.folders if folder.is_dir()]
        found = {id: self._frames(folders, id) or self._file(id) for id in dict.fromkeys(ids)}
        return locate(found, name, "videos", (*self.folders, *self.files), source)

    def _frames(self, folders: Iterable[Path], id: str) -> list[Path] | None:
        return next((f for folder in folders if (f := frames_in(folder / id))), None)

    def _file(self, id: str) -> Path | None:
        return first_file(self.files, id) or next(
            (file for ending in VIDEO_ENDINGS if (file := first_file(self.files, id + ending))),
            None,
        )


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder in the order of their numbers, at most VIDEO_FRAMES of them.

    They are spread evenly as in the benchmark: a place between two frames is the earlier one.
    """
    if not folder.is_dir():
        return []
    frames = sorted((p for p in folder.iterdir() if kind_of(p) == "image"), key=_numbered)
    if len(frames) <= VIDEO_FRAMES:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, VIDEO_FRAMES, dtype=int)]


def _numbered(path: Path) -> list[str | int]:
    """frame_2 stands before frame_10."""
    pieces = re.split(r"(\d+)", path.name.lower())
    return [int(piece) if piece.isdecimal() else piece for piece in pieces]
