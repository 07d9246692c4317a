"""Store: a LanceDB folder (or object-store URL) of items with their raw vectors.

Every write is one atomic commit of LanceDB, retried when another process committed first. An index
on `id` keeps look-ups and commits as fast in a large store as in a small one; one on `words` serves
lexical search. The identity of what made the vectors is part of the table's schema, so the two can
never part. Vectors are raw: the geometry is fitted on them and kept in a side table
(`freeret.store.fitted`), so it can change without encoding again.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lancedb
import pyarrow as pa

from freeret.store.commits import (
    alone,
    check_place,
    commit,
    compact,
    compaction_due,
    create_table,
    index_columns,
    open_table,
    storage_errors,
)
from freeret.store.filters import Selection, id_conditions
from freeret.store.fitted import GeometryTable
from freeret.store.identity import differences, in_words
from freeret.store.payload import UNPACKED, Record, record_schema, text_of, unpack
from freeret.store.rows import LOADED, Loaded, query
from probes.errors import NotStored, StoreError, StoreMismatch
from probes.geometry import Geometry
from probes.items import Item

log = logging.getLogger(__name__)
T = TypeVar("T")

ITEMS = "items"
IDENTITY = b"freeret"
BLOCK_BYTES = 2**27
"""Bytes of vectors read at once unless a smaller block is asked for; larger ones are no faster."""
RECORDED = ("recipe", "loading", "backbone.versions", "backbone.model", "backbone.revision")
"""Keys of the identity that are recorded but decide no vector."""


@dataclass(frozen=True)
class Written:
    """Rows that one commit added and replaced."""

    added: int
    replaced: int


class Store:
    """The items table of a store. Open with `Store.create` or `Store.open`."""

    def __init__(self, location: str | Path, database: Any, table: Any):
        self.location, self.database, self.table = str(location), database, table
        if IDENTITY not in (table.schema.metadata or {}):
            raise StoreError(f"{location} holds a table {ITEMS!r} that is no store of this project")
        self.identity: dict[str, Any] = json.loads(table.schema.metadata[IDENTITY])
        self._geometry = GeometryTable(database, self.location)
        self._last = self._alone_since = self.version
        """The version that the last write left, and the one after which only this object wrote."""

    @classmethod
    def create(cls, location: str | Path, identity: dict[str, Any], dimension: int) -> "Store":
        """Make an empty store, or open the one that is there.

        Args:
            location: Folder or object-store URL.
            identity: What makes the vectors; see
                `freeret.store.identity.store_identity`.

        Raises:
            StoreMismatch: The store that is there was made with another identity.
            StoreError: The place cannot be written.
            BadSetting: The location is neither a path nor a URL.
        """
        check_place(location)
        schema = record_schema(dimension, {IDENTITY: json.dumps(identity).encode()})
        with storage_errors(location):
            database = lancedb.connect(str(location))
            store = cls(location, database, create_table(database, location, ITEMS, schema))
        store.require(identity)
        index_columns(store.table, location)
        return store

    @classmethod
    def open(cls, location: str | Path) -> "Store":
        """Open a store. Raises StoreError when there is none, or when it cannot be read."""
        if not cls.exists(location):
            raise StoreError(f"there is no store at {location}; make one with `freeret index`")
        with storage_errors(location):
            database = lancedb.connect(str(location))
            return cls(location, database, database.open_table(ITEMS))

    @staticmethod
    def exists(location: str | Path) -> bool:
        """Whether there is a table of items at a location."""
        check_place(location)
        with storage_errors(location):
            if "://" not in str(location) and not Path(location).is_dir():
                return False
            return open_table(lancedb.connect(str(location)), ITEMS) is not None

    def require(self, identity: dict[str, Any], allowed: Container[str] = ()) -> None:
        """Check that the store was made the same way.

        Keys in RECORDED are informational and may differ: the geometry is refitted, and a model's
        path does not affect its vectors.

        Args:
            identity: What would be used now.
            allowed: Further keys of `freeret.store.identity.flat` that may differ.

        Raises:
            StoreMismatch: Another key differs; the message says how.
        """
        different = differences(self.identity, identity)
        decisive = [k for k in different if not k.startswith(RECORDED) and k not in allowed]
        if decisive:
            remedy = (
                "Use the model and the settings that made it, or another folder"
                if len(self)
                else "It holds no items: delete it, or use another folder"
            )
            raise StoreMismatch(
                f"{self.location} {in_words(self.identity, identity, decisive)}. {remedy}"
            )

    def __repr__(self) -> str:
        """Needs neither the disk nor the network."""
        model = self.identity["backbone"]["model"]
        return f"Store({self.location!r}, made with {model!r}, {self.dimension} dimensions)"

    def __len__(self) -> int:
        with storage_errors(self.location):
            return self.table.count_rows()

    @property
    def version(self) -> int:
        """Version of the items table. It grows with every write."""
        return self.table.version

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.table.schema.field("vector").type.list_size

    @property
    def has_words(self) -> bool:
        """Whether items are stored with their words; a store of an earlier version has none."""
        return "words" in self.table.schema.names

    def refresh(self) -> None:
        """See what other processes have written since the store was opened."""
        with storage_errors(self.location):
            self.table.checkout_latest()

    # -- write ---------------------------------------------------------------------------------

    def write(self, records: Sequence[Record], absent: int | None = None) -> Written:
        """Upsert rows by id in one commit; safe beside other processes that write.

        Args:
            records: The rows, each with an id of its own.
            absent: A version of the store that held none of these ids, if that is known. Unless
                anyone else has written since, the rows are appended, which is faster.

        Returns:
            How many rows were added and replaced.
        """
        if not records:
            return Written(0, 0)
        data = pa.Table.from_pylist([vars(record) for record in records], schema=self.table.schema)
        before = self._last
        with alone(self.location, ITEMS, "write") as locked:
            self.refresh()
            if self.version != self._last:
                self._alone_since = self.version
            if locked and absent is not None and absent >= self._alone_since:
                self._last = self._commit(lambda: self.table.add(data)).version
                written = Written(len(records), 0)
            else:
                done = self._commit(lambda: self._upsert().execute(data))
                self._last = done.version
                written = Written(done.num_inserted_rows, done.num_updated_rows)
        if compaction_due(before, self._last):
            self.compact()
        else:
            index_columns(self.table, self.location)
        return written

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items, one commit per IDS of them; returns the number of items removed."""
        return sum(
            self._commit(lambda where=where: self.table.delete(where)).num_deleted_rows
            for where in id_conditions(ids)
        )

    def remove_if_empty(self) -> bool:
        """Delete a store that holds no items, and its folder if nothing else is in it. Only for a
        store that no other process uses.

        Returns:
            Whether the store was deleted.
        """
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
        """Copy all items of another store into this one."""
        rows = other.table.to_arrow()
        if not other.has_words:
            rows = rows.append_column(
                "words", [[text_of(parts) for parts in rows["parts"].to_pylist()]]
            )
        self._commit(lambda: self._upsert().execute(rows))

    def compact(self) -> None:
        """Merge the small fragments that many commits leave, and index all ids; of several
        processes one does it. A failure is only logged, for an uncompacted store works as well."""
        try:
            compact(self.table, self.location)
        except StoreError as error:
            log.warning("not compacted: %s", error)

    # -- read ----------------------------------------------------------------------------------

    def hashes(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Content hash by id, of all items or of those of `ids` that are stored."""
        return dict(self._pairs("hash", ids))

    def parts(
        self, ids: Sequence[str] | None = None, within: str | None = None
    ) -> Iterator[tuple[str, str]]:
        """Id and packed parts (`freeret.store.payload`) of items.

        Args:
            ids: The items; ids that are not stored are left out. None for all items.
            within: SQL condition instead of ids.
        """
        return self._pairs("parts", ids, within)

    def words(self, ids: Sequence[str]) -> dict[str, str]:
        """What lexical search reads of each of these items; nothing where no words are stored."""
        return dict(self._pairs("words", ids)) if self.has_words else {}

    def selected(self, selection: Selection) -> list[str]:
        """The ids of all items that a selection lets through."""
        columns = ("id", "signature", "metadata")
        return [
            row["id"]
            for batch in self.stream(query(self.table, columns, selection.sql()))
            for row in batch.to_pylist()
            if selection.takes_signature(row["signature"])
            and selection.takes_metadata(json.loads(row["metadata"]))
        ]

    def signatures(self) -> dict[str, int]:
        """Number of items per modality signature."""
        return dict(Counter(self._columns("signature")["signature"].to_pylist()))

    def metadata(self) -> Iterator[dict[str, Any]]:
        """The metadata of every item."""
        for batch in self.stream(query(self.table, ["metadata"])):
            yield from map(json.loads, batch["metadata"].to_pylist())

    def vectors(self, ids: Sequence[str] | None = None) -> Loaded:
        """Raw vectors with ids, signatures and metadata, sorted by id: of all items, or of those of
        `ids` that are stored."""
        conditions = [None] if ids is None else id_conditions(ids) or ["false"]
        parts = [self._columns(*LOADED, where=where) for where in conditions]
        rows = pa.concat_tables(parts)
        return Loaded.read(rows.sort_by("id"))

    def blocks(
        self, rows: int | None = None, *, metadata: bool = False, where: str | None = None
    ) -> Iterator[Loaded]:
        """Raw vectors in the order of the disk, in blocks of at most `rows` items, by default of as
        many as take BLOCK_BYTES; `where` is an SQL condition."""
        names = [name for name in LOADED if metadata or name != "metadata"]
        for batch in self.stream(query(self.table, names, where), rows):
            yield Loaded.read(batch)

    def items(self, ids: Sequence[str]) -> list[Item]:
        """Stored items in the order of `ids`. Raises NotStored, naming the first missing id."""
        items: dict[str, Item] = {}
        for where in id_conditions(ids):
            rows = self._columns(*UNPACKED, where=where).to_pylist()
            items |= {row["id"]: unpack(**row) for row in rows}
        if missing := [id for id in ids if id not in items]:
            raise NotStored(
                f"store {self.location} holds no item {missing[0]!r}"
                + (f", nor {len(missing) - 1} more of those asked for" if len(missing) > 1 else "")
            )
        return [items[id] for id in ids]

    def stream(self, source: Any, rows: int | None = None) -> Iterator[pa.RecordBatch]:
        """The result of a query in batches; the next batch is read while one is worked on.

        Args:
            source: A query of LanceDB over a table of this store.
            rows: Most rows of a batch; by default as many as take BLOCK_BYTES.
        """
        with storage_errors(self.location), ThreadPoolExecutor(1) as reader:
            batches = iter(source.to_batches(rows or max(1, BLOCK_BYTES // (4 * self.dimension))))
            ahead = reader.submit(next, batches, None)
            while (batch := ahead.result()) is not None:
                ahead = reader.submit(next, batches, None)
                yield batch

    def extra(self, name: str) -> Any:
        """Another table of the store, or None."""
        with storage_errors(self.location):
            return open_table(self.database, name)

    # -- geometry ------------------------------------------------------------------------------

    def geometry(self) -> Geometry | None:
        """The kept geometry, or None when none is kept for this version of the items."""
        return self._geometry.read(self.version, self.dimension)

    def save_geometry(self, geometry: Geometry, recipe: dict[str, Any] | None = None) -> None:
        """Keep the geometry fitted on this version of the items, and the recipe behind it, unless
        one of a later version is kept already. Raises StoreError."""
        self._geometry.save(geometry, self.version, recipe or self.recipe())

    def keep_geometry(self, geometry: Geometry, recipe: dict[str, Any] | None = None) -> None:
        """`save_geometry` for a search, which must not need the right to write: a fault is only
        logged."""
        try:
            self.save_geometry(geometry, recipe)
        except StoreError as error:
            log.warning("the geometry is not kept, and will be fitted again: %s", error)

    def recipe(self) -> dict[str, Any]:
        """The recipe in use: that of the last geometry, else that of the creation."""
        return self._geometry.recipe() or self.identity.get("recipe", {})

    # -- plumbing ------------------------------------------------------------------------------

    def _columns(self, *names: str, where: str | None = None) -> pa.Table:
        with storage_errors(self.location):
            return query(self.table, names, where).to_arrow()

    def _pairs(
        self, column: str, ids: Sequence[str] | None, within: str | None = None
    ) -> Iterator[tuple[str, Any]]:
        """Id and one column, of all items, of these ids, or of those within a condition."""
        for where in [within] if ids is None else id_conditions(ids):
            for batch in self.stream(query(self.table, ["id", column], where)):
                yield from zip(batch["id"].to_pylist(), batch[column].to_pylist(), strict=True)

    def _upsert(self) -> Any:
        merge = self.table.merge_insert("id").when_matched_update_all()
        return merge.when_not_matched_insert_all()

    def _commit(self, write: Callable[[], T]) -> T:
        """`commit` on top of the latest version of the items."""
        return commit(self.location, write, self.table)
