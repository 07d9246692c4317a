"""LanceDB tables that several processes write at once: creation, commits, locks and clean-up."""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import pyarrow as pa
from filelock import FileLock
from lancedb.index import FTS, BTree

from probes.errors import BadSetting, FreeRetError, StoreError
from probes.measure.diagnostic.lexical import FULL_TEXT

log = logging.getLogger(__name__)
T = TypeVar("T")

PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Seconds to wait before each retry of a commit that lost a race, with 50% jitter."""
UNINDEXED = 2**14
"""Rows after which the index of a column is built again, from this column alone. Every look-up,
merge and lexical search reads the column of all rows that have come since."""
COMPACTED = 256
"""Commits before the first compaction of a long run: a commit writes the list of all fragments."""


@dataclass(frozen=True)
class ColumnIndex:
    """The index of a column of the items table."""

    column: str
    config: BTree | FTS
    share: int
    """In a large store the index is built again after 1/share of its rows instead of UNINDEXED."""

    @property
    def name(self) -> str:
        return f"{self.column}_idx"


BY_ID = ColumnIndex("id", BTree(), 64)
BY_WORD = ColumnIndex("words", FTS(**FULL_TEXT), 1)
"""English words are stemmed, and stop words left out."""
INDEXES = (BY_ID, BY_WORD)
LOST_RACE = re.compile(
    r"commit conflict|concurrent (transaction|writers|commit)|please retry|not found: \S+\.lance/",
    re.IGNORECASE,
)
"""Errors of LanceDB after which a commit may succeed on top of the latest version: another commit
came first, or the files of the version being read were removed because there is a later one."""


def commit(location: str | Path, write: Callable[[], T], table: Any = None) -> T:
    """Run `write`, and retry after a pause when another process committed first.

    Args:
        location: Where the store lies, for messages.
        write: The commit. It must read the latest state on each call.
        table: A table whose latest version is checked out before each call.

    Raises:
        StoreError: At once for any other fault; for a lost race after the last of PAUSES.
    """

    def attempt() -> T:
        with storage_errors(location):
            if table is not None:
                table.checkout_latest()
            return write()

    for pause in PAUSES:
        try:
            return attempt()
        except StoreError as error:
            if not LOST_RACE.search(str(error)):
                raise
            log.info("commit retried: %s", error)
        time.sleep(pause * random.uniform(0.5, 1.5))
    return attempt()


def check_place(location: Any) -> None:
    """Raise BadSetting for a location that is neither a path nor a URL."""
    if not isinstance(location, str | Path) or not str(location).strip():
        raise BadSetting(f"a store is a folder or an object-store URL, not {location!r}")


@contextmanager
def alone(location: str | Path, name: str, work: str = "") -> Iterator[bool]:
    """Hold a lock of one table of a local store, one for each kind of work.

    Yields:
        Whether there is such a lock: object stores have none.
    """
    place = str(location)
    with storage_errors(location):
        if "://" in place and not place.startswith("file://"):
            yield False
            return
        folder = Path(unquote(place.removeprefix("file://")) if "://" in place else place)
        folder = folder / f"{name}.lance"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{work}lock", mode=0o666):  # less what the umask takes away
            yield True


def create_table(database: Any, location: str | Path, name: str, schema: pa.Schema) -> Any:
    """Open a table, or create it empty.

    LanceDB lets a creation that began before another one ended replace its table. In a folder the
    lock prevents that; on an object store the later creation restores what it has replaced.
    """
    table = open_table(database, name)
    if table is not None:
        return table
    with alone(location, name):
        table = open_table(database, name)
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


def index_columns(table: Any, location: str | Path) -> None:
    """Index each column of INDEXES that the table has, unless its index covers all but a few rows.
    One process does it."""
    for index in INDEXES:
        if index.column in table.schema.names:
            _index(table, location, index)


def _index(table: Any, location: str | Path, index: ColumnIndex) -> None:
    def lags() -> bool:
        stats = table.index_stats(index.name)
        return stats is None or stats.num_unindexed_rows > max(
            UNINDEXED, stats.num_indexed_rows // index.share
        )

    with storage_errors(location):
        if not lags():
            return
    with alone(location, table.name):
        commit(
            location,
            lambda: (
                lags() and table.create_index(index.column, config=index.config, name=index.name)
            ),
            table,
        )


def compaction_due(before: int, version: int) -> bool:
    """Whether a long run is compacted after a commit: after COMPACTED versions, twice that, four
    times and so on, and in the end every 16 · COMPACTED. Compaction writes most rows again, and old
    files stay for a day, so that compaction at equal intervals would fill the disk.

    Args:
        before: Version after the last commit of this process.
        version: Version now.
    """
    interval = min(max(COMPACTED, 2 ** (version.bit_length() - 1)), 16 * COMPACTED)
    return version // interval > before // interval


def compact(table: Any, location: str | Path) -> None:
    """Merge the small fragments that many commits leave, and bring the indexes up to date.

    In a folder the first of several processes does it and the others find it done. On an object
    store, processes that begin together each do it, and one result stays.
    """

    def optimize() -> None:
        table.optimize(cleanup_older_than=timedelta(days=1))

    index_columns(table, location)
    with alone(location, table.name):
        commit(location, optimize, table)  # indexes new fragments
        commit(location, optimize, table)  # merges them: only fragments that are indexed alike are


def open_table(database: Any, name: str) -> Any:
    """A table, or None when there is none or its creation was cut short."""
    try:
        return database.open_table(name)
    except ValueError as error:
        if "was not found" in str(error):
            return None
        raise


def _put_back(table: Any, version: int) -> None:
    """Undo the replacement of a table's `version` by an empty one, keeping later writes."""
    made = table.schema
    table.checkout(version)
    if table.schema.metadata != made.metadata:
        table.restore()
        return
    lost = table.to_arrow()
    table.checkout_latest()
    table.merge_insert(made.names[0]).when_not_matched_insert_all().execute(lost)


def clear(table: Any) -> None:
    """Remove old versions of a table, but no file of a commit that may be under way."""
    try:
        table.optimize(cleanup_older_than=timedelta(milliseconds=1))
    except Exception as error:  # another process is at it; the next one will do it
        log.info("old versions are not removed: %s", error)


@contextmanager
def storage_errors(location: str | Path) -> Iterator[None]:
    """Turn the faults of LanceDB, which have many types, into a StoreError that says what to do."""
    try:
        yield
    except FreeRetError:
        raise
    except Exception as error:  # a panic of the Rust library among them
        reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else repr(error)
        hint = "check that the place exists, is writable and has room; nothing half-written is kept"
        raise StoreError(f"store {location}: {reason} ({hint})") from error
