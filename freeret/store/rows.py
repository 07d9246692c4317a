"""Rows of the items table as they are read for a search: ids, metadata and a tensor of vectors."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

LOADED = ("id", "signature", "metadata", "vector")
"""The columns of `Loaded`."""


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
