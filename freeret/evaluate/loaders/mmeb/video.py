"""MMEB-V2 (arXiv 2507.04590), video classification and video retrieval, Precision@1.

Layout, as published in TIGER-Lab/MMEB-V2 (tables also as in the dataset repositories VLM2Vec/…,
cloned into video-tasks/; frames wherever the archives put them, see `media.Videos`):

    folder/video-tasks/data/hmdb51.jsonl               one row per query
    folder/video-tasks/frames/video_cls/HMDB51/<id>/   frames of a video, as pictures
    folder/video-tasks/videos/video_cls/HMDB51/<id>.mp4

Where a video has frames they are read, eight spread evenly over them, as in the benchmark; else the
video file. In classification the video is the query and all labels are the candidates (SSv2: the
row's own labels, and the first 1,000 rows); in retrieval the text is the query and all videos are
the candidates.

Kinetics-700 has labels that no query of the benchmark bears. They are read from
`video-tasks/data/k700.labels.txt`, one per line; without that file the labels that occur are the
candidates, and the dataset's note says so and where all are listed.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.failures import MissingData
from freeret.evaluate.loaders.lines import lines_of
from freeret.evaluate.loaders.mmeb.media import Videos
from freeret.evaluate.loaders.mmeb.rows import Row, first_table, read_rows
from probes import Item

SOURCE = (
    "get the dataset TIGER-Lab/MMEB-V2 from the Hugging Face hub: video-tasks/data holds queries "
    "(JSON lines, some MB; the datasets VLM2Vec/<name>, cloned into video-tasks/<name>, hold the "
    "same tables), video-tasks/frames the frames as archives to unpack (tens of GB); the videos "
    "themselves are not needed"
)
ALL_LABELS = (
    "src/data/eval_dataset/video_classification_utils.py of github.com/TIGER-AI-Lab/VLM2Vec"
)


@dataclass(frozen=True)
class Task:
    """Where one dataset is, and which columns hold what."""

    tables: tuple[str, ...]
    """Below video-tasks/, the first that is there."""
    folder: str
    video: str
    text: str
    instruction: str
    rows: int | None = None
    """Number of rows, from the first, that the benchmark takes; None: all."""


CLASSIFICATION = {
    "SmthSmthV2": Task(
        ("data/ssv2.jsonl", "SmthSmthV2/data/test*"), "SSv2", "video_id", "pos_text",
        "Find the action or object interaction that is performed in the video.", rows=1000),
    "HMDB51": Task(
        ("data/hmdb51.jsonl", "HMDB51/data/test*"), "HMDB51", "video_id", "pos_text",
        "Find the action that the person in the video performs."),
    "UCF101": Task(
        ("data/ucf101.jsonl", "UCF101/data/test*"), "UCF101", "video_id", "pos_text",
        "Find the activity or sport that the person in the video performs."),
    "K700": Task(
        ("data/k700.jsonl", "Kinetics-700/data/test*"), "K700", "video_id", "pos_text",
        "Find the category of what the video shows."),
    "Breakfast": Task(
        ("data/breakfast.jsonl", "Breakfast/data/test*"), "Breakfast", "video_id", "pos_text",
        "Find the kind of breakfast that the person in the video prepares."),
}  # fmt: skip
RETRIEVAL = {
    "MSR-VTT": Task(
        ("data/msr-vtt.jsonl", "MSR-VTT/*test_1k*", "MSR-VTT/test_1k/test*"), "MSR-VTT", "video",
        "caption", "Find the video that shows what the text says."),
    "MSVD": Task(
        ("data/msvd.jsonl", "MSVD/*test*"), "MSVD", "video", "caption",
        "Find the video that the summary describes."),
    "DiDeMo": Task(
        ("data/didemo.jsonl", "DiDeMo/*test*"), "DiDeMo", "video", "caption",
        "Find the video that includes the described scenes."),
    "YouCook2": Task(
        ("data/youcook2-val.jsonl", "YouCook2/data/val*"), "YouCook2", "id", "sentence",
        "Find the video that shows this step of a recipe."),
    "VATEX": Task(
        ("data/vatex.jsonl", "VATEX/*test/test*"), "VATEX", "videoID", "enCap",
        "Find the video that fits the description."),
}  # fmt: skip


def load_classification(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when its table, a column or all its videos are missing."""
    root, task = Path(folder), CLASSIFICATION[name]
    rows = _rows(root, name, task)
    own_labels = all(row.get("neg_text") for row in rows)
    listed = root / "video-tasks" / "data" / f"{task.folder.lower()}.labels.txt"
    labels: list[str] = [str(row[task.text]) for row in rows]
    if listed.is_file():
        labels += [label for _, label in lines_of(listed, SOURCE)]
    for row in rows if own_labels else []:
        labels += [str(label) for label in row["neg_text"]]
    labels = sorted({label for label in labels if label.strip()})
    ids = [str(row[task.video]) for row in rows]
    videos = Videos.of(root, "video_cls", task.folder).find(ids, name, SOURCE)
    queries, judgements, candidates = [], {}, {}
    for number, (video, row) in enumerate(zip(ids, rows, strict=True), start=1):
        id, right = str(number), str(row[task.text])
        queries.append(Item(videos=[videos[video]], id=id))
        judgements[id] = {right: 1}
        if own_labels:
            candidates[id] = list(dict.fromkeys([right, *map(str, row["neg_text"])]))
    note = "" if own_labels or listed.is_file() else "candidates are the labels that occur"
    if note and name == "K700":
        note += f"; all 700 are listed in {ALL_LABELS}: write them to {listed}, one per line"
    return Dataset(
        name=name,
        queries=queries,
        documents=[Item(label.replace("_", " "), id=label) for label in labels],
        judgements=judgements,
        missing=videos.missing,
        candidates=candidates or None,
        task=task.instruction,
        group="video classification",
        note=note,
    )


def load_retrieval(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when its table, a column or all its videos are missing."""
    root, task = Path(folder), RETRIEVAL[name]
    rows = _rows(root, name, task)
    ids = [_video_id(row, task) for row in rows]
    videos = Videos.of(root, "video_ret", task.folder).find(ids, name, SOURCE)
    queries: list[Item] = []
    judgements: Judgements = {}
    for number, (video, row) in enumerate(zip(ids, rows, strict=True), start=1):
        captions = row[task.text]
        text = captions if isinstance(captions, str) else captions[0]
        queries.append(Item(text, id=str(number)))
        judgements[str(number)] = {video: 1}
    return Dataset(
        name=name,
        queries=queries,
        documents=[Item(videos=[media], id=id) for id, media in videos.items()],
        judgements=judgements,
        missing=videos.missing,
        task=task.instruction,
        group="video retrieval",
    )


def table_of(root: Path, name: str) -> Path | None:
    """The table of a dataset, or None; it is not read."""
    return first_table(root / "video-tasks", (CLASSIFICATION | RETRIEVAL)[name].tables)


def _video_id(row: Row, task: Task) -> str:
    """The id, or the name of the file without its folders and ending."""
    named = str(row[task.video])
    return PurePosixPath(named).stem if task.video == "video" else named


def _rows(root: Path, name: str, task: Task) -> list[Row]:
    table = table_of(root, name)
    if table is None:
        raise MissingData(name, f"no table video-tasks/{task.tables[0]} below {root}", SOURCE)
    rows = read_rows(table, (task.video, task.text), SOURCE, optional=("neg_text",))
    return [row for _, row in itertools.islice(rows, task.rows)]
