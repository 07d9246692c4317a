"""A user's own folder of documents and judged queries:

    my-folder/
      documents/       whatever `freeret index` reads: texts, pictures, tables, … Rows of a table
                       may hold `image`, `video` or `audio` beside `text`
      queries.jsonl    {"id": "q1", "text": "…", "relevant": ["note.txt", "rows.jsonl:3"]}

`relevant` is a list of document ids, or an object of ids and grades. A query may hold `image`,
`video` or `audio`, a path below the folder, beside its text or instead of it. An optional
`task.txt` states the task in a sentence.
"""

import json
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset, Grade
from freeret.evaluate.loaders.lines import check_there, lines_of
from freeret.sources.files import Files
from probes import Item
from probes.errors import BadFile, BadItem

SOURCE = 'needed: documents/ and queries.jsonl with {"id": …, "text": …, "relevant": [ids]}'
MEDIA = ("image", "video", "audio")
KEYS = ("id", "text", *MEDIA, "relevant")
METRICS = ("P@1", "nDCG@10", "R@10", "RR")
SHOWN = 3
"""Example ids in an error."""


def check_folder(folder: str | Path) -> None:
    """Raise BadFile unless its parts are there; they are not read."""
    check_there(Path(folder), ("queries.jsonl", "documents"), SOURCE)


def load_folder(folder: str | Path) -> Dataset:
    """Read the folder. Raises BadFile when a part or a relevant document does not exist."""
    root = Path(folder)
    task = root / "task.txt"
    lines = list(lines_of(root / "queries.jsonl", SOURCE))
    prior = "same meaning"
    if task.is_file():
        prior = "\n".join(line for _, line in lines_of(task, SOURCE)).strip()
    try:
        items = list(
            Files(
                [root / "documents"],
                folder_names=False,
                on_error="skip",
                image_field="image",
                video_field="video",
                audio_field="audio",
            )
        )
    except BadItem as error:
        raise BadFile(f"{root}/documents: {error}; {SOURCE}") from None
    documents = [item for item in items if isinstance(item, Item)]
    unreadable = {bad.item or "": str(bad) for bad in items if isinstance(bad, BadItem)}
    known = {document.id for document in documents} | unreadable.keys()
    queries, judgements = [], {}
    for number, line in lines:
        query, grades = _query(root, number, line)
        missing = [id for id in grades if id not in known]
        if missing:
            some = ", ".join(map(repr, sorted(map(str, known))[:SHOWN]))
            raise BadFile(
                f"{root}/queries.jsonl, line {number}: there is no document {missing[0]!r} below "
                f"documents/; the documents are called {some}{', …' * (len(known) > SHOWN)}"
            )
        queries.append(query)
        judgements[query.id or ""] = grades
    return Dataset(
        name=root.name,
        queries=queries,
        documents=documents,
        judgements=judgements,
        task=prior,
        metrics=METRICS,
        group="own",
        unreadable=unreadable,
    )


def _query(root: Path, number: int, line: str) -> tuple[Item, dict[str, Grade]]:
    place = f"{root}/queries.jsonl, line {number}"
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise BadFile(f"{place} is not an object of JSON; {SOURCE}")
    if unknown := [key for key in row if key not in KEYS]:
        raise BadFile(f"{place}: a query has no key {unknown[0]!r}; its keys are {', '.join(KEYS)}")
    grades = _grades(row.get("relevant"), place)
    values = {kind: row.get(kind) for kind in MEDIA}
    for kind, value in values.items():
        if not isinstance(value, str | None):
            raise BadFile(f"{place}: {kind} must be a path below {root}, not {value!r}")
        if value is not None and not (root / value).is_file():
            raise BadFile(f"{place}: there is no file {root / value}")
    media = {kind: [root / value] if value else [] for kind, value in values.items()}
    try:
        item = Item(row.get("text"), *media.values(), id=str(row.get("id", number)))
    except BadItem as error:
        raise BadFile(f"{place}: {error}") from None
    return item, grades


def _grades(relevant: Any, place: str) -> dict[str, Grade]:
    """Document id -> grade, 1 in a list of ids."""
    grades: dict[str, Grade] | None = relevant if isinstance(relevant, dict) else None
    if isinstance(relevant, list):
        grades = dict.fromkeys(map(str, relevant), 1)
    if not grades:
        raise BadFile(
            f"{place}: relevant must be a list of ids of documents, or an object of ids and grades"
        )
    for id, grade in grades.items():
        if not isinstance(grade, int | float):
            raise BadFile(f"{place}: the grade of {id!r} must be a number, not {grade!r}")
    return grades
