"""MMEB (arXiv 2410.05160): 36 datasets, each query with candidates of its own, Precision@1.

Layout, as published in TIGER-Lab/MMEB-eval with images.zip unpacked beside, or with the pictures of
TIGER-Lab/MMEB-V2's image-tasks/mmeb_v1.tar.gz, which unpacks to MMEB/:

    folder/ImageNet-1K/test-00000-of-00001.parquet     qry_text, qry_img_path: str
    folder/ImageNet-1K/Test/n01440764_…JPEG            tgt_text, tgt_img_path: list of str

Tables and pictures are looked for in every folder of PLACES. The first target is the right one.
Rows may be JSON lines (`test.jsonl`) instead; `qry_inst` and `tgt_inst`, where they are, stand
before the texts. `<|image_1|>` marks a picture in the texts and is left out: an item holds its
picture before its text.

MMEB opens every text with an instruction. Where a picture has no other text, such as "Represent
the given image.", the item is the picture alone: the instruction is the same in every row, says
nothing about the picture, and the task of the dataset says it to the model. Where a question, a
caption or a description follows, the text stays as it is published.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.failures import MissingData
from freeret.evaluate.loaders.mmeb.media import Located, first_file, locate
from freeret.evaluate.loaders.mmeb.rows import Row, first_table, read_rows
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "get the dataset TIGER-Lab/MMEB-eval from the Hugging Face hub: a folder per dataset, with "
    "test-00000-of-00001.parquet (36 datasets, 1,000 queries each, most with 1,000 candidates: "
    "tens of MB), and images.zip (several GB), unpacked into the same folder; "
    "image-tasks/mmeb_v1.tar.gz of TIGER-Lab/MMEB-V2 holds the same pictures"
)
PLACES = (
    "", "images", "eval_images", "MMEB", "image-tasks", "image-tasks/MMEB",
    "image-tasks/mmeb_v1/MMEB",
)  # fmt: skip
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
IN_DOMAIN = frozenset({
    "ImageNet-1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "OK-VQA", "A-OKVQA", "DocVQA",
    "InfographicsVQA", "ChartQA", "Visual7W", "VisDial", "CIRR", "VisualNews_t2i",
    "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS", "WebQA", "MSCOCO",
})  # fmt: skip
"""The 20 datasets on whose training part VLM2Vec is trained; MMEB reports the 16 others apart. For
a method without training, the two halves differ only in their tasks."""
NAMES = tuple(name for _, names in GROUPS.values() for name in names)
INSTRUCTIONS = frozenset({
    "represent the given image for classification",
    "identify the object shown in the image",
    "identify the scene shown in the image",
    "identify the country depicted in the image",
    "find an image caption describing the given everyday image",
    "find a caption for the news in the given photo",
    "find a day-to-day image that looks similar to the provided image",
    "represent the given image",
    "represent the given image with related text information",
    "represent the given wikipedia image with related text information",
    "represent the given cropped image of the object",
})  # fmt: skip
"""Instructions that say nothing about the picture, in lower case and without their full stop. That
of HatefulMemes is not among them: the candidates, Yes and No, answer it."""
COLUMNS = ("qry_text", "qry_img_path", "tgt_text", "tgt_img_path")
Content = tuple[str, str]
"""Text and the path of a picture; either may be empty."""


def find_mmeb(folder: str | Path) -> list[str]:
    """All datasets of MMEB, in the paper's order, when the folder holds at least one of them.

    Those that it lacks fail when they are loaded. Raises BadFile when it holds none.
    """
    if not any(table_of(Path(folder), name) for name in NAMES):
        raise BadFile(f"{folder} holds no dataset of MMEB; {SOURCE}")
    return list(NAMES)


def table_of(root: Path, name: str) -> Path | None:
    """The table of a dataset, or None; it is not read."""
    return first_table(root, [f"{place or '.'}/{name}/test*" for place in PLACES])


def load_mmeb(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when its table, a column or all its pictures are missing."""
    if name not in NAMES:
        raise BadFile(f"MMEB has no dataset {name!r}; it has {', '.join(NAMES)}")
    root = Path(folder)
    table = table_of(root, name)
    if table is None:
        raise MissingData(name, f"no table below {root}", SOURCE)
    queries: dict[str, Content] = {}
    pool: dict[str, Content] = {}
    ids: dict[tuple[str | None, str | None, str | None], str] = {}
    judgements: Judgements = {}
    candidates: dict[str, list[str]] = {}
    rows = read_rows(table, COLUMNS, SOURCE, optional=("qry_inst", "tgt_inst"))
    for number, (place, row) in enumerate(rows, start=1):
        id, instruction = str(number), row.get("tgt_inst")
        queries[id] = _content(row.get("qry_inst"), row["qry_text"], row["qry_img_path"])
        row_ids = []
        for text, picture in _targets(row, place):
            target = (instruction, text, picture)
            if target not in ids:
                content = _content(*target)
                ids[target] = _id(content)
                pool[ids[target]] = content
            row_ids.append(ids[target])
        judgements[id] = {row_ids[0]: 1}
        candidates[id] = list(dict.fromkeys(row_ids))
    pictures = _pictures(root, name, [*queries.values(), *pool.values()])
    group, task = next((g, task) for g, (task, names) in GROUPS.items() if name in names)
    return Dataset(
        name=name,
        queries=[_item(content, pictures, id) for id, content in queries.items()],
        documents=[_item(content, pictures, id) for id, content in pool.items()],
        judgements=judgements,
        candidates=candidates,
        task=TASK_OF.get(name, task),
        group=group,
        missing=pictures.missing,
    )


def _targets(row: Row, place: str) -> list[tuple[str | None, str | None]]:
    """Text and picture of each candidate, the right one first."""
    texts = list(row["tgt_text"] or [])
    pictures = list(row["tgt_img_path"] or [""] * len(texts))
    if not texts or len(texts) != len(pictures):
        raise BadFile(f"{place}: tgt_text and tgt_img_path must be lists of one length")
    return list(zip(texts, pictures, strict=True))


def _content(instruction: str | None, text: str | None, picture: str | None) -> Content:
    """The text without the picture's placeholder, and the path. The text of a picture is empty
    where it is only an instruction."""
    joined = f"{instruction or ''} {text or ''}".replace("<|image_1|>", " ")
    lines = (" ".join(line.split()) for line in joined.splitlines())
    words = "\n".join(line for line in lines if line)
    alone = bool(picture) and words.casefold().rstrip(" .:") in INSTRUCTIONS
    return "" if alone else words, picture or ""


def _id(content: Content) -> str:
    """A hash of the content: equal candidates are one document, and breaking ties by id favours
    neither the right nor the wrong ones."""
    words, picture = content
    return hashlib.sha256(f"{picture}\0{words}".encode()).hexdigest()[:16]


def _pictures(root: Path, name: str, contents: Sequence[Content]) -> Located[Path]:
    folders = [root / place for place in PLACES]
    there = [folder for folder in folders if folder.is_dir()]
    paths = dict.fromkeys(picture for _, picture in contents if picture)
    found = {path: first_file(there, path) for path in paths}
    return locate(found, name, "pictures", folders, SOURCE)


def _item(content: Content, pictures: Mapping[str, Path], id: str) -> Item:
    words, picture = content
    if picture:
        return Item(words or None, images=[pictures[picture]], id=id)
    return Item(words or "(empty)", id=id)
