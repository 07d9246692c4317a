"""Rows of the items table as they are read for a search: ids, metadata and a tensor of vectors."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

LOADED = ("id", "signature", "metadata", "vector")
"""The columns of `Loaded`."""


def query(table: Any, columns: Iterable[str], where: str | None = None) -> Any:
    """A query of LanceDB for columns of all rows, or of those that meet an SQL condition."""
    rows = table.search().select(list(columns)).limit(None)
    return rows.where(where) if where else rows


@dataclass(frozen=True)
class Loaded:
    """Rows in memory: vectors, and beside them the other columns as Arrow holds them. Python values
    are made of a column when it is asked for."""

    columns: pa.Table | pa.RecordBatch
    """`id`, `signature`, and `metadata` if it was read."""
    vectors: Float[Tensor, "n hidden"]

    @classmethod
    def read(cls, rows: pa.Table | pa.RecordBatch) -> "Loaded":
        """Rows with the columns of LOADED; `metadata` may be missing."""
        names = [name for name in LOADED if name in rows.schema.names and name != "vector"]
        return cls(rows.select(names), matrix(rows["vector"]))

    @cached_property
    def ids(self) -> list[str]:
        return self.columns["id"].to_pylist()

    @cached_property
    def signatures(self) -> list[str]:
        return self.columns["signature"].to_pylist()

    @property
    def signature(self) -> str:
        """That of the first row; in a part of `by_signature`, that of all."""
        return self.columns["signature"][0].as_py()

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """Empty when the column was not read."""
        if "metadata" not in self.columns.schema.names:
            return []
        return [json.loads(facts) for facts in self.columns["metadata"].to_pylist()]

    def by_signature(self) -> dict[str, "Loaded"]:
        """The rows of each modality signature, in their order."""
        encoded = whole(self.columns["signature"]).dictionary_encode()
        names, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        if len(names) == 1:  # without a copy of the vectors
            return dict.fromkeys(names, self)
        return {name: self.take(np.flatnonzero(codes == code)) for code, name in enumerate(names)}

    def take(self, places: np.ndarray) -> "Loaded":
        """The rows at these places."""
        rows = torch.from_numpy(places)
        return Loaded(self.columns.take(pa.array(places)), self.vectors.index_select(0, rows))


class Texts(Sequence[str]):
    """A column of texts, each of which becomes a Python string when it is asked for."""

    def __init__(self, column: pa.Array | pa.ChunkedArray):
        self.column = whole(column)

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> "Texts": ...
    def __getitem__(self, place: int | slice) -> "str | Texts":
        found = self.column[place]
        return Texts(found) if isinstance(place, slice) else found.as_py()


def whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def matrix(column: pa.Array | pa.ChunkedArray) -> Float[Tensor, "n hidden"]:
    """A column of vectors as one tensor that shares Arrow's memory: read it, never write to it."""
    array = whole(column)
    size = array.type.list_size  # `flatten` would copy
    values = array.values.slice(array.offset * size, len(array) * size)
    return torch.from_dlpack(values).view(len(array), size)
