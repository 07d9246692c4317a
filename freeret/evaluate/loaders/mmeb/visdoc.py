"""MMEB-V2 (arXiv 2507.04590), visual documents: 24 datasets of questions and page images, nDCG@5.

They are tables in the layout of BEIR, as published in the repositories vidore/…, openbmb/… and
VLM2Vec/… and in TIGER-Lab/MMEB-V2's archives, visdoc-tasks.data.tar.gz and
visdoc-tasks.images.tar.gz, which unpack to data/ and images/:

    folder/visdoc-tasks/data/arxivqa_test_subsampled_beir/
        queries/test-00000-of-00001.parquet    query-id, query
        corpus/test-00000-of-00001.parquet     corpus-id, image
        qrels/test-00000-of-00001.parquet      query-id, corpus-id, score
    folder/visdoc-tasks/images/ViDoRe_arxivqa/<corpus-id>.png

A page is read from its file where the images are unpacked, else from the table. Of ViDoSeek and
MMLongBench the page-level tables have been corrected since (VLM2Vec/ViDoSeek-page-fixed,
VLM2Vec/MMLongBench-page-fixed): those are preferred, and their pages always come from the table,
for the older images bear other ids. Queries without a relevant page are left out, as in BEIR.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from freeret.evaluate.datasets import Dataset, Judgements
from freeret.evaluate.failures import MissingData
from freeret.evaluate.loaders.mmeb.media import Located, locate
from freeret.evaluate.loaders.mmeb.rows import Row, read_rows
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "get visdoc-tasks.data.tar.gz and visdoc-tasks.images.tar.gz (33 GB in all) of the dataset "
    "TIGER-Lab/MMEB-V2 from the Hugging Face hub, unpacked into visdoc-tasks/; a dataset by itself "
    "is a repository, such as vidore/arxivqa_test_subsampled_beir, cloned into visdoc-tasks/data"
)


@dataclass(frozen=True)
class Task:
    """Where one dataset is: names of its folder of tables, of its folder of images, the split."""

    group: str
    tables: tuple[str, ...]
    images: tuple[str, ...]
    split: str = "test"


V1 = {
    "arxivqa": "arxivqa_test_subsampled_beir",
    "docvqa": "docvqa_test_subsampled_beir",
    "infovqa": "infovqa_test_subsampled_beir",
    "tabfquad": "tabfquad_test_subsampled_beir",
    "tatdqa": "tatdqa_test_beir",
    "shiftproject": "shiftproject_test_beir",
    "syntheticDocQA_artificial_intelligence": "syntheticDocQA_artificial_intelligence_test_beir",
    "syntheticDocQA_energy": "syntheticDocQA_energy_test_beir",
    "syntheticDocQA_government_reports": "syntheticDocQA_government_reports_test_beir",
    "syntheticDocQA_healthcare_industry": "syntheticDocQA_healthcare_industry_test_beir",
}
V2 = {
    "esg_reports_human_labeled_v2": "esg_reports_human_labeled_v2",
    "biomedical_lectures_v2_multilingual": "biomedical_lectures_v2",
    "economics_reports_v2_multilingual": "economics_reports_v2",
    "esg_reports_v2_multilingual": "esg_reports_v2",
}
VISRAG = ("ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA")
LONG = {
    "ViDoSeek-page": Task("VisDoc-OOD", ("ViDoSeek-page-fixed", "ViDoSeek-page"), ()),
    "ViDoSeek-doc": Task("VisDoc-OOD", ("ViDoSeek",), ("ViDoSeek-doc", "ViDoSeek-page")),
    "MMLongBench-page": Task(
        "VisDoc-OOD", ("MMLongBench-page-fixed", "MMLongBench-page", "MMLongBench"), ()
    ),
    "MMLongBench-doc": Task("VisDoc-OOD", ("MMLongBench-doc",), ("MMLongBench-doc",)),
}
TASKS: dict[str, Task] = {
    **{f"ViDoRe_{n}": Task("ViDoRe v1", (t,), (f"ViDoRe_{n}",)) for n, t in V1.items()},
    **{f"ViDoRe_{n}": Task("ViDoRe v2", (t,), (n, f"ViDoRe_{n}")) for n, t in V2.items()},
    **{
        f"VisRAG_{name}": Task(
            "VisRAG", (f"VisRAG-Ret-Test-{name}",), (f"VisRAG_{name}",), split="train"
        )
        for name in VISRAG
    },
    **LONG,
}


def home_of(root: Path, name: str) -> Path | None:
    """The folder of a dataset's tables, or None; they are not read."""
    task, places = TASKS[name], [root / "visdoc-tasks" / below for below in ("data", "")]
    homes = (place / folder for folder in task.tables for place in places)
    return next((home for home in homes if _tables(home, task, "queries")), None)


def load_visual_documents(folder: str | Path, name: str) -> Dataset:
    """Load one dataset. Raises BadFile when a table, a column or all its pages are missing."""
    root, task = Path(folder), TASKS[name]
    home = home_of(root, name)
    if home is None:
        pattern = f"visdoc-tasks/data/{task.tables[0]}/queries/{task.split}*.parquet"
        raise MissingData(name, f"no tables {pattern} below {root}", SOURCE)
    judgements: Judgements = {}
    for _, row in _rows(home, task, "qrels", ("query-id", "corpus-id", "score")):
        if row["score"] > 0:
            grades = judgements.setdefault(str(row["query-id"]), {})
            page = str(row["corpus-id"])
            grades[page] = max(grades.get(page, 0), row["score"])
    rows = _rows(home, task, "queries", ("query-id", "query"))
    texts = {str(row["query-id"]): row["query"] for _, row in rows}
    judged = [id for id in texts if id in judgements]
    pages = _pages(root, home, name)
    older = home.name != task.tables[0]
    return Dataset(
        name=name,
        queries=[Item(texts[id], id=id) for id in judged],
        documents=[Item(images=[page], id=id) for id, page in pages.items()],
        judgements={id: judgements[id] for id in judged},
        task="question",
        metrics=("nDCG@5",),
        missing=pages.missing,
        group=task.group,
        note=f"tables of the first release; {task.tables[0]} corrects them" if older else "",
    )


def _tables(home: Path, task: Task, kind: str) -> list[Path]:
    return sorted((home / kind).glob(f"{task.split}*.parquet"))


def _rows(home: Path, task: Task, kind: str, columns: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    tables = _tables(home, task, kind)
    if not tables:
        raise BadFile(f"there is no table {home / kind}/{task.split}*.parquet; {SOURCE}")
    for table in tables:
        yield from read_rows(table, columns, SOURCE)


def _pages(root: Path, home: Path, name: str) -> Located[Any]:
    """The picture of each page by its id: its file, or its bytes where no images are unpacked."""
    task = TASKS[name]
    places = [root / "visdoc-tasks" / below for below in ("images", "")]
    folders = [place / folder for folder in task.images for place in places]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        rows = _rows(home, task, "corpus", ("corpus-id", "image"))
        pages = {str(row["corpus-id"]): (row["image"] or {}).get("bytes") for _, row in rows}
        return locate(pages, name, "pages", [home / "corpus"], SOURCE)
    ids = [str(row["corpus-id"]) for _, row in _rows(home, task, "corpus", ("corpus-id",))]
    files = {id: folder / _file_name(id, task) for id in ids}
    found = {id: file if file.is_file() else None for id, file in files.items()}
    return locate(found, name, "pages", [folder], SOURCE)


def _file_name(id: str, task: Task) -> str:
    """How the archive names the picture of a page; VisRAG's ids are names of files, cut short."""
    if task.group != "VisRAG":
        return f"{id}.png"
    path = PurePosixPath(id)
    stem = id.removesuffix(path.suffix)
    return f"{stem[:50]}_{hashlib.md5(id.encode()).hexdigest()[:8]}{path.suffix}"
