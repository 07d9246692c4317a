"""MMEB-V2 (arXiv 2507.04590), video classification and video retrieval, Precision@1.

Layout, as published in TIGER-Lab/MMEB-V2:

    folder/video-tasks/data/hmdb51.jsonl               one row a query
    folder/video-tasks/frames/video_cls/HMDB51/<id>/   frames of a video, as pictures
    folder/video-tasks/videos/video_cls/HMDB51/<id>.mp4

Where a video has frames they are read, eight spread evenly over them, as in the benchmark; else the
video file. In classification the video is the query and all labels are the candidates (SSv2: the
row's own); in retrieval the text is the query and all videos are the candidates.

Kinetics-700 has labels that no query of the benchmark bears. They are read from
`data/<table>.labels.txt`, one a line; without that file the labels that occur are the candidates,
and the dataset's note says so.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.loaders.lines import lines_of
from probes import Item
from probes.errors import BadFile
from probes.formats import kind_of

FRAMES = 8
SOURCE = (
    "get the dataset TIGER-Lab/MMEB-V2 from the Hugging Face hub: video-tasks/data holds the "
    "queries (JSON lines, some MB; the same tables are at VLM2Vec/<name>), video-tasks/frames the "
    "frames as archives to unpack (tens of GB); the videos themselves are not needed"
)


@dataclass(frozen=True)
class Task:
    """Where one dataset is, and which columns say what."""

    table: str
    place: str
    video: str
    text: str
    instruction: str


CLASSIFICATION = {
    "SmthSmthV2": Task("ssv2", "video_cls/SSv2", "video_id", "pos_text",
        "Find the action or object interaction that is performed in the video."),
    "HMDB51": Task("hmdb51", "video_cls/HMDB51", "video_id", "pos_text",
        "Find the action that the person in the video performs."),
    "UCF101": Task("ucf101", "video_cls/UCF101", "video_id", "pos_text",
        "Find the activity or sport that the person in the video performs."),
    "K700": Task("k700", "video_cls/K700", "video_id", "pos_text",
        "Find the category of what the video shows."),
    "Breakfast": Task("breakfast", "video_cls/Breakfast", "video_id", "pos_text",
        "Find the kind of breakfast that the person in the video prepares."),
}  # fmt: skip
RETRIEVAL = {
    "MSR-VTT": Task("msr-vtt", "video_ret/MSR-VTT", "video", "caption",
        "Find the video that shows what the text says."),
    "MSVD": Task("msvd", "video_ret/MSVD", "video", "caption",
        "Find the video that the summary describes."),
    "DiDeMo": Task("didemo", "video_ret/DiDeMo", "video", "caption",
        "Find the video that includes the described scenes."),
    "YouCook2": Task("youcook2-val", "video_ret/YouCook2", "id", "sentence",
        "Find the video that shows this step of a recipe."),
    "VATEX": Task("vatex", "video_ret/VATEX", "videoID", "enCap",
        "Find the video that fits the description."),
}  # fmt: skip
NAMES = (*CLASSIFICATION, *RETRIEVAL)


def find_mmeb_video(folder: str | Path) -> list[str]:
    """The datasets that a folder holds. Raises BadFile when there is none."""
    found = [name for name in NAMES if _table(Path(folder), _task(name)).is_file()]
    if not found:
        raise BadFile(f"{folder} holds no video dataset of MMEB-V2; {SOURCE}")
    return found


def load_mmeb_video(folder: str | Path, name: str) -> Dataset:
    """One dataset. Raises BadFile when its table, a column or a video is missing."""
    task = _task(name)
    rows = list(_rows(Path(folder), task))
    build = _classification if name in CLASSIFICATION else _retrieval
    return build(Path(folder), name, task, rows)


def _classification(root: Path, name: str, task: Task, rows: list[dict]) -> Dataset:
    own = all("neg_text" in row for row in rows)
    listed = _table(root, task).with_suffix(".labels.txt")
    labels: list[str] = [str(row[task.text]) for row in rows]
    if listed.is_file():
        labels += [label for _, label in lines_of(listed, SOURCE)]
    for row in rows if own else []:
        labels += [str(label) for label in row["neg_text"]]
    labels = sorted({label for label in labels if label.strip()})
    queries, judgements, candidates = [], {}, {}
    for number, row in enumerate(rows, start=1):
        id = str(number)
        queries.append(Item(videos=[_video(root, task, str(row[task.video]))], id=id))
        judgements[id] = {str(row[task.text]): 1}
        if own:
            candidates[id] = list(dict.fromkeys([str(row[task.text]), *map(str, row["neg_text"])]))
    occurring = "" if own or listed.is_file() else "candidates are the labels that occur"
    return Dataset(
        name=name,
        queries=queries,
        documents=[Item(label.replace("_", " "), id=label) for label in labels],
        judgements=judgements,
        candidates=candidates or None,
        task=task.instruction,
        group="video classification",
        note=occurring,
    )


def _retrieval(root: Path, name: str, task: Task, rows: list[dict]) -> Dataset:
    queries, documents = [], {}
    judgements: Judgements = {}
    for number, row in enumerate(rows, start=1):
        id, video = str(number), Path(str(row[task.video])).stem
        captions = row[task.text]
        text = captions if isinstance(captions, str) else captions[0]
        queries.append(Item(text, id=id))
        if video not in documents:
            documents[video] = Item(videos=[_video(root, task, video)], id=video)
        judgements[id] = {video: 1}
    return Dataset(
        name=name,
        queries=queries,
        documents=list(documents.values()),
        judgements=judgements,
        task=task.instruction,
        group="video retrieval",
    )


def _task(name: str) -> Task:
    found = {**CLASSIFICATION, **RETRIEVAL}.get(name)
    if found is None:
        raise BadFile(f"no video dataset {name!r}; there are {', '.join(NAMES)}")
    return found


def _table(root: Path, task: Task) -> Path:
    return root / "video-tasks" / "data" / f"{task.table}.jsonl"


def _rows(root: Path, task: Task) -> Iterator[dict[str, Any]]:
    table = _table(root, task)
    for number, line in lines_of(table, SOURCE):
        try:
            row = json.loads(line)
        except ValueError:
            raise BadFile(f"{table}, line {number}: not JSON; {SOURCE}") from None
        missing = [column for column in (task.video, task.text) if column not in row]
        if missing:
            raise BadFile(f"{table}, line {number}: no column {missing[0]}; {SOURCE}")
        yield row


def _video(root: Path, task: Task, id: str) -> Path | list[Path]:
    """The frames of a video, or its file."""
    frames = root / "video-tasks" / "frames" / task.place / id
    pictures = [p for p in frames.glob("*") if kind_of(p) == "image"]
    pictures.sort(key=lambda p: (len(p.name), p.name))  # frame_2 stands before frame_10
    if pictures:
        picks = np.linspace(0, len(pictures) - 1, min(FRAMES, len(pictures))).round().astype(int)
        return [pictures[i] for i in picks]
    file = root / "video-tasks" / "videos" / task.place / f"{id}.mp4"
    if file.is_file():
        return file
    raise BadFile(f"video {id!r}: neither frames in {frames} nor a file {file}; {SOURCE}")
