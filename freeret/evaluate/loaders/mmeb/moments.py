"""MMEB-V2 (arXiv 2507.04590), moment retrieval: the clip of a video, Precision@1.

    folder/video-tasks/data/qvhighlight.jsonl                       query, video_path
    folder/video-tasks/frames/video_mret/QVHighlight/<video>/query/ frames of the whole video
    folder/video-tasks/frames/video_mret/QVHighlight/<video>/positive…/, negative…/

Of QVHighlights and Charades-STA a query is a text and a video, its candidates are the clips of that
video. MomentSeeker names its clips in the table; a query is a text, alone or with a picture
(`MomentSeeker/query_…`) or a clip, and all clips are in `MomentSeeker/video_frames/`. Any of a
row's right clips counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.failures import MissingData
from freeret.evaluate.loaders.mmeb.media import Videos, first_file, frames_in, locate
from freeret.evaluate.loaders.mmeb.rows import first_table, read_rows
from freeret.evaluate.loaders.mmeb.video import SOURCE
from probes import Item
from probes.errors import BadFile


@dataclass(frozen=True)
class Task:
    """Where one dataset is."""

    tables: tuple[str, ...]
    folders: tuple[str, ...]


TASKS = {
    "QVHighlight": Task(
        ("data/qvhighlight.jsonl", "QVHighlight/data/test*"), ("QVHighlight",)),
    "Charades-STA": Task(
        ("data/charades_sta.jsonl", "Charades-STA/data/test*"), ("Charades-STA", "Charades_STA")),
    "MomentSeeker": Task(
        ("data/momentseeker_1k6.jsonl", "data/momentseeker.jsonl", "MomentSeeker/data/test*"),
        ("MomentSeeker/video_frames", "MomentSeeker")),
}  # fmt: skip
INSTRUCTION = "Find the clip of the video that shows the described scene."
Media = Path | list[Path]


@dataclass(frozen=True)
class Moment:
    """One row: a text, the id of a video or the name of a picture beside it, and clips."""

    text: str
    right: list[str]
    wrong: list[str]
    video: str | None = None
    picture: str | None = None


def table_of(root: Path, name: str) -> Path | None:
    """The table of a dataset, or None; it is not read."""
    return first_table(root / "video-tasks", TASKS[name].tables)


def load_moment_retrieval(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when its table, a column or all its media are missing."""
    root, task = Path(folder), TASKS[name]
    table = table_of(root, name)
    if table is None:
        raise MissingData(name, f"no table video-tasks/{task.tables[0]} below {root}", SOURCE)
    videos = Videos.of(root, "video_mret", *task.folders)
    moments = _named(table) if name == "MomentSeeker" else _beside(table, videos.folders)
    clips = dict.fromkeys(clip for moment in moments for clip in (*moment.right, *moment.wrong))
    shown = [moment.video for moment in moments if moment.video]
    media = videos.find([*clips, *shown], name, SOURCE)
    names = [moment.picture for moment in moments if moment.picture]
    looked = {picture: first_file(videos.folders, picture) for picture in names}
    pictures = locate(looked, name, "pictures", videos.folders, SOURCE)
    queries: list[Item] = []
    judgements: Judgements = {}
    candidates: dict[str, list[str]] = {}
    for number, moment in enumerate(moments, start=1):
        id = str(number)
        queries.append(_query(moment, media, pictures, id))
        judgements[id] = dict.fromkeys(moment.right, 1)
        candidates[id] = list(dict.fromkeys([*moment.right, *moment.wrong]))
    return Dataset(
        name=name,
        queries=queries,
        documents=[Item(videos=[media[clip]], id=clip) for clip in clips],
        judgements=judgements,
        missing=media.missing or pictures.missing,
        candidates=candidates,
        task=INSTRUCTION,
        group="moment retrieval",
    )


def _beside(table: Path, folders: tuple[Path, ...]) -> list[Moment]:
    """Moments whose clips are the folders beside the video's own frames."""
    moments = []
    rows = read_rows(table, ("query",), SOURCE, optional=("video_path", "clips_dir_path"))
    for place, row in rows:
        named = row.get("video_path") or row.get("clips_dir_path")
        if not named:
            raise BadFile(f"{place}: no column video_path; {SOURCE}")
        video = PurePosixPath(named).stem
        home = next((folder / video for folder in folders if (folder / video).is_dir()), None)
        clips = sorted(clip.name for clip in home.iterdir() if frames_in(clip)) if home else []
        # The clip of a missing video is missing too.
        right = [clip for clip in clips if clip.startswith("positive")] or ["positive"]
        wrong = [clip for clip in clips if clip != "query" and clip not in right]
        ids = [[f"{video}/{clip}" for clip in group] for group in (right, wrong)]
        moments.append(Moment(row["query"], *ids, video=f"{video}/query"))
    return moments


def _named(table: Path) -> list[Moment]:
    """Moments whose clips the table names."""
    moments = []
    columns = ("query", "positive_frames", "negative_frames", "input_frames")
    for place, row in read_rows(table, columns, SOURCE):
        query = row["input_frames"] or ""
        right, wrong = (
            [_clip(clip["output_path"]) for clip in row[column] or []] for column in columns[1:3]
        )
        if not right:
            raise BadFile(f"{place}: no right clip; {SOURCE}")
        moments.append(
            Moment(
                row["query"],
                right,
                wrong,
                video=_clip(query) if query.endswith(".mp4") else None,
                picture=f"query_{query}" if query.endswith(".jpg") else None,
            )
        )
    return moments


def _clip(path: str) -> str:
    """The folder of a clip's frames: `videos/ego/19_3_5.mp4` is `videos_ego_19_3_5`."""
    return path.replace("/", "_").split(".mp4")[0]


def _query(
    moment: Moment, videos: Mapping[str, Media], pictures: Mapping[str, Path], id: str
) -> Item:
    if moment.picture:
        return Item(moment.text, images=[pictures[moment.picture]], id=id)
    return Item(moment.text, videos=[videos[moment.video]] if moment.video else [], id=id)
