"""MMEB-V2 (arXiv 2507.04590), video question answering: five datasets, Precision@1.

A query is a video, a question and the options as the benchmark writes them; its candidates are its
own options. Tables are those of TIGER-Lab/MMEB-V2's video-tasks/data or of the dataset repositories
VLM2Vec/…, cloned into video-tasks/; frames are where video_qa.tar.gz puts them:

    folder/video-tasks/data/activitynetqa.jsonl
    folder/video-tasks/NExTQA/MC/test-00000-of-00001.parquet
    folder/video-tasks/MVBench/json/action_count.json      one table for each of its 20 parts
    folder/video-tasks/frames/video_qa/NExTQA/<id>/
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.loaders.mmeb.media import Videos, locate
from freeret.evaluate.loaders.mmeb.rows import Row, first_table, read_rows
from freeret.evaluate.loaders.mmeb.video import SOURCE
from probes import Item
from probes.errors import BadFile

PARTS = (
    "episodic_reasoning", "action_sequence", "action_prediction", "action_antonym",
    "fine_grained_action", "unexpected_action", "object_existence", "object_interaction",
    "object_shuffle", "moving_direction", "action_localization", "scene_transition",
    "action_count", "moving_count", "moving_attribute", "state_change", "fine_grained_pose",
    "character_order", "egocentric_navigation", "counterfactual_inference",
)  # fmt: skip
"""Of MVBench, in the benchmark's order."""


@dataclass(frozen=True)
class Question:
    """One row: the video's folder, the words of the query, the candidates and the right one."""

    video: str
    text: str
    options: list[str]
    right: int


def _lettered(options: Sequence[str]) -> list[str]:
    return [f"({chr(ord('A') + place)}) {option}" for place, option in enumerate(options)]


def _bare(option: str) -> str:
    """An option of Video-MME or EgoSchema without its letter: `A. a cat.` is `a cat`."""
    return option[option.find(". ") :].strip(". ") if ". " in option else option


def _listed(question: str, options: Sequence[str]) -> str:
    return "\n".join([question, "Options:", *_lettered(options)])


def _video_mme(row: Row) -> Question:
    options = list(row["options"])
    text = "\n".join([row["question"], *options])
    return Question(row["videoID"], text, [*map(_bare, options)], "ABCD".index(row["answer"]))


def _nextqa(row: Row) -> Question:
    options = [str(row[f"a{place}"]) for place in range(5)]
    return Question(
        str(row["video"]), _listed(row["question"], options), options, int(row["answer"])
    )


def _egoschema(row: Row) -> Question:
    options = list(row["option"])
    text = row["question"] + " ".join(options)
    return Question(row["video_idx"], text, [*map(_bare, options)], int(row["answer"]))


def _activitynetqa(row: Row) -> Question:
    text = f"{row['question']}? (A) yes; (B) no."
    return Question(
        f"v_{row['video_name']}", text, ["yes", "no"], ["yes", "no"].index(row["answer"])
    )


def _mvbench(row: Row) -> Question:
    options = list(row["candidates"])
    text = _listed(row["question"], options)
    return Question(row["video"], text, _lettered(options), options.index(row["answer"]))


@dataclass(frozen=True)
class Task:
    """Where one dataset is, and how a row is read."""

    tables: tuple[str, ...]
    folders: tuple[str, ...]
    columns: tuple[str, ...]
    question: Callable[[Row], Question]


TASKS = {
    "Video-MME": Task(
        ("data/video-mme.jsonl", "Video-MME/*/test*"), ("Video-MME",),
        ("videoID", "question", "options", "answer"), _video_mme),
    "NExTQA": Task(
        ("data/nextqa.jsonl", "NExTQA/MC/test*"), ("NExTQA",),
        ("video", "question", "answer", "a0", "a1", "a2", "a3", "a4"), _nextqa),
    "EgoSchema": Task(
        ("data/egoschema.jsonl", "EgoSchema/Subset/test*"), ("EgoSchema", "egoschema"),
        ("video_idx", "question", "answer", "option"), _egoschema),
    "MVBench": Task(
        (
            "data/mvbench/json/{part}.json*", "data/mvbench/{part}.json*",
            "MVBench/json/{part}.json*",
        ), ("MVBench",), ("video", "question", "candidates", "answer"), _mvbench),
    "ActivityNetQA": Task(
        ("data/activitynetqa.jsonl", "ActivityNetQA/data/test*"), ("ActivityNetQA",),
        ("video_name", "question", "answer"), _activitynetqa),
}  # fmt: skip


def has_table(root: Path, name: str) -> bool:
    """Whether a table of a dataset is there; it is not read."""
    return any(_tables(root, name).values())


def load_video_qa(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when a table, a column or all its videos are missing."""
    root, task = Path(folder), TASKS[name]
    looked = [root / "video-tasks" / pattern for pattern in task.tables]
    tables = locate(_tables(root, name), name, "tables", looked, SOURCE)
    if tables.missing:
        raise tables.missing
    questions = []
    for part, table in tables.items():
        for place, row in read_rows(table, task.columns, SOURCE):
            try:
                question = task.question(row)
            except (ValueError, TypeError, IndexError) as error:
                raise BadFile(
                    f"{place}: not a question with its options ({error}); {SOURCE}"
                ) from None
            video = f"{part}/{question.video}" if name == "MVBench" else question.video
            questions.append((video, question))
    ids = [video for video, _ in questions]
    videos = Videos.of(root, "video_qa", *task.folders).find(ids, name, SOURCE)
    queries: list[Item] = []
    judgements: Judgements = {}
    candidates: dict[str, list[str]] = {}
    for number, (video, question) in enumerate(questions, start=1):
        id = str(number)
        queries.append(Item(question.text, videos=[videos[video]], id=id))
        candidates[id] = list(dict.fromkeys(question.options))
        judgements[id] = {question.options[question.right]: 1}
    options = dict.fromkeys(option for own in candidates.values() for option in own)
    return Dataset(
        name=name,
        queries=queries,
        documents=[Item(option if option.strip() else "(empty)", id=option) for option in options],
        judgements=judgements,
        missing=videos.missing,
        candidates=candidates,
        task="question",
        group="video question answering",
    )


def _tables(root: Path, name: str) -> dict[str, Path | None]:
    """The tables of a dataset by part; MVBench has several."""
    patterns = TASKS[name].tables
    return {
        part: first_table(root / "video-tasks", [p.format(part=part) for p in patterns])
        for part in (PARTS if name == "MVBench" else (name,))
    }
