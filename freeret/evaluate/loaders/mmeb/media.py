"""Pictures and videos of a published dataset, wherever its unpacked archives put them.

`require` turns whatever was not found into one message, so that a missing archive is known when
its dataset is loaded and not picture by picture.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from probes.errors import BadFile
from probes.media.formats import kind_of

VIDEO_FRAMES = 8
"""Frames of a video that MMEB-V2 reads."""
VIDEO_ENDINGS = (".mp4", ".avi", ".mkv", ".mov", ".webm")
Found = TypeVar("Found")


def first_file(folders: Iterable[Path], name: str) -> Path | None:
    """The file of this name in the first folder that holds it, or None."""
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def require(
    found: Mapping[str, Found | None], what: str, folders: Iterable[Path], source: str
) -> dict[str, Found]:
    """The same mapping, when everything in it was found.

    Raises BadFile when something was not: how many are missing, the first of them, the folders
    that were looked in, and `source`.
    """
    missing = [name for name, media in found.items() if media is None]
    if missing:
        looked = ", ".join(map(str, folders))
        raise BadFile(
            f"{len(missing)} of {len(found)} {what} are missing, the first is {missing[0]}; "
            f"looked in {looked}; {source}"
        )
    return {name: media for name, media in found.items() if media is not None}


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

    def find(self, ids: Iterable[str], name: str, source: str) -> dict[str, Path | list[Path]]:
        """The frames of each video, or its file, by its id.

        Raises BadFile when a video has neither, as `require` does.
        """
        folders = [folder for folder in self.folders if folder.is_dir()]
        found = {id: self._frames(folders, id) or self._file(id) for id in dict.fromkeys(ids)}
        return require(found, f"videos of {name}", (*self.folders, *self.files), source)

    def _frames(self, folders: Iterable[Path], id: str) -> list[Path] | None:
        return next((f for folder in folders if (f := frames_in(folder / id))), None)

    def _file(self, id: str) -> Path | None:
        return first_file(self.files, id) or next(
            (file for ending in VIDEO_ENDINGS if (file := first_file(self.files, id + ending))),
            None,
        )


def frames_in(folder: Path) -> list[Path]:
    """The pictures of a folder, at most FRAMES of them, spread evenly as in the benchmark: by their
    numbers, and where a place falls between two frames, the earlier."""
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
