"""MMEB-V2 (arXiv 2507.04590): 78 datasets of images, videos and visual documents, in six parts.

    folder/image-tasks/    MMEB's 36 datasets         images.py
    folder/video-tasks/    classification, retrieval  video.py
                           question answering         video_qa.py
                           moment retrieval           moments.py
    folder/visdoc-tasks/   visual documents           visdoc.py

A part without any table is left out, with a warning. Of the other parts every dataset is expected:
a missing one fails when its turn comes, so that no partial mean passes for that of the suite.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders.mmeb import images, moments, video, video_qa, visdoc
from probes.errors import BadFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Datasets that are published together."""

    name: str
    datasets: Collection[str]
    table_of: Callable[[Path, str], Any]
    """What holds the table of a dataset; None or False where there is none."""
    load: Callable[[Path, str], Dataset]


PARTS = (
    Part("image tasks", images.NAMES, images.table_of, images.load_mmeb),
    Part("video classification", video.CLASSIFICATION, video.table_of, video.load_classification),
    Part("video retrieval", video.RETRIEVAL, video.table_of, video.load_retrieval),
    Part("video question answering", video_qa.TASKS, video_qa.has_table, video_qa.load_video_qa),
    Part("moment retrieval", moments.TASKS, moments.table_of, moments.load_moment_retrieval),
    Part("visual documents", visdoc.TASKS, visdoc.home_of, visdoc.load_visual_documents),
)
SOURCE = f"{images.SOURCE}; {video.SOURCE}; {visdoc.SOURCE}"
NAMES = tuple(name for part in PARTS for name in part.datasets)


def find_mmeb_v2(folder: str | Path) -> list[str]:
    """The datasets of every part of which the folder holds at least one; no table is read.

    The other parts are named in a warning. Raises BadFile when there is none.
    """
    root = Path(folder)
    there = [part for part in PARTS if any(part.table_of(root, name) for name in part.datasets)]
    if not there:
        raise BadFile(f"{folder} holds no dataset of MMEB-V2; {SOURCE}")
    for part in PARTS:
        if part not in there:
            log.warning(
                "%s holds no table of MMEB-V2's %s; left out: %s",
                folder, part.name, ", ".join(part.datasets),
            )  # fmt: skip
    return [name for part in there for name in part.datasets]


def load_mmeb_v2(folder: str | Path, name: str) -> Dataset:
    """One dataset. Raises BadFile when its table, a column or a picture or video is missing."""
    part = next((part for part in PARTS if name in part.datasets), None)
    if part is None:
        raise BadFile(f"MMEB-V2 has no dataset {name!r}; it has {', '.join(NAMES)}")
    return part.load(Path(folder), name)
