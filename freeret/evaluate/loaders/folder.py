"""A folder of one's own:

    my-folder/
      documents/       whatever `freeret index` reads: texts, tables, pictures, …
      queries.jsonl    {"id": "q1", "text": "…", "relevant": ["note.txt", "rows.jsonl:3"]}

`relevant` is a list of document ids, or an object of ids and grades. A query may hold `image`,
`video` or `audio`, a path below the folder, beside its text or instead of it. An optional
`task.txt` says in a sentence what is to be found.
"""

import json
from pathlib import Path
from typing import Any

from freeret.evaluate.datasets import Dataset, Grade
from freeret.evaluate.loaders.lines import check_there, lines_of
from freeret.sources import Files
from probes import Item
from probes.errors import BadFile, BadItem

SOURCE = 'needed: documents/ and queries.jsonl with {"id": …, "text": …, "relevant": [ids]}'
MEDIA = ("image", "video", "audio")


def check_folder(folder: str | Path) -> None:
    """Raise BadFile unless its parts are there; they are not read."""
    check_there(Path(folder), ("queries.jsonl", "documents"), SOURCE)


def load_folder(folder: str | Path) -> Dataset:
    """Raises BadFile when a part is missing or a relevant document does not exist."""
    root = Path(folder)
    task = root / "task.txt"
    lines = list(lines_of(root / "queries.jsonl", SOURCE))
    said = "same meaning"
    if task.is_file():
        said = "\n".join(line for _, line in lines_of(task, SOURCE)).strip()
    try:
        found = list(Files([root / "documents"], folder_names=False, keep_bad=True))
    except BadItem as error:
        raise BadFile(f"{root}/documents: {error}; {SOURCE}") from None
    documents = [item for item in found if isinstance(item, Item)]
    unreadable = {bad.item or "": str(bad) for bad in found if isinstance(bad, BadItem)}
    known = {document.id for document in documents} | unreadable.keys()
    queries, judgements = [], {}
    for number, line in lines:
        query, grades = _query(root, number, line)
        missing = [id for id in grades if id not in known]
        if missing:
            raise BadFile(
                f"{root}/queries.jsonl, line {number}: there is no document {missing[0]!r}"
            )
        queries.append(query)
        judgements[query.id or ""] = grades
    return Dataset(
        name=root.name,
        queries=queries,
        documents=documents,
        judgements=judgements,
        task=said,
        metrics=("P@1", "nDCG@10"),
        group="own",
        unreadable=unreadable,
    )


def _query(root: Path, number: int, line: str) -> tuple[Item, dict[str, Grade]]:
    place = f"{root}/queries.jsonl, line {number}"
    try:
        row: dict[str, Any] = json.loads(line)
        relevant = row["relevant"]
        given = relevant.items() if isinstance(relevant, dict) else [(id, 1) for id in relevant]
        grades: dict[str, Grade] = {str(key): grade for key, grade in given}
        media = {kind: [root / row[kind]] if kind in row else [] for kind in MEDIA}
        id = str(row.get("id", number))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadFile(f"{place}: {SOURCE}") from None
    lacking = [path for paths in media.values() for path in paths if not path.is_file()]
    if lacking:
        raise BadFile(f"{place}: there is no file {lacking[0]}")
    try:
        item = Item(row.get("text"), media["image"], media["video"], media["audio"], id=id)
    except BadItem as error:
        raise BadFile(f"{place}: {error}") from None
    return item, grades
