"""Many queries from one file: a table, read as `freeret index` reads tables, or lines of text."""

from pathlib import Path

from freeret.sources import tables
from freeret.sources.files import Files
from probes import Item
from probes.errors import BadItem, BadSetting
from probes.files import read_lines


def read_queries(
    path: Path, *, text_field: str = "text", id_field: str = "id", image_field: str | None = None
) -> list[Item]:
    """The queries of a file, each with an id.

    Args:
        path: A table (.jsonl, .csv, .tsv, .parquet), or a text file (.txt) with a query per line,
            whose id is the number of the line.
        text_field: Column of a table that holds the text.
        id_field: Column that holds the id; a row without one is called by its line.
        image_field: Column that holds a picture, as in a table of items.

    Returns:
        The queries in their order. Other columns are ignored.

    Raises:
        BadSetting: The file is neither, holds no query, or gives an id twice.
        BadItem: A row cannot be read.
    """
    if not path.is_file():
        raise BadSetting(f"there is no file of queries at {path}")
    if tables.is_table(path):
        rows = Files([path], text_field, id_field, image_field=image_field, metadata_fields=())
        found = [item for item in rows if isinstance(item, Item)]
    elif path.suffix.lower() == ".txt":
        with path.open("rb") as file:
            found = [Item(line.strip(), id=str(number)) for number, line in read_lines(file)]
    else:
        raise BadSetting(
            f"{path} holds no queries: give a table ({' '.join(tables.ENDINGS)}), or a .txt with a "
            "query per line"
        )
    if not found:
        raise BadSetting(f"{path} holds no query")
    seen: set[str | None] = set()
    for query in found:
        if query.id in seen:
            raise BadItem(f"{path}: the id {query.id!r} is given to two queries", query.id)
        seen.add(query.id)
    return found
