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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb import moments as mmeb_moments
from freeret.evaluate.loaders.mmeb import video as mmeb_video
from freeret.evaluate.loaders.mmeb import video_qa as mmeb_video_qa
from freeret.evaluate.loaders.mmeb import visdoc as mmeb_visdoc
from probes.errors import BadFile

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Datasets that are published together."""

    name: str
    datasets: tuple[str, ...]
    table_of: Callable[[Path, str], Any]
    """What holds the table of a dataset; None or False where there is none."""
    load: Callable[[Path, str], Dataset]
    source: str


PARTS = (
    Part("image tasks", mmeb.NAMES, mmeb.table_of, mmeb.load_mmeb, mmeb.SOURCE),
    Part(
        "video classification",
        tuple(mmeb_video.CLASSIFICATION),
        mmeb_video.table_of,
        mmeb_video.load_video_classification,
        mmeb_video.SOURCE,
    ),
    Part(
        "video retrieval",
        tuple(mmeb_video.RETRIEVAL),
        mmeb_video.table_of,
        mmeb_video.load_video_retrieval,
        mmeb_video.SOURCE,
    ),
    Part(
        "video question answering",
        tuple(mmeb_video_qa.TASKS),
        mmeb_video_qa.has_table,
        mmeb_video_qa.load_video_qa,
        mmeb_video.SOURCE,
    ),
    Part(
        "moment retrieval",
        tuple(mmeb_moments.TASKS),
        mmeb_moments.table_of,
        mmeb_moments.load_moment_retrieval,
        mmeb_video.SOURCE,
    ),
    Part(
        "visual documents",
        tuple(mmeb_visdoc.TASKS),
        mmeb_visdoc.home_of,
        mmeb_visdoc.load_visual_documents,
        mmeb_visdoc.SOURCE,
    ),
)
NAMES = tuple(name for part in PARTS for name in part.datasets)


def find_mmeb_v2(folder: str | Path) -> list[str]:
    """The datasets of every part of which the folder holds at least one; no table is read.

    The other parts are named in a warning. Raises BadFile when there is none.
    """
    root = Path(folder)
    there = [part for part in PARTS if any(part.table_of(root, name) for name in part.datasets)]
    if not there:
        sources = "; ".join(dict.fromkeys(part.source for part in PARTS))
        raise BadFile(f"{folder} holds no dataset of MMEB-V2; {sources}")
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
