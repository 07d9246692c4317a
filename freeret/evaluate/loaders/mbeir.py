"""M-BEIR (arXiv 2311.17136): 16 datasets of 8 tasks, each over its own (local) candidate pool.

Layout, as published in TIGER-Lab/M-BEIR with mbeir_images.tar.gz unpacked beside:

    folder/query/test/mbeir_cirr_task7_test.jsonl            qid, query_txt, query_img_path,
                                                             query_modality, pos_cand_list
    folder/cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl  did, txt, img_path, modality
    folder/instructions/query_instructions.tsv               by modalities and dataset
    folder/mbeir_images/…                                    the paths begin with mbeir_images/

The task prior is the first of the instructions that the benchmark draws from. A picture comes
before its text. A missing picture is noticed when it is read, since pools hold up to a million.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.loaders.lines import check_there, lines_of
from probes import Item
from probes.errors import BadFile, BadItem

SOURCE = (
    "get the dataset TIGER-Lab/M-BEIR from the Hugging Face hub: query/, cand_pool/ and "
    "instructions/ (a few GB), and the parts of mbeir_images.tar.gz (tens of GB), joined and "
    "unpacked into the same folder"
)
MODALITIES = {
    0: ("text", "image"),
    1: ("text", "text"),
    2: ("text", "image,text"),
    3: ("image", "text"),
    4: ("image", "image"),
    6: ("image,text", "text"),
    7: ("image,text", "image"),
    8: ("image,text", "image,text"),
}
"""Number of a task -> modalities of its queries and candidates, as the benchmark writes them."""
NAMES = (
    "visualnews_task0", "mscoco_task0", "fashion200k_task0", "webqa_task1", "edis_task2",
    "webqa_task2", "visualnews_task3", "mscoco_task3", "fashion200k_task3", "nights_task4",
    "oven_task6", "infoseek_task6", "fashioniq_task7", "cirr_task7", "oven_task8",
    "infoseek_task8",
)  # fmt: skip
INSTRUCTIONS = Path("instructions/query_instructions.tsv")
DEPTHS = (5, 1, 10)
FASHION_DEPTHS = (10, 20, 50)
"""Depths for Fashion200K and FashionIQ."""


def find_mbeir(folder: str | Path) -> list[str]:
    """The datasets that a folder holds, in the paper's order. Raises BadFile when there is none, or
    when their instructions or pictures are missing; nothing is read."""
    root = Path(folder)
    names = [name for name in NAMES if all(path.is_file() for path in _files(root, name))]
    if not names:
        raise BadFile(f"{folder} holds no dataset of M-BEIR; {SOURCE}")
    check_there(root, (str(INSTRUCTIONS), "mbeir_images"), SOURCE)
    return names


def load_mbeir(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile for a missing file or a malformed line."""
    if name not in NAMES:
        raise BadFile(f"M-BEIR has no dataset {name!r}; it has {', '.join(NAMES)}")
    root = Path(folder)
    queries_file, pool = _files(root, name)
    modalities = MODALITIES[int(name[-1])]
    queries: list[Item] = []
    judgements: Judgements = {}
    for place, row in _rows(queries_file, ("qid", "query_modality", "pos_cand_list")):
        query = _item(
            root, row["qid"], row["query_modality"], row.get("query_txt"),
            row.get("query_img_path"), place,
        )  # fmt: skip
        right = {one["did"] if isinstance(one, dict) else one: 1 for one in row["pos_cand_list"]}
        queries.append(query)
        judgements[query.id or ""] = {str(id): 1 for id in right}
    documents = [
        _item(root, row["did"], row["modality"], row.get("txt"), row.get("img_path"), place)
        for place, row in _rows(pool, ("did", "modality"))
    ]
    depths = FASHION_DEPTHS if name.startswith("fashion") else DEPTHS
    return Dataset(
        name=name,
        queries=queries,
        documents=documents,
        judgements=judgements,
        task=_instruction(root, modalities, queries),
        metrics=tuple(f"Success@{depth}" for depth in depths),
        group="→".join(side.replace(",", "+") for side in modalities),
        note="Success@k is Recall@k as M-BEIR counts it: whether one of the first k is right",
    )


def _files(root: Path, name: str) -> tuple[Path, Path]:
    """Queries and pool. MSCOCO alone has a pool for each split."""
    pool = (
        "mbeir_{}_test_cand_pool.jsonl" if name.startswith("mscoco") else "mbeir_{}_cand_pool.jsonl"
    )
    return (
        root / "query" / "test" / f"mbeir_{name}_test.jsonl",
        root / "cand_pool" / "local" / pool.format(name),
    )


def _rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each line as an object, after the words that name its place."""
    for number, line in lines_of(path, SOURCE):
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
            missing = [key for key in needed if not row.get(key)]
        except (ValueError, AttributeError):
            raise BadFile(f"{place}: needs a JSON object; {SOURCE}") from None
        if missing:
            raise BadFile(f"{place}: no {missing[0]}; {SOURCE}")
        yield place, row


def _item(
    root: Path, id: Any, modality: str, text: str | None, picture: str | None, place: str
) -> Item:
    kinds = modality.split(",")
    if "image" in kinds and not picture:
        raise BadFile(f"{place}: it is {modality}, and has no path of a picture; {SOURCE}")
    images = [root / picture] if "image" in kinds and picture else []
    words = (text or "").strip() if "text" in kinds else ""
    try:
        return Item(words or (None if images else "(empty)"), images=images, id=str(id))
    except BadItem as error:
        raise BadFile(f"{place}: {error}") from None


def _instruction(root: Path, modalities: tuple[str, str], queries: list[Item]) -> str:
    """The first instruction of these queries: query modality, candidate modality, name and id of
    the dataset stand before the instructions in their row."""
    dataset = (queries[0].id or "").split(":")[0] if queries else ""
    for _, line in lines_of(root / INSTRUCTIONS, SOURCE):
        row = [cell.strip().strip('"') for cell in line.split("\t")]
        if (*row[:2], *row[3:4]) == (*modalities, dataset) and any(row[4:]):
            return next(cell for cell in row[4:] if cell)
    raise BadFile(
        f"{root / INSTRUCTIONS} has no instruction for {modalities} of dataset {dataset!r}"
    )
