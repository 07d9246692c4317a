"""Rows of the items table: the record that is written, and the rows that are read as tensors."""

import json
from dataclasses import dataclass
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

ARROW = {str: pa.string(), list[bytes]: pa.list_(pa.binary())}
"""Arrow type of each type of a field of `Record`, except the vector."""
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""Makes Lance detect that two concurrent commits insert the same id, and retry the later one;
without it both rows would stay. A primary key cannot be null."""
LOADED = ("id", "signature", "metadata", "vector")
"""The columns of `Loaded`."""


@dataclass(frozen=True)
class Record:
    """One row: an item's payload and its raw vector. Its fields are the columns of the table."""

    id: str
    hash: str
    signature: str
    parts: str
    blobs: list[bytes]
    metadata: str
    vector: Float[np.ndarray, " hidden"]


def record_schema(dimension: int, metadata: dict[bytes, bytes]) -> pa.Schema:
    """The Arrow schema of `Record` with vectors of `dimension` float32 values."""
    vector = pa.list_(pa.float32(), dimension)
    types = {name: ARROW.get(hint, vector) for name, hint in get_type_hints(Record).items()}
    key = pa.field("id", types.pop("id"), nullable=False, metadata=PRIMARY_KEY)
    return pa.schema([key, *(pa.field(name, type) for name, type in types.items())], metadata)


@dataclass(frozen=True)
class Loaded:
    """Rows in memory. All lists run parallel to the rows of `vectors`."""

    ids: list[str]
    signatures: list[str]
    metadata: list[dict[str, Any]]
    """Empty when the column was not read."""
    vectors: Float[Tensor, "n hidden"]

    @classmethod
    def read(cls, rows: pa.Table | pa.RecordBatch) -> "Loaded":
        """Rows with the columns of LOADED; `metadata` may be missing."""
        facts = rows["metadata"].to_pylist() if "metadata" in rows.schema.names else []
        signatures = rows["signature"].to_pylist()
        return cls(
            rows["id"].to_pylist(),
            signatures,
            [json.loads(f) for f in facts],
            matrix(rows["vector"]),
        )

    def by_signature(self) -> dict[str, "Loaded"]:
        """The rows of each modality signature, in their order."""
        names = dict.fromkeys(self.signatures)
        if len(names) == 1:  # without a copy of the vectors
            return dict.fromkeys(names, self)
        return {name: self._of(name) for name in names}

    def _of(self, signature: str) -> "Loaded":
        places = [i for i, s in enumerate(self.signatures) if s == signature]
        return Loaded(
            [self.ids[i] for i in places],
            [signature] * len(places),
            [self.metadata[i] for i in places if self.metadata],
            self.vectors[torch.tensor(places)],
        )


def matrix(column: pa.Array | pa.ChunkedArray) -> Float[Tensor, "n hidden"]:
    """A column of vectors as one tensor that shares Arrow's memory: read it, never write to it."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = whole.type.list_size  # `flatten` would copy
    values = whole.values.slice(whole.offset * size, len(whole) * size)
    return torch.from_dlpack(values).view(len(whole), size)
