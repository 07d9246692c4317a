"""Store: a LanceDB folder (or object-store URL) of items, their raw vectors and their geometry.

Every write is one atomic commit of LanceDB, tried again where another process was faster. The
identity of what made the vectors travels in the schema of the table, so the two can never part.
Vectors are raw: the geometry is fitted over them and kept beside, and can be changed without
encoding again. Geometry and reference vectors are a cache: anybody can compute them again, so a
search that cannot keep them goes on without.
"""

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import lancedb
import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from jaxtyping import Float
from torch import Tensor

from freeret.store.filters import Selection
from freeret.store.identity import differences, in_words
from freeret.store.payload import unpack
from probes.errors import BadSetting, FreeRetError, NotStored, StoreError, StoreMismatch
from probes.geometry import Geometry, Scale
from probes.items import Item

log = logging.getLogger(__name__)
T = TypeVar("T")

ITEMS, GEOMETRY = "items", "geometry"
GEOMETRY_FORMAT = 2
"""Raised when a geometry is written or fitted in another way: older ones are then fitted anew."""
IDENTITY = b"freeret"
PRIMARY_KEY = {b"lance-schema:unenforced-primary-key": b"true"}
"""With it Lance sees that two commits at once insert the same id, and tries the later one again;
without it both would stay. A primary key cannot be null."""
BLOCK_BYTES = 2**27
"""Vectors read at once where a block is not asked to be smaller; more is no faster."""
RECORDED = ("recipe", "loading", "backbone.versions", "backbone.model", "backbone.revision")
"""What the identity records without deciding any vector."""
IDS = 10_000
"""Ids looked up by one query: it is parsed whole, which takes kilobytes of memory an id."""
PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds before each further try of a commit that lost a race, more or less by chance."""
LOST_RACE = re.compile(
    r"commit conflict|concurrent (transaction|writers|commit)|please retry|not found: \S+\.lance/",
    re.IGNORECASE,
)
"""What LanceDB says when a commit may succeed on top of the one that came before it, or when files
of the version that is read were removed because there is a later one."""


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
        cannot be written, BadSetting when it is no path.
        """
        check_place(location)
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
            store = cls(location, database, create(database, location, ITEMS, schema))
        store.require(identity)
        return store

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
        check_place(location)
        with storage_errors(location):
            if "://" not in str(location) and not Path(location).is_dir():
                return False
        with storage_errors(location):
            return _opened(lancedb.connect(str(location)), ITEMS) is not None

    def require(self, identity: dict[str, Any], allowed: Container[str] = ()) -> None:
        """Raise StoreMismatch, saying what differs, unless the store was made the same way.

        What is only RECORDED may differ: a geometry is fitted anew, and a model that has moved has
        the same weights. So may the keys that are `allowed`.
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
        """Without a look at the disk or the network."""
        model = self.identity["backbone"]["model"]
        return f"Store({self.location!r}, made with {model!r}, {self.dimension} dimensions)"

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

    def parts(
        self, ids: Sequence[str] | None = None, within: str | None = None
    ) -> Iterator[tuple[str, str]]:
        """Id and packed parts (`freeret.store.payload`) of the ids given that are stored, or of all
        for which the SQL condition `within` holds."""
        wanted = [within] if ids is None else map(_any_of, batches_of(ids))
        for condition in wanted:
            query = self.table.search().select(["id", "parts"]).limit(None)
            for batch in stream(query if condition is None else query.where(condition), self):
                yield from zip(batch["id"].to_pylist(), batch["parts"].to_pylist(), strict=True)

    def write(self, records: Sequence[Record]) -> "Written":
        """Insert, or replace by id, in one commit; safe beside other processes that write."""
        if not records:
            return Written(0, 0)
        data = pa.Table.from_pylist([vars(record) for record in records], schema=self.table.schema)
        done = self._commit(lambda: self._upsert().execute(data))
        return Written(done.num_inserted_rows, done.num_updated_rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove items, each batch of IDS in one commit; returns how many there were."""
        return sum(
            self._commit(lambda some=some: self.table.delete(_any_of(some))).num_deleted_rows
            for some in batches_of(ids)
        )

    def stored(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are stored."""
        found: set[str] = set()
        for some in batches_of(ids):
            query = self.table.search().select(["id"]).where(_any_of(some)).limit(None)
            for batch in stream(query, self):
                found.update(batch["id"].to_pylist())
        return found

    def selected(self, selection: Selection) -> list[str]:
        """The ids of all items that are selected."""
        query = self.table.search().select(["id", "signature", "metadata"]).limit(None)
        where = selection.sql()
        return [
            row["id"]
            for batch in stream(query.where(where) if where else query, self)
            for row in batch.to_pylist()
            if selection.takes_signature(row["signature"])
            and selection.takes_metadata(json.loads(row["metadata"]))
        ]

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
        self._commit(lambda: self._upsert().execute(other.table.to_arrow()))

    def compact(self) -> None:
        """Merge the small fragments that many commits leave.

        Of several processes that finish together one does it, and the others find it done; on an
        object store those that begin together do it once each, and one result stays. What cannot be
        compacted serves as well as before, so nothing is raised.
        """
        try:
            with alone(self.location, ITEMS):
                self._commit(lambda: self.table.optimize(cleanup_older_than=timedelta(days=1)))
        except StoreError as error:
            log.warning("not compacted: %s", error)

    @property
    def dimension(self) -> int:
        return self.table.schema.field("vector").type.list_size

    def signatures(self) -> dict[str, int]:
        """How many items of each modality signature."""
        return dict(Counter(self._columns("signature")["signature"].to_pylist()))

    def vectors(self, ids: Sequence[str] | None = None) -> "Loaded":
        """Raw vectors with ids, signatures and metadata, sorted by id: all, or those of the ids
        given that are stored."""
        rows = self._columns(*LOADED, where=None if ids is None else _any_of(ids))
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
        """The stored items, in the order asked for. Raises NotStored, naming an id that is not."""
        columns = ["id", "parts", "blobs", "metadata"]
        found: dict[str, Item] = {}
        for some in batches_of(ids):
            query = self.table.search().where(_any_of(some)).select(columns)
            with storage_errors(self.location):
                rows = query.limit(len(some)).to_list()
            found |= {row["id"]: unpack(**{name: row[name] for name in columns}) for row in rows}
        if missing := [id for id in ids if id not in found]:
            raise NotStored(
                f"store {self.location} holds no item {missing[0]!r}"
                + (f", nor {len(missing) - 1} more of those asked for" if len(missing) > 1 else "")
            )
        return [found[id] for id in ids]

    # -- geometry ------------------------------------------------------------------------------

    def keep_geometry(self, geometry: Geometry, recipe: dict[str, Any] | None = None) -> None:
        """`save_geometry`, where the store can be written: a search must not need the right to."""
        try:
            self.save_geometry(geometry, recipe)
        except StoreError as error:
            log.warning("the geometry is not kept, and will be fitted again: %s", error)

    def save_geometry(self, geometry: Geometry, recipe: dict[str, Any] | None = None) -> None:
        """Keep the geometry fitted on this version of the items, and the recipe behind it, unless
        one of a later version is kept already. Raises StoreError."""
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
        version = self.version
        about = {
            "format": GEOMETRY_FORMAT,
            "kind": geometry.kind,
            "version": version,
            "recipe": recipe or self.recipe(),
            "counts": {name: scale.count for name, scale in geometry.scales.items()},
        }

        def write() -> None:
            table = create(self.database, self.location, GEOMETRY, SIDE)
            if _about(table).get("version", 0) <= version:
                _replace(table, rows, about)

        commit(self.location, write)

    def geometry(self) -> Geometry | None:
        """The saved geometry, or None when there is none for this version of the items."""
        about, rows = self._side(GEOMETRY)
        if (about.get("format"), about.get("version")) != (GEOMETRY_FORMAT, self.version):
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
            empty = torch.empty(0, self.dimension)
            scales[name] = Scale(
                torch.tensor(documents), count, torch.tensor(prior) if prior else empty
            )
        return Geometry(
            about["kind"], means, None if transform is None else torch.tensor(transform), scales
        )

    def recipe(self) -> dict[str, Any]:
        """The recipe in use: that of the last geometry, else that of the creation."""
        about, _ = self._side(GEOMETRY, rows=False)
        return about.get("recipe") or self.identity.get("recipe", {})

    # -- plumbing ------------------------------------------------------------------------------

    def _columns(self, *names: str, where: str | None = None) -> pa.Table:
        query = self.table.search().select(list(names)).limit(None)
        with storage_errors(self.location):
            return (query.where(where) if where else query).to_arrow()

    def extra(self, name: str) -> Any:
        """Another table of the store, or None."""
        with storage_errors(self.location):
            return _opened(self.database, name)

    def _side(self, name: str, rows: bool = True) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What a side table says of itself, and its rows; both empty where there is none. Whoever
        replaces it removes its old files, so they may go while they are read."""

        def read() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            table = self.extra(name)
            if table is None:
                return {}, []
            return _about(table), table.to_arrow().to_pylist() if rows else []

        return commit(self.location, read)

    def _upsert(self) -> Any:
        merge = self.table.merge_insert("id").when_matched_update_all()
        return merge.when_not_matched_insert_all()

    def _commit(self, write: Callable[[], T]) -> T:
        """`commit`, on top of the latest version of the items."""

        def attempt() -> T:
            self.table.checkout_latest()
            return write()

        return commit(self.location, attempt)


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


# -- tables, and several processes at once ----------------------------------------------------

SIDE = pa.schema({"name": pa.string(), "values": pa.list_(pa.float32())})
"""Of a side table: named vectors, a row each."""


def commit(location: str | Path, write: Callable[[], T]) -> T:
    """Run `write`, and again after a pause where another process was faster.

    `write` must take in the present state each time. Raises StoreError: at once for any other
    fault, and after as many further tries as there are PAUSES.
    """
    for pause in PAUSES:
        try:
            with storage_errors(location):
                return write()
        except StoreError as error:
            if not LOST_RACE.search(str(error)):
                raise
            log.info("tried again: %s", error)
        time.sleep(pause * random.uniform(0.5, 1.5))
    with storage_errors(location):
        return write()


def check_place(location: Any) -> None:
    """Raise BadSetting for what is no path and no URL."""
    if not isinstance(location, str | Path) or not str(location).strip():
        raise BadSetting(f"a store is a folder or an object-store URL, not {location!r}")


@contextmanager
def alone(location: str | Path, name: str) -> Iterator[None]:
    """One process at a time works on a table of a folder, the others wait. An object store has no
    such lock."""
    place = str(location)
    with storage_errors(location):
        if "://" in place and not place.startswith("file://"):
            yield
            return
        folder = Path(unquote(place.removeprefix("file://")) if "://" in place else place)
        folder = folder / f"{name}.lance"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", mode=0o666):  # less what the umask takes away
            yield


def create(database: Any, location: str | Path, name: str, schema: pa.Schema) -> Any:
    """The table of this name; an empty one where there was none.

    LanceDB lets a creation that began before another one ended replace its table. In a folder the
    lock prevents that; on an object store the later one puts back what it has replaced.
    """
    table = _opened(database, name)
    if table is not None:
        return table
    with alone(location, name):
        table = _opened(database, name)
        if table is not None:
            return table
        try:
            table = database.create_table(name, schema=schema)
        except ValueError:  # made meanwhile
            return database.open_table(name)
        replaced = table.version - 1
        if replaced:
            commit(location, lambda: _put_back(table, replaced))
        return table


def _put_back(table: Any, version: int) -> None:
    """Undo the replacement of a table's `version` by an empty one; what was written since stays."""
    made = table.schema
    table.checkout(version)
    if table.schema.metadata != made.metadata:
        table.restore()
        return
    lost = table.to_arrow()
    table.checkout_latest()
    table.merge_insert(made.names[0]).when_not_matched_insert_all().execute(lost)


def _opened(database: Any, name: str) -> Any:
    """A table, or None where it is not there, or where a creation was cut short."""
    try:
        return database.open_table(name)
    except ValueError as error:
        if "was not found" in str(error):
            return None
        raise


def _about(table: Any) -> dict[str, Any]:
    """What a side table says of itself; empty of one that was made and not written."""
    return json.loads((table.schema.metadata or {}).get(IDENTITY, b"{}"))


def _replace(table: Any, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Put rows in place of a side table's, in one commit that fails where the table has changed
    since it was opened. Versions that nobody needs go; a transform of 3584 dimensions is 51 MB."""
    schema = SIDE.with_metadata({IDENTITY: json.dumps(about).encode()})
    table.add(pa.Table.from_pylist(rows, schema=schema), mode="overwrite")
    clear(table)


def clear(table: Any) -> None:
    """Remove old versions of a table, but no file of a commit that may be under way."""
    try:
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    except Exception as error:  # another process is at it; the next one will do it
        log.info("old versions are not removed: %s", error)


def batches_of(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """At most IDS of them at a time."""
    return (ids[start : start + IDS] for start in range(0, len(ids), IDS))


def _any_of(ids: Sequence[str]) -> str:
    """SQL that holds for these ids."""
    return "id IN ({})".format(", ".join("'" + id.replace("'", "''") + "'" for id in ids))


@contextmanager
def storage_errors(location: str | Path) -> Iterator[None]:
    """LanceDB reports storage faults in errors of many types; say what to do."""
    try:
        yield
    except FreeRetError:
        raise
    except Exception as error:  # of many types, a panic of its own among them
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        hint = "check that the place exists, is writable and has room; nothing half-written is kept"
        raise StoreError(f"store {location}: {reason} ({hint})") from error
