"""MMEB and MMEB-V2 in the layouts in which they are published, a few rows of each dataset.

`mmeb_eval(root)` writes TIGER-Lab/MMEB-eval with its images.zip unpacked; `mmeb_v2(root)` writes
TIGER-Lab/MMEB-V2 with its archives unpacked as the benchmark's download_data.sh does, and tables of
the repositories VLM2Vec/… where the benchmark expects them. Texts are worded as in the published
rows, and pictures are of every shape: a photograph of 4000 × 3000, a single pixel, a strip of
4000 × 10.
"""

import hashlib
import io
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders.mmeb import video_qa as mmeb_video_qa
from freeret.evaluate.loaders.mmeb import visdoc as mmeb_visdoc

ODD = ((4000, 3000), (1, 1), (31, 639), (4000, 10))
SIZES = (*ODD, *((64, 48), (28, 28), (80, 60), (33, 17)) * 12)
COLOURS = ("teal", "orange", "navy", "maroon", "olive", "gray")
MARK = "<|image_1|>\n"

CLASSES = {
    "ImageNet-1K": "Represent the given image for classification",
    "ImageNet-A": "Represent the given image for classification",
    "ImageNet-R": "Represent the given image for classification",
    "HatefulMemes": (
        "Represent the given image for binary classification to determine whether it constitutes "
        "hateful speech or not"
    ),
    "VOC2007": "Identify the object shown in the image",
    "ObjectNet": "Identify the object shown in the image",
    "SUN397": "Identify the scene shown in the image",
    "Place365": "Identify the scene shown in the image",
    "Country211": "Identify the country depicted in the image",
    "N24News": (
        "Represent the given news image with the following caption for domain classification: "
        "Ms. Goodman styled a model with wings"
    ),
}
QUESTIONS = (
    "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA", "VizWiz",
    "GQA", "TextVQA",
)  # fmt: skip
QUESTION = "Represent the given image with the following question: What is it?"
CAPTIONS = {
    "VisualNews_i2t": "Find a caption for the news in the given photo.",
    "MSCOCO_i2t": "Find an image caption describing the given everyday image.",
}
SEARCHES = {
    "VisDial": (
        "Represent the given dialogue about an image, which is used for image retrieval: "
        "Q:is the photo in color\nA:yes\n",
        "Represent the given image",
    ),
    "VisualNews_t2i": (
        "Retrieve an image of this news caption. A minister speaks.", "Represent the given image.",
    ),
    "MSCOCO_t2i": (
        "Find me an everyday image that matches the given caption: A man on a moped.",
        "Represent the given image.",
    ),
    "WebQA": (
        MARK + "Find a Wikipedia image that answers this question: Does it have petals?",
        "Represent the given Wikipedia image with related text information: A flower.",
    ),
    "EDIS": (
        MARK + "Find a news image that matches the provided caption: Two presidents meet.",
        "Represent the given image with related text information: The West pays tribute.",
    ),
    "Wiki-SS-NQ": (
        "Find the document image that can answer the given query: who needs to know about it",
        "Represent the given image",
    ),
}  # fmt: skip
"""Queries are texts, candidates are pictures."""
CHANGES = {
    "CIRR": (
        "Given an image, find a similar everyday image with the described changes: Show three.",
        "Represent the given image.",
    ),
    "NIGHTS": (
        "Find a day-to-day image that looks similar to the provided image.",
        "Represent the given image.",
    ),
    "FashionIQ": (
        "Find an image to match the fashion image and style note: Is shiny and silver.",
        "Represent the given image.",
    ),
    "OVEN": (
        "Retrieve a Wikipedia image-description pair that provides evidence for the question of "
        "this image: What is the name of this place?",
        "Represent the given Wikipedia image with related text information: A lake.",
    ),
    "MSCOCO": (
        'Crop the image to to isolate the object labeled as "dog"',
        "Represent the given cropped image of the object",
    ),
    "RefCOCO": (
        'Select the portion of the image that follows the language expressions. "the left bowl"',
        "Represent the given cropped image of the object",
    ),
    "RefCOCO-Matching": (
        'Select the portion of the image that follows the language expressions: "the left bowl"',
        'Select the portion of the image that follows the language expressions: "the dish"',
    ),
    "Visual7W-Pointing": (
        'Select the portion of the image that answers the question "Which box?"',
        "Represent the given cropped image of the object",
    ),
}
"""Queries and candidates are pictures."""


class Pictures:
    """Draws pictures of all SIZES in turn, no two alike."""

    def __init__(self) -> None:
        self.drawn = itertools.count()

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.encoded(path.suffix))

    def encoded(self, ending: str = ".png", size: tuple[int, int] | None = None) -> bytes:
        number = next(self.drawn)
        image = Image.new("RGB", size or SIZES[number % len(SIZES)], COLOURS[number % len(COLOURS)])
        image.putpixel((0, 0), (number % 256, number // 256, 0))
        file = io.BytesIO()
        image.save(file, "PNG" if ending == ".png" else "JPEG", compress_level=1)
        return file.getvalue()

    def frames(self, folder: Path, count: int, form: str = "{:04d}.jpeg") -> None:
        """A video as frames of one size."""
        for number in range(count):
            path = folder / form.format(number)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.encoded(path.suffix, (32, 24)))


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# --------------------------------------------------------------------------------- image tasks


def mmeb_rows(name: str) -> list[dict[str, Any]]:
    """Two rows of a dataset of MMEB."""
    asked = [f"{name}/Test/query_{row}.jpg" for row in range(2)]
    found = [f"{name}/Test/target_{row}.png" for row in range(3)]
    if name in SEARCHES:
        query, target = SEARCHES[name]
        return [
            mmeb_row(query + "\n", "", [f"{MARK}{target}\n"] * 3, found[row:] + found[:row])
            for row in range(2)
        ]
    if name in CHANGES:
        query, target = CHANGES[name]
        return [
            mmeb_row(
                f"{MARK}{query}\n", asked[row], [f"{MARK}{target}\n"] * 3, found[row:] + found[:row]
            )
            for row in range(2)
        ]
    query = CLASSES.get(name) or CAPTIONS.get(name) or QUESTION
    texts = ["No", "Yes"] if name == "HatefulMemes" else ["one of the words", "the image", "user"]
    return [
        mmeb_row(
            f"{MARK}{query}\n", asked[row], texts[row:] + texts[:row], [""] * len(texts)
        )
        for row in range(2)
    ]  # fmt: skip


def mmeb_row(query: str, asked: str, texts: list[str], found: list[str]) -> dict[str, Any]:
    return {"qry_text": query, "qry_img_path": asked, "tgt_text": texts, "tgt_img_path": found}


MMEB = (*CLASSES, *QUESTIONS, *CAPTIONS, *SEARCHES, *CHANGES)


def mmeb(root: Path, pictures: Path, draw: Pictures) -> None:
    """All 36 tables below `root`, their pictures below `pictures`."""
    for name in MMEB:
        rows = mmeb_rows(name)
        parquet(root / name / "test-00000-of-00001.parquet", rows)
        paths = {path for row in rows for path in (row["qry_img_path"], *row["tgt_img_path"])}
        for path in sorted(paths - {""}):
            draw.write(pictures / path)


def mmeb_eval(root: Path) -> Path:
    mmeb(root, root / "eval_images", Pictures())
    return root


# --------------------------------------------------------------------------------- video tasks


def video_classification(root: Path, draw: Pictures) -> None:
    tables = {"ssv2": "SSv2", "hmdb51": "HMDB51", "ucf101": "UCF101", "k700": "K700",
              "breakfast": "Breakfast"}  # fmt: skip
    for table, folder in tables.items():
        rows: list[dict[str, Any]] = [
            {"video_id": f"v_{row}", "pos_text": label}
            for row, label in enumerate(["run", "a_word"])
        ]
        if table == "ssv2":
            own = ["Closing something", "Opening something"]
            rows = [
                {"video_id": 70 + row, "pos_text": own[row], "neg_text": own} for row in range(2)
            ]
        lines(root / "video-tasks" / "data" / f"{table}.jsonl", rows)
        for row in rows:
            frames = root / "video-tasks" / "frames" / "video_cls" / folder / str(row["video_id"])
            draw.frames(frames, 10, "frame_{}.jpg")


def video_retrieval(root: Path, draw: Pictures) -> None:
    """Frames of three datasets in the folder that download_data.sh makes, of two in frames/."""
    data, frames = root / "video-tasks" / "data", root / "video-tasks" / "frames"
    texts = ("one of the words", "the image")
    rows: dict[str, list[dict[str, Any]]] = {
        "MSR-VTT": [{"video_id": f"v{i}", "video": f"v{i}.mp4", "caption": texts[i], "id": i}
                    for i in range(2)],
        "MSVD": [{"video_id": f"v{i}", "video": f"v{i}.avi", "caption": [texts[i], "x"]}
                 for i in range(2)],
        "DiDeMo": [{"video": f"test/v{i}.mp4", "caption": texts[i]} for i in range(2)],
        "YouCook2": [{"id": f"v{i}", "video_path": f"a/v{i}.mp4", "sentence": texts[i]}
                     for i in range(2)],
        "VATEX": [{"videoID": f"v{i}", "enCap": [texts[i], "x"], "chCap": []} for i in range(2)],
    }  # fmt: skip
    for name in ("MSR-VTT", "MSVD", "DiDeMo"):
        lines(data / f"{name.lower()}.jsonl", rows[name])
    parquet(
        root / "video-tasks" / "YouCook2" / "data" / "val-00000-of-00001.parquet", rows["YouCook2"]
    )
    parquet(
        root / "video-tasks" / "VATEX" / "vatex_test" / "test-00000-of-00001.parquet", rows["VATEX"]
    )
    for name in rows:
        above = frames / "video_ret" if name in ("MSR-VTT", "MSVD", "DiDeMo") else frames
        home = above / "data" / "ziyan" / "video_retrieval" / name / "frames"
        for i in range(2):
            draw.frames(home / f"v{i}", 9, "frame_{:04d}.jpg")


def video_questions(root: Path, draw: Pictures) -> None:
    tasks, frames = root / "video-tasks", root / "video-tasks" / "frames" / "video_qa"
    options = ["A. the image.", "B. a word.", "C. one.", "D. two."]
    parquet(tasks / "Video-MME" / "videomme" / "test-00000-of-00001.parquet", [
        {"videoID": "mme", "question": "What?", "options": options, "answer": "B"},
    ])  # fmt: skip
    parquet(tasks / "NExTQA" / "MC" / "test-00000-of-00001.parquet", [
        {"video": 123, "question": "what", "answer": 1, "qid": 7, "type": "CW",
         **{f"a{place}": f"answer {place}" for place in range(5)}},
    ])  # fmt: skip
    parquet(tasks / "EgoSchema" / "Subset" / "test-00000-of-00001.parquet", [
        {"video_idx": "ego", "question_idx": "0", "question": "What?", "answer": "2",
         "option": [*options, "E. three."]},
    ])  # fmt: skip
    lines(tasks / "data" / "activitynetqa.jsonl", [
        {"video_name": "act", "question": "is it a word", "answer": "no", "question_id": "act_1"},
    ])  # fmt: skip
    places = ["Video-MME/mme", "NExTQA/123", "egoschema/ego", "ActivityNetQA/v_act"]
    for part in mmeb_video_qa.PARTS:
        path = tasks / "MVBench" / "json" / f"{part}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([
            {"video": "clip.mp4", "question": "What?", "candidates": ["one", "the word"],
             "answer": "the word"},
        ]))  # fmt: skip
        places.append(f"MVBench/{part}/clip.mp4")
    for place in places:
        draw.frames(frames / place, 3)


def moments(root: Path, draw: Pictures) -> None:
    data = root / "video-tasks" / "data"
    frames = root / "video-tasks" / "frames" / "video_mret"
    for table, folder in (("qvhighlight", "QVHighlight"), ("charades_sta", "Charades-STA")):
        lines(data / f"{table}.jsonl", [{"query": "the word", "video_path": "/a/v1_0_2.mp4"}])
        for clip in ("query", "positive_clip", "negative_clip_0", "negative_clip_1"):
            draw.frames(frames / folder / "v1_0_2" / clip, 3, "frame_{:04d}.jpg")
    clips = [{"output_path": f"videos/ego/{name}.mp4"} for name in ("right", "wrong_0", "wrong_1")]
    asked = ("", "videos/ego/asked.mp4", "images/movie101_77/frame_173.jpg")
    parquet(root / "video-tasks" / "MomentSeeker" / "data" / "test-00000-of-00001.parquet", [
        {"query": "the word", "input_frames": beside, "positive_frames": clips[:1],
         "negative_frames": clips[1:]} for beside in asked
    ])  # fmt: skip
    for name in ("asked", "right", "wrong_0", "wrong_1"):
        draw.frames(frames / "MomentSeeker" / "video_frames" / f"videos_ego_{name}", 3)
    draw.write(frames / "MomentSeeker" / f"query_{asked[2]}")


# ---------------------------------------------------------------------------- visual documents


def visual_documents(root: Path, draw: Pictures) -> None:
    """Images are unpacked for all datasets but ViDoSeek and MMLongBench, whose tables hold them."""
    home = root / "visdoc-tasks"
    for name, task in mmeb_visdoc.TASKS.items():
        visrag = name.startswith("VisRAG")
        ids: list[Any] = [f"{'long ' * 12}{i}.png" for i in range(3)] if visrag else [27, 28, 29]
        packed = task in mmeb_visdoc.LONG.values()
        tables: dict[str, list[dict[str, Any]]] = {
            "queries": [{"query-id": i, "query": f"Which word is {i}?"} for i in range(3)],
            "corpus": [
                {"corpus-id": id, "image": {"bytes": draw.encoded() if packed else None,
                                            "path": f"{id}.png"}} for id in ids
            ],
            "qrels": [
                {"query-id": 0, "corpus-id": ids[0], "score": 2},
                {"query-id": 0, "corpus-id": ids[1], "score": 1},
                {"query-id": 0, "corpus-id": ids[0], "score": 1},
                {"query-id": 1, "corpus-id": ids[1], "score": 1},
                {"query-id": 2, "corpus-id": ids[2], "score": 0},
            ],
        }  # fmt: skip
        for kind, rows in tables.items():
            table = home / "data" / task.tables[0] / kind / f"{task.split}-00000-of-00001.parquet"
            parquet(table, rows)
        for id in ids if not packed else ():
            short = f"{id[:50]}_{hashlib.md5(id.encode()).hexdigest()[:8]}" if visrag else id
            draw.write(home / "images" / task.images[0] / f"{short}.png")


def mmeb_v2(root: Path) -> Path:
    draw = Pictures()
    mmeb(root / "image-tasks", root / "image-tasks" / "MMEB", draw)
    for part in (
        video_classification, video_retrieval, video_questions, moments, visual_documents,
    ):  # fmt: skip
        part(root, draw)
    return root


def signatures(dataset: Dataset) -> tuple[str, str]:
    """The modality mix of the queries and that of the documents."""
    sides = ({item.signature for item in side} for side in (dataset.queries, dataset.documents))
    asked, found = (", ".join(sorted(side)) for side in sides)
    return asked, found
