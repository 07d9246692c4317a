"""Export the items and vectors of a store to files for other programs.

    table = pyarrow.parquet.read_table("store.parquet")      # id, signature, text, metadata, vector
    vectors = numpy.load("store.npy", mmap_mode="r")         # line n of store.jsonl says which item

Rows are streamed block by block. Files are written beside their place, and renamed when all of them
are complete.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from freeret.store.filters import EVERYTHING, Selection
from freeret.store.payload import source_of, text_of
from freeret.store.rows import Loaded, query
from freeret.store.table import Store
from probes import Geometry
from probes.errors import StoreError

FACTS: tuple[str, ...] = ("id", "signature", "text", "words", "source", "metadata")
"""The columns that are written beside the vector."""
Exported = tuple[int, list[Path]]
"""Number of items, and the files that hold them."""


def write_parquet(
    store: Store, path: Path, *, fitted: bool = False, selection: Selection = EVERYTHING
) -> Exported:
    """Write one Parquet file with a row per item.

    Args:
        path: The file, which is replaced; `.parquet` is added to a name without it.
        fitted: Whether to write unit vectors in the geometry of the store instead of raw ones.

    Returns:
        The number of items, and the file. Its columns are `id`, `signature`, `text`, `words` (what
        lexical search reads), `source`, `metadata` (JSON) and `vector` (a fixed-size list of
        float32); `freeret` in the metadata of its schema records what made the vectors.

    Raises:
        StoreError: The store has no geometry for its present items, or cannot be read.
    """
    path = _ending(path, ".parquet")
    vector = pa.list_(pa.float32(), store.dimension)
    schema = pa.schema(
        {**dict.fromkeys(FACTS, pa.string()), "vector": vector},
        metadata={"freeret": json.dumps(_origin(store, fitted))},
    )
    count = 0
    with _new_files(path) as (scratch,), pq.ParquetWriter(scratch, schema) as file:
        for facts, vectors in _rows(store, fitted, selection):
            flat = pa.array(vectors.ravel())
            columns = {name: [fact[name] for fact in facts] for name in FACTS}
            columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, store.dimension)
            file.write_table(pa.table(columns, schema=schema))
            count += len(facts)
    return count, [path]


def write_npy(
    store: Store, path: Path, *, fitted: bool = False, selection: Selection = EVERYTHING
) -> Exported:
    """Write a float32 matrix `[items, dimension]` as .npy, and a JSON line per row beside it. The
    arguments are those of `write_parquet`.

    Returns:
        The number of items, and both files. A line holds `id`, `signature`, `text`, `words`,
        `source` and `metadata`.

    Raises:
        StoreError: As for `write_parquet`.
    """
    path = _ending(path, ".npy")
    lines = path.with_suffix(".jsonl")
    count = 0
    with (
        _new_files(path, lines) as (matrix, listed),
        matrix.open("wb") as numbers,
        listed.open("w", encoding="utf-8") as names,
    ):
        _header(numbers, 0, store.dimension)
        for facts, vectors in _rows(store, fitted, selection):
            numbers.write(vectors.tobytes())
            for fact in facts:
                row = fact | {"metadata": json.loads(fact["metadata"])}
                names.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += len(facts)
        numbers.seek(0)
        _header(numbers, count, store.dimension)
    return count, [path, lines]


def _header(file: Any, count: int, dimension: int) -> None:
    """Write the header of an .npy file. NumPy pads it, so a longer first axis keeps its length."""
    layout = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(file, layout)


def _rows(
    store: Store, fitted: bool, selection: Selection
) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Columns other than the vector, and vectors, block by block of one snapshot."""
    geometry = _geometry(store) if fitted else None
    columns = ["parts", "metadata", *(["words"] if store.has_words else [])]
    rows = query(store.table, ["id", "signature", "vector", *columns], selection.sql())
    for batch in store.stream(rows):
        loaded = Loaded.read(batch)
        pairs = zip(loaded.signatures, loaded.metadata, strict=True)
        passing = [
            selection.takes_signature(signature) and selection.takes_metadata(metadata)
            for signature, metadata in pairs
        ]
        places = np.flatnonzero(passing)
        loaded, written = loaded.take(places), batch.select(columns).take(pa.array(places))
        vectors = loaded.vectors
        if geometry is not None:
            vectors = geometry.map(vectors, loaded.signatures, "document")
        packed = written["parts"].to_pylist()
        texts = [text_of(parts) for parts in packed]
        words = written["words"].to_pylist() if store.has_words else texts
        sources, metadata = map(source_of, packed), written["metadata"].to_pylist()
        values = zip(loaded.ids, loaded.signatures, texts, words, sources, metadata, strict=True)
        facts = [dict(zip(FACTS, row, strict=True)) for row in values]
        yield facts, vectors.contiguous().numpy().astype("<f4", copy=False)


def _geometry(store: Store) -> Geometry:
    geometry = store.geometry()
    if geometry is None:
        raise StoreError(
            f"store {store.location} has no geometry for its present items; run "
            f"`freeret fit {store.location}`"
        )
    return geometry


def _origin(store: Store, fitted: bool) -> dict[str, Any]:
    recipe = store.recipe()
    geometry = recipe["geometry"] if fitted else "raw"
    return {**store.identity, "recipe": recipe, "geometry": geometry}


def _ending(path: Path, ending: str) -> Path:
    return path if path.suffix == ending else path.with_name(path.name + ending)


@contextlib.contextmanager
def _new_files(*paths: Path) -> Iterator[list[Path]]:
    """Scratch files beside the paths, renamed to them when the work is done."""
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    scratch: list[Path] = []
    try:
        for path in paths:
            handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
            os.close(handle)
            scratch.append(Path(name))
        yield scratch
        for made, path in zip(scratch, paths, strict=True):
            made.chmod(0o644)
            made.replace(path)
    finally:
        for made in scratch:
            made.unlink(missing_ok=True)
