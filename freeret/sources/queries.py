"""Queries of a call, or from a file: a table, read as `freeret index` reads tables, or lines."""

from pathlib import Path
from typing import Any

from freeret.sources import tables
from freeret.sources.files import Files
from probes import Item, as_item
from probes.errors import BadItem, BadSetting
from probes.files import read_lines
from probes.items import several


def as_queries(values: Any) -> list[Item]:
    """Read the queries of a call. Messages call those without id by their place."""
    queries = list(several(values))
    names = ["the query"] if len(queries) == 1 else [f"query {i}" for i in range(len(queries))]
    return [as_item(query, place=name) for query, name in zip(queries, names, strict=True)]


def read_queries(
    path: Path, *, text_field: str = "text", id_field: str = "id", image_field: str | None = None
) -> list[Item]:
    """The queries of a file, each with an id.

    Args:
        path: A table (.jsonl, .csv, .tsv, .parquet), or a text file (.txt) with a query per line,
            whose id is the line number. Blank lines are counted but are no queries.
        text_field: Column of a table that holds the text.
        id_field: Column that holds the id; a row without one takes the table's name and its line.
        image_field: Column that holds a picture, as in a table of items.

    Returns:
        The queries in their order. Other columns are ignored.

    Raises:
        BadSetting: The file is neither a table nor a text file, or holds no query.
        BadItem: A row cannot be read, or an id is given twice.
    """
    if not path.is_file():
        raise BadSetting(f"there is no file of queries at {path}")
    if tables.is_table(path):
        rows = Files([path], text_field, id_field, image_field=image_field, metadata_fields=())
        queries = [item for item in rows if isinstance(item, Item)]
    elif path.suffix.lower() == ".txt":
        with path.open("rb") as file:
            queries = [Item(line.strip(), id=str(number)) for number, line in read_lines(file)]
    else:
        raise BadSetting(
            f"{path} holds no queries: give a table ({' '.join(tables.ENDINGS)}), or a .txt with a "
            "query per line"
        )
    if not queries:
        raise BadSetting(f"{path} holds no query")
    seen: set[str | None] = set()
    for query in queries:
        if query.id in seen:
            raise BadItem(f"{path}: the id {query.id!r} is given to two queries", query.id)
        seen.add(query.id)
    return queries
