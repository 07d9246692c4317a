"""MMEB (arXiv 2410.05160): 36 datasets, each query with candidates of its own, Precision@1.

Layout, as published in TIGER-Lab/MMEB-eval with images.zip unpacked beside:

    folder/ImageNet-1K/test-00000-of-00001.parquet     qry_text, qry_img_path: str
    folder/ImageNet-1K/Test/n01440764_…JPEG            tgt_text, tgt_img_path: list of str

Pictures are looked for below `folder/`, `folder/images/` and `folder/eval_images/`. The first
target is the right one. Rows may be JSON lines (`test.jsonl`) instead; `qry_inst` and `tgt_inst`,
where they are, stand before the texts. `<|image_1|>` marks a picture in the texts and is left out:
an item holds its picture before its text.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.lib
import pyarrow.parquet as pq

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.loaders.lines import lines_of
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "get the dataset TIGER-Lab/MMEB-eval from the Hugging Face hub: a folder a dataset, each with "
    "test-00000-of-00001.parquet (36 datasets, 1,000 queries each, most with 1,000 candidates: "
    "tens of MB), and images.zip (several GB), unpacked into the same folder"
)
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "classification": ("classification", (
        "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "Place365", "ImageNet-A",
        "ImageNet-R", "ObjectNet", "Country211",
    )),
    "question answering": ("question", (
        "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W", "ScienceQA",
        "VizWiz", "GQA", "TextVQA",
    )),
    "retrieval": ("caption", (
        "VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t",
        "NIGHTS", "WebQA", "FashionIQ", "Wiki-SS-NQ", "OVEN", "EDIS",
    )),
    "grounding": ("caption", ("MSCOCO", "RefCOCO", "RefCOCO-Matching", "Visual7W-Pointing")),
}  # fmt: skip
"""Meta-task -> its task prior and its datasets."""
TASK_OF = {
    "CIRR": "composed change",
    "FashionIQ": "composed change",
    "WebQA": "question",
    "Wiki-SS-NQ": "question",
    "OVEN": "question",
}
NAMES = tuple(name for _, names in GROUPS.values() for name in names)
COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")


def find_mmeb(folder: str | Path) -> list[str]:
    """The datasets that a folder holds, in the paper's order. Raises BadFile when there is none."""
    found = [name for name in NAMES if _table(Path(folder), name)]
    if not found:
        raise BadFile(f"{folder} holds no dataset of MMEB; {SOURCE}")
    return found


def load_mmeb(folder: str | Path, name: str) -> Dataset:
    """One dataset. Raises BadFile when its table, a column or a picture is missing."""
    if name not in NAMES:
        raise BadFile(f"MMEB has no dataset {name!r}; it has {', '.join(NAMES)}")
    root = Path(folder)
    table = _table(root, name)
    if table is None:
        raise BadFile(f"{root} holds no table of {name}; {SOURCE}")
    queries: list[Item] = []
    documents: dict[str, Item] = {}
    judgements: Judgements = {}
    candidates: dict[str, list[str]] = {}
    for number, row in enumerate(_rows(table), start=1):
        place = f"{table}, row {number}"
        targets = _targets(row, place)
        id = str(number)
        text = _words(row.get("qry_inst"), row["qry_text"])
        queries.append(_item(root, text, row["qry_img_path"], id, place))
        candidates[id] = []
        for words, picture in targets:
            # An id from the content: the same candidate is one document, and ties are broken by
            # something that knows nothing of which one is right.
            key = hashlib.sha256(f"{picture}\0{words}".encode()).hexdigest()[:16]
            if key not in documents:
                documents[key] = _item(root, words, picture, key, place)
            if key not in candidates[id]:
                candidates[id].append(key)
        judgements[id] = {candidates[id][0]: 1}
    group, task = next((g, task) for g, (task, names) in GROUPS.items() if name in names)
    return Dataset(
        name=name,
        queries=queries,
        documents=list(documents.values()),
        judgements=judgements,
        candidates=candidates,
        task=TASK_OF.get(name, task),
        group=group,
    )


def _table(root: Path, name: str) -> Path | None:
    found = sorted((root / name).glob("test*.parquet")) + sorted((root / name).glob("test*.json*"))
    return found[0] if found else None


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    try:
        if table.suffix == ".parquet":
            rows = pq.read_table(table).to_pylist()
        elif table.suffix == ".jsonl":
            rows = [json.loads(line) for _, line in lines_of(table, SOURCE)]
        else:
            rows = json.loads(table.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, pyarrow.lib.ArrowException) as error:
        raise BadFile(f"{table} cannot be read ({error}); {SOURCE}") from None
    for number, row in enumerate(rows, start=1):
        missing = [column for column in COLUMNS if column not in row]
        if missing:
            raise BadFile(f"{table}, row {number}: no column {missing[0]}; {SOURCE}")
        yield row


def _targets(row: dict[str, Any], place: str) -> list[tuple[str, str]]:
    """Text and picture of each candidate, the right one first."""
    texts = list(row["tgt_text"] or [])
    pictures = list(row["tgt_img_path"] or [""] * len(texts))
    if not texts or len(texts) != len(pictures):
        raise BadFile(f"{place}: tgt_text and tgt_img_path must be lists of one length")
    instruction = row.get("tgt_inst")
    return [(_words(instruction, t), p or "") for t, p in zip(texts, pictures, strict=True)]


def _words(instruction: str | None, text: str | None) -> str:
    """The texts without the picture's mark, on one line each."""
    joined = f"{instruction or ''} {text or ''}".replace("<|image_1|>", " ")
    return "\n".join(line for line in (" ".join(x.split()) for x in joined.splitlines()) if line)


def _item(root: Path, text: str, picture: str, id: str, place: str) -> Item:
    images = [_picture(root, picture, place)] if picture else []
    return Item(text if text or not images else None, images=images, id=id)


def _picture(root: Path, picture: str, place: str) -> Path:
    for below in (root, root / "images", root / "eval_images"):
        if (below / picture).is_file():
            return below / picture
    raise BadFile(f"{place}: there is no picture {picture} below {root}; {SOURCE}")
