"""Index: from a stream of items to rows of a store. Resumable and idempotent.

Items are read, hashed and written block by block; a block is one atomic commit. An item whose id
and content hash are stored already is not embedded again, so after a crash the same call resumes
where it stopped.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from freeret.embedder import Embedder, not_finite
from freeret.sources.counting import count_items
from freeret.store.payload import (
    Packed,
    by_place,
    content_hash,
    file_of,
    id_from,
    pack,
    source_of,
    with_place,
)
from freeret.store.rows import Record
from freeret.store.table import Store
from probes import Item, as_item
from probes.errors import BadItem
from probes.model.encoding import Row

log = logging.getLogger(__name__)

BLOCK = 256
"""Items per commit: the most that a kill loses."""
HELD = 2**28
"""Most bytes of in-memory media, such as those read from a URL, in the items of one commit."""

Seen = dict[str, tuple[str, str]]
"""Content hash and place of each item of a stream, by id."""


@dataclass
class Indexed:
    """The outcome of one call of `index`."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Bad items by id (or place in the stream), each with the reason."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Number of files that were not read, by ending or reason, such as `.docx` or `hidden`."""
    pruned: int = 0
    """Items removed because their file or row no longer exists."""
    gone: int = 0
    """Items that are still stored though their file or row no longer exists."""
    seen: Seen = field(default_factory=dict, repr=False, compare=False)
    """Every good item of the stream, whether it was written now or stored before."""

    def __iadd__(self, other: "Indexed") -> "Indexed":
        self.added += other.added
        self.replaced += other.replaced
        self.unchanged += other.unchanged
        self.skipped |= other.skipped
        self.seen |= other.seen
        return self


def index_items(
    store: Store,
    embedder: Embedder,
    items: Iterable[Any],
    *,
    on_error: str = "raise",
    among: Container[str] | None = None,
    progress: bool = False,
) -> Indexed:
    """Embed and upsert every new or changed item of a stream.

    Args:
        store: Where the items go.
        embedder: Stage 1 of the store.
        items: The stream, in any form that `as_item` reads.
        on_error: `"skip"` reports bad items instead of raising BadItem.
        among: Restricts the lookup of stored ids to a shard.
        progress: Whether to show bars.

    Returns:
        What was written.

    Raises:
        BadItem: An item is bad and not skipped; blocks that were committed before stay.
    """
    done = Indexed()
    hashes = store.hashes(among)
    stream = blocks(enumerate(items))
    first = next(stream, None)
    if first is None:  # no bar where there is nothing to do
        return done
    total = count_items(items) if progress else None
    with tqdm(total=total, desc="indexing", unit="item", disable=not progress) as bar:
        for block in chain([first], stream):
            done += index_block(
                store, embedder, block, hashes, on_error, done.seen, progress=progress
            )
            bar.update(len(block))  # they are committed now
    return done


def index_block(
    store: Store,
    embedder: Embedder,
    block: Iterable[tuple[int, Any]],
    hashes: dict[str, str],
    on_error: str,
    seen: Seen,
    *,
    progress: bool = False,
) -> Indexed:
    """Embed and upsert the new or changed items of one block in one commit.

    Args:
        store: Where the items go.
        embedder: Stage 1 of the store.
        block: Items, each with its place in the stream.
        hashes: Content hash of each stored item by id; those written now are added.
        on_error: As for `index_items`.
        seen: The items that came before in the same stream.
        progress: Whether to show a bar.

    Returns:
        What was written. `seen` holds the items of this block alone.

    Raises:
        BadItem: As for `index_items`; nothing of this block is written then.
    """
    done = Indexed()
    pending: dict[str, _Pending] = {}
    for place, value in block:
        try:
            new = _read(value, place)
            earlier = done.seen.get(new.id) or seen.get(new.id)
            if earlier is not None and earlier[0] != new.hash:
                raise given_twice(new.id, new.place, earlier[1])
            if earlier is not None or hashes.get(new.id) == new.hash:
                done.unchanged += 1
            else:
                new.rows = embedder.rows(new.item)
                pending[new.id] = new
            done.seen[new.id] = new.hash, new.place
        except BadItem as error:
            refuse(done, error, on_error, _name(value, place))

    def drop(errors: Mapping[str, BadItem]) -> None:
        for id, error in errors.items():
            del pending[id], done.seen[id]
            refuse(done, error, on_error, id)

    drop(_of_other_files(store, pending, hashes))
    ids = list(pending)
    vectors = embedder.encode_rows(
        [new.rows for new in pending.values()], progress="embedding" if progress else None
    )
    bad = not_finite([new.item for new in pending.values()], vectors)
    drop({ids[place]: error for place, error in bad.items()})
    by_id = dict(zip(ids, vectors.numpy(), strict=True))
    written = store.write([new.record(by_id[id]) for id, new in pending.items()])
    hashes.update((id, new.hash) for id, new in pending.items())
    done.added, done.replaced = written.added, written.replaced
    return done


def refuse(done: Indexed, error: BadItem, on_error: str, place: str) -> None:
    """Raise an error, or report it in `done` under the item's id, or else its place."""
    name = _printable(error.item or place)
    message = str(error) if name in str(error) else f"{name}: {error}"
    if on_error == "raise":
        raise BadItem(message, name) from error
    done.skipped[name] = message
    log.warning("skipped: %s", message)


def given_twice(id: str, place: str, earlier: str) -> BadItem:
    """The error for an id that one stream gives to two contents."""
    return BadItem(
        f"{place}: the id {_printable(id)!r} was given to another item before, at {earlier}; an id "
        "names one item: give other ids, or drop one of them",
        place,
    )


def _of_other_files(
    store: Store, pending: Mapping[str, "_Pending"], hashes: Mapping[str, str]
) -> dict[str, BadItem]:
    """Errors for items named by their place that would replace those of another file which still
    exists: two folders of one name, in two calls."""
    by_their_place = [
        id for id, new in pending.items() if id in hashes and by_place(id, new.item.source)
    ]
    errors = {}
    for id, parts in store.parts(by_their_place) if by_their_place else ():
        before, now = source_of(parts), pending[id].item.source
        if before != now and by_place(id, before) and _still_exists(before or ""):
            errors[id] = BadItem(
                f"{id}: {now} would replace {before}, which is still there; give the folder that "
                "holds both, or rename one",
                id,
            )
    return errors


def _still_exists(source: str) -> bool:
    """Whether the file of an item is still where it was; a URL is not asked."""
    return "://" in source or Path(source).exists() or Path(file_of(source)).exists()


@dataclass
class _Pending:
    """An item that may have to be embedded and written."""

    item: Item
    id: str
    hash: str
    place: str
    packed: Packed
    rows: list[Row] = field(default_factory=list)

    def record(self, vector: np.ndarray) -> Record:
        columns = with_place(self.item, self.packed)._asdict()
        return Record(self.id, self.hash, self.item.signature, **columns, vector=vector)


def _read(value: Any, place: int) -> _Pending:
    """Read and hash one item. An item without an id gets one from its content."""
    item = as_item(value, place=f"item {place} of the stream")
    packed = pack(item)
    digest = content_hash(item, packed)
    id = item.id if item.id is not None else id_from(digest)
    where = item.source or f"item {place} of the stream"
    return _Pending(item if item.id is not None else item.with_id(id), id, digest, where, packed)


def blocks(stream: Iterable[Any], size: int = BLOCK) -> Iterator[list[Any]]:
    """Split a stream into blocks of at most `size` items, or about HELD bytes of in-memory media.

    Args:
        stream: Items, bare or as pairs of place and item.
        size: Most items of a block.
    """
    block, held = [], 0
    for entry in stream:
        block.append(entry)
        held += _media_bytes(entry)
        if len(block) == size or held >= HELD:
            yield block
            block, held = [], 0
    if block:
        yield block


def _media_bytes(entry: Any) -> int:
    item = entry[1] if isinstance(entry, tuple) else entry
    media = item.media if isinstance(item, Item) else ()
    return sum(len(part.value) for part in media if isinstance(part.value, bytes))


def _name(value: Any, place: int) -> str:
    """The id of an item that cannot be read, or its place in the stream."""
    id = value.get("id") if isinstance(value, Mapping) else getattr(value, "id", None)
    return f"item {place} of the stream" if id is None else str(id)


def _printable(name: str) -> str:
    """A name that can be logged and printed, with lone surrogates as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
