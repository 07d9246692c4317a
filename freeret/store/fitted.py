"""The geometry of a store as a side table: named vectors, and what they were fitted on.

It is a cache. Anyone can fit the geometry again from the items, so a search that cannot write it
goes on without.
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from freeret.store.commits import clear, commit, create_table, open_table, storage_errors
from probes.geometry import Geometry, Scale

log = logging.getLogger(__name__)

GEOMETRY = "geometry"
GEOMETRY_FORMAT = 3
"""Raised whenever a geometry is written or fitted in another way; older ones are fitted anew."""
ABOUT = b"freeret"
"""Key of the schema's metadata under which a table describes itself."""
NAMED_VECTORS = pa.schema({"name": pa.string(), "values": pa.list_(pa.float32())})
"""A row per vector; a matrix takes one row per row."""


@dataclass(frozen=True)
class GeometryTable:
    """The geometry beside the items of one store, which may not have been written yet."""

    database: Any
    location: str | Path

    def save(self, geometry: Geometry, version: int, recipe: dict[str, Any]) -> None:
        """Keep the geometry unless one of a later version of the items is kept already.

        Args:
            version: The version of the items table.

        Raises:
            StoreError: The store cannot be written.
        """
        tensors = {f"mean:{side}:{name}": mean for (side, name), mean in geometry.means.items()}
        if geometry.transform is not None:
            tensors["transform"] = geometry.transform
        for name, scale in geometry.scales.items():
            tensors |= {f"documents:{name}": scale.documents, f"prior:{name}": scale.prior}
        rows = [
            {"name": name, "values": row.tolist()}
            for name, tensor in tensors.items()
            for row in torch.atleast_2d(tensor)
        ]
        about = {
            "format": GEOMETRY_FORMAT,
            "kind": geometry.kind,
            "version": version,
            "recipe": recipe,
            "counts": {name: scale.count for name, scale in geometry.scales.items()},
        }

        def write() -> None:
            table = create_table(self.database, self.location, GEOMETRY, NAMED_VECTORS)
            if _about(table).get("version", 0) <= version:
                _replace(table, rows, about)

        commit(self.location, write)

    def read(self, version: int, dimension: int) -> Geometry | None:
        """The geometry of this version of the items, or None when none is kept."""
        about, rows = self._read()
        if (about.get("format"), about.get("version")) != (GEOMETRY_FORMAT, version):
            return None
        tensors: dict[str, list[list[float]]] = {}
        for row in rows:
            tensors.setdefault(row["name"], []).append(row["values"])
        means: Any = {
            tuple(name.split(":")[1:]): torch.tensor(mean[0])
            for name, mean in tensors.items()
            if name.startswith("mean:")
        }
        transform = tensors.get("transform")
        scales = {}
        for name, count in about["counts"].items():
            documents, prior = (tensors.get(f"{k}:{name}", []) for k in ("documents", "prior"))
            empty = torch.empty(0, dimension)
            scales[name] = Scale(
                torch.tensor(documents), count, torch.tensor(prior) if prior else empty
            )
        return Geometry(
            about["kind"], means, None if transform is None else torch.tensor(transform), scales
        )

    def recipe(self) -> dict[str, Any] | None:
        """The recipe behind the geometry that was kept last, of whatever version."""
        about, _ = self._read(rows=False)
        return about.get("recipe")

    def _read(self, rows: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The table's description and its rows; both empty when there is none. Retried, for a
        process that replaces the table removes the files that are being read."""

        def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            with storage_errors(self.location):
                table = open_table(self.database, GEOMETRY)
            if table is None:
                return {}, []
            return _about(table), table.to_arrow().to_pylist() if rows else []

        return commit(self.location, read)


def _about(table: Any) -> dict[str, Any]:
    """A table's description; empty when the table was created and never written."""
    return json.loads((table.schema.metadata or {}).get(ABOUT, b"{}"))


def _replace(table: Any, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Replace all rows in one commit, which fails when the table has changed since it was opened.
    Old versions are removed: a transform of 3584 dimensions takes 51 MB."""
    schema = NAMED_VECTORS.with_metadata({ABOUT: json.dumps(about).encode()})
    table.add(pa.Table.from_pylist(rows, schema=schema), mode="overwrite")
    clear(table)
