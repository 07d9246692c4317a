"""Store: a LanceDB folder (or object-store URL) of items, their raw vectors and their geometry.

Every write is one atomic commit of LanceDB. The identity of what made the vectors travels in the
schema of the table, so the two can never part. Vectors are raw: the geometry is fitted over them
and kept beside, and can be changed without encoding again.
"""

import json
import logging
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from freeret.identity import differences, in_words
from freeret.payload import unpack
from probes.errors import StoreError, StoreMismatch
from probes.geometry import Geometry
from probes.items import Item

log = logging.getLogger(__name__)

ITEMS, GEOMETRY, OWN = "items", "geometry", "own"
IDENTITY = b"freeret"
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""With it Lance sees that two commits at once insert the same id, and tries the later one again;
without it both would stay. A primary key cannot be null."""
BLOCK_BYTES = 2**27
"""Vectors read at once where a block is not asked to be smaller; more is no faster."""
RECORDED = ("recipe", "backbone.versions", "backbone.model", "backbone.revision")
"""What the identity records without deciding any vector."""


@dataclass(frozen=True)
class Record:
    """One row to write: an item's payload and its raw vector."""

    id: str
    hash: str
    signature: str
    parts: str
    blobs: list[bytes]
    metadata: str
    vector: Float[np.ndarray, " hidden"]


class Store:
    """Open with `Store.create` or `Store.open`."""

    def __init__(self, location: str | Path, database: Any, table: Any):
        self.location, self.database, self.table = str(location), database, table
        if IDENTITY not in (table.schema.metadata or {}):
            raise StoreError(f"{location} holds a table {ITEMS!r} that is no store of this project")
        self.identity: dict[str, Any] = json.loads(table.schema.metadata[IDENTITY])

    @classmethod
    def create(cls, location: str | Path, identity: dict[str, Any], dimension: int) -> "Store":
        """Make an empty store, or open the one that is there.

        Raises StoreMismatch when it was made with another identity, StoreError when the place
        cannot be written.
        """
        if cls.exists(location):
            store = cls.open(location)
            store.require(identity)
            return store
        schema = pa.schema(
            {
                "hash": pa.string(),
                "signature": pa.string(),
                "parts": pa.string(),
                "blobs": pa.list_(pa.binary()),
                "metadata": pa.string(),
                "vector": pa.list_(pa.float32(), dimension),
            },
            metadata={IDENTITY: json.dumps(identity).encode()},
        ).insert(0, pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY))
        with storage_errors(location):
            database = lancedb.connect(str(location))
            try:
                table = database.create_table(ITEMS, schema=schema)
            except ValueError:  # another process is making it or has made it, or was cut short
                for _ in range(5):
                    if _holds(database, location, ITEMS):
                        return cls.create(location, identity, dimension)
                    time.sleep(0.1)
                table = database.create_table(ITEMS, schema=schema, mode="overwrite")
            return cls(location, database, table)

    @classmethod
    def open(cls, location: str | Path) -> "Store":
        """Raises StoreError when there is no readable store."""
        if not cls.exists(location):
            raise StoreError(f"there is no store at {location}; make one with `freeret index`")
        with storage_errors(location):
            database = lancedb.connect(str(location))
            return cls(location, database, database.open_table(ITEMS))

    @staticmethod
    def exists(location: str | Path) -> bool:
        if "://" not in str(location) and not Path(location).is_dir():
            return False
        with storage_errors(location):
            return _holds(lancedb.connect(str(location)), location, ITEMS)

    def require(self, identity: dict[str, Any]) -> None:
        """Raise StoreMismatch, saying what differs, unless the store was made the same way.

        What is only RECORDED may differ: a geometry is fitted anew, and a model that has moved has
        the same weights.
        """
        different = differences(self.identity, identity)
        decisive = [key for key in different if not key.startswith(RECORDED)]
        if decisive:
            remedy = (
                "Use the model and the settings that made it, or another folder"
                if len(self)
                else "It holds no items: delete it, or use another folder"
            )
            raise StoreMismatch(
                f"{self.location} {in_words(self.identity, identity, decisive)}. {remedy}"
            )

    def __len__(self) -> int:
        with storage_errors(self.location):
            return self.table.count_rows()

    @property
    def version(self) -> int:
        """Grows with every write."""
        return self.table.version

    def refresh(self) -> None:
        """Take in what other processes have written since the store was opened."""
        with storage_errors(self.location):
            self.table.checkout_latest()

    def hashes(self, among: Container[str] | None = None) -> dict[str, str]:
        """Content hash by id of everything stored, or of the ids `among` contains."""
        found: dict[str, str] = {}
        for batch in stream(self.table.search().select(["id", "hash"]).limit(None), self):
            pairs = zip(batch["id"].to_pylist(), batch["hash"].to_pylist(), strict=True)
            found.update((id, hash) for id, hash in pairs if among is None or id in among)
        return found

    def write(self, records: Sequence[Record]) -> "Written":
        """Insert, or replace by id, in one commit; safe beside other processes that write."""
        if not records:
            return Written(0, 0)
        data = pa.Table.from_pylist([vars(record) for record in records], schema=self.table.schema)
        with storage_errors(self.location):
            merge = self.table.merge_insert("id").when_matched_update_all()
            done = merge.when_not_matched_insert_all().execute(data)
        return Written(done.num_inserted_rows, done.num_updated_rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items; returns how many there were."""
        before = len(self)
        quoted = ", ".join("'" + id.replace("'", "''") + "'" for id in ids)
        if ids:
            with storage_errors(self.location):
                self.table.delete(f"id IN ({quoted})")
        return before - len(self)

    def remove_if_empty(self) -> bool:
        """Delete a store that holds no items, with its folder when nothing else is in it; returns
        whether it was deleted. Only for a store that no other process uses."""
        self.refresh()
        if len(self):
            return False
        with storage_errors(self.location):
            self.database.drop_all_tables()
        if "://" not in self.location:
            with suppress(OSError):
                Path(self.location).rmdir()
        return True

    def take(self, other: "Store") -> None:
        """Copy everything of another store into this one."""
        with storage_errors(self.location):
            merge = self.table.merge_insert("id").when_matched_update_all()
            merge.when_not_matched_insert_all().execute(other.table.to_arrow())

    def compact(self) -> None:
        """Merge the small fragments that many commits leave, unless another process is at it."""
        with storage_errors(self.location):
            try:
                self.table.optimize(cleanup_older_than=timedelta(days=1))
            except RuntimeError as error:
                if "commit conflict" not in str(error):
                    raise
                log.info("store %s is not compacted: another process writes", self.location)

    @property
    def dimension(self) -> int:
        return self.table.schema.field("vector").type.list_size

    def signatures(self) -> dict[str, int]:
        """How many items of each modality signature."""
        return dict(Counter(self._columns("signature")["signature"].to_pylist()))

    def vectors(self) -> "Loaded":
        """All raw vectors with ids, signatures and metadata, sorted by id."""
        rows = self._columns(*LOADED)
        return Loaded.read(rows.sort_by("id"))

    def blocks(
        self, rows: int | None = None, *, metadata: bool = False, where: str | None = None
    ) -> Iterator["Loaded"]:
        """The same, at most so many rows at a time and in the order of the disk; metadata only
        when asked for. `where` is an SQL condition."""
        names = [name for name in LOADED if metadata or name != "metadata"]
        query = self.table.search().select(names).limit(None)
        for batch in stream(query.where(where) if where else query, self, rows):
            yield Loaded.read(batch)

    def items(self, ids: Sequence[str]) -> list[Item]:
        """The stored items, in the order asked for."""
        quoted = ", ".join("'" + id.replace("'", "''") + "'" for id in ids)
        columns = ["id", "parts", "blobs", "metadata"]
        with storage_errors(self.location):
            query = self.table.search().where(f"id IN ({quoted})").select(columns)
            rows = query.limit(len(ids)).to_list() if ids else []
        found = {row["id"]: unpack(**{name: row[name] for name in columns}) for row in rows}
        return [found[id] for id in ids]

    # -- geometry, and the probe's own vectors that help to fit it -----------------------------

    def save_geometry(self, geometry: Geometry, recipe: dict[str, Any] | None = None) -> None:
        """Keep the geometry fitted on this version of the items, and the recipe behind it."""
        tensors = {f"{side}:{signature}": m for (side, signature), m in geometry.means.items()}
        if geometry.transform is not None:
            tensors["transform"] = geometry.transform
        rows = [{"name": k, "values": t.flatten().tolist()} for k, t in tensors.items()]
        kept = {"kind": geometry.kind, "version": self.version, "recipe": recipe or self.recipe()}
        about = json.dumps(kept).encode()
        self._replace(GEOMETRY, rows, {IDENTITY: about})

    def geometry(self) -> Geometry | None:
        """The saved geometry, or None when there is none for this version of the items."""
        table = self.extra(GEOMETRY)
        if table is None:
            return None
        about = json.loads(table.schema.metadata[IDENTITY])
        if about["version"] != self.version:
            return None
        with storage_errors(self.location):
            rows = table.to_arrow().to_pylist()
        tensors = {row["name"]: torch.tensor(row["values"]) for row in rows}
        transform = tensors.pop("transform", None)
        means: Any = {tuple(name.split(":", 1)): mean for name, mean in tensors.items()}
        size = int(len(transform) ** 0.5) if transform is not None else 0
        return Geometry(
            about["kind"], means, None if transform is None else transform.reshape(size, size)
        )

    def recipe(self) -> dict[str, Any]:
        """The recipe in use: that of the last geometry, else that of the creation."""
        table = self.extra(GEOMETRY)
        kept = json.loads(table.schema.metadata[IDENTITY])["recipe"] if table is not None else None
        return kept or self.identity.get("recipe", {})

    def save_own(self, own: dict[str, Tensor]) -> None:
        """Keep raw vectors of the probe's own items, by `side:signature`."""
        rows = [{"name": k, "values": row.tolist()} for k, rows in own.items() for row in rows]
        self._replace(OWN, rows, {})

    def own(self) -> dict[str, Tensor]:
        table = self.extra(OWN)
        with storage_errors(self.location):
            rows = table.to_arrow().to_pylist() if table is not None else []
        names = dict.fromkeys(row["name"] for row in rows)
        return {n: torch.tensor([r["values"] for r in rows if r["name"] == n]) for n in names}

    # -- plumbing ------------------------------------------------------------------------------

    def _columns(self, *names: str) -> pa.Table:
        with storage_errors(self.location):
            return self.table.search().select(list(names)).limit(None).to_arrow()

    def extra(self, name: str) -> Any:
        """Another table of the store, or None."""
        with storage_errors(self.location):
            there = _holds(self.database, self.location, name)
            return self.database.open_table(name) if there else None

    def _replace(self, name: str, rows: list[dict], metadata: dict[bytes, bytes]) -> None:
        schema = pa.schema(
            {"name": pa.string(), "values": pa.list_(pa.float32())}, metadata=metadata
        )
        with storage_errors(self.location):
            data = pa.Table.from_pylist(rows, schema=schema)
            table = self.database.create_table(name, data=data, schema=schema, mode="overwrite")
            table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)


@dataclass(frozen=True)
class Written:
    """What one commit did."""

    added: int
    replaced: int


LOADED = ("id", "signature", "metadata", "vector")


@dataclass(frozen=True)
class Loaded:
    """Rows in memory; all lists run parallel to the rows of `vectors`."""

    ids: list[str]
    signatures: list[str]
    metadata: list[dict[str, Any]]
    """Empty where it was not read."""
    vectors: Float[Tensor, "n hidden"]

    @classmethod
    def read(cls, rows: pa.Table | pa.RecordBatch) -> "Loaded":
        facts = rows["metadata"].to_pylist() if "metadata" in rows.schema.names else []
        signatures = rows["signature"].to_pylist()
        return cls(
            rows["id"].to_pylist(),
            signatures,
            [json.loads(f) for f in facts],
            matrix(rows["vector"]),
        )

    def by_signature(self) -> dict[str, Tensor]:
        """Raw vectors of each signature."""
        return {
            name: self.vectors[torch.tensor([s == name for s in self.signatures])]
            for name in dict.fromkeys(self.signatures)
        }


def matrix(column: pa.Array | pa.ChunkedArray) -> Float[Tensor, "n hidden"]:
    """A column of vectors as one tensor over Arrow's own memory: to be read, not written."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    size = whole.type.list_size  # `flatten` would copy
    values = whole.values.slice(whole.offset * size, len(whole) * size)
    return torch.from_dlpack(values).view(len(whole), size)


def stream(query: Any, store: Store, rows: int | None = None) -> Iterator[pa.RecordBatch]:
    """The answer to a query over vectors of the store, at most so many rows at a time; the next
    ones are read while these are worked on."""
    with storage_errors(store.location), ThreadPoolExecutor(1) as reader:
        batches = iter(query.to_batches(rows or max(1, BLOCK_BYTES // (4 * store.dimension))))
        ahead = reader.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = reader.submit(next, batches, None)
            yield batch


def _holds(database: Any, location: str | Path, name: str) -> bool:
    """Whether a table is there; a creation that was cut short leaves a folder that LanceDB lists
    but that holds nothing."""
    folder = Path(location, f"{name}.lance")
    hollow = folder.is_dir() and not any(folder.glob("_versions/*.manifest"))
    return not hollow and name in database.list_tables().tables


@contextmanager
def storage_errors(location: str | Path) -> Iterator[None]:
    """LanceDB reports storage faults as RuntimeError, OSError or ValueError; say what to do."""
    try:
        yield
    except (OSError, RuntimeError, ValueError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        hint = "check that the place exists, is writable and has room; nothing half-written is kept"
        raise StoreError(f"store {location}: {reason} ({hint})") from error
