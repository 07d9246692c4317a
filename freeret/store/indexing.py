"""Index: from a stream of items to rows in a store, resumable, each item once.

Items are read, hashed and written block by block; a block is one atomic commit. An item whose id
and content hash are stored already is not embedded again, so the same call after a kill goes on
where it stopped.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from freeret.embedder import Embedder, not_finite
from freeret.sources.counting import count_items
from freeret.sources.files import Listing
from freeret.store.payload import (
    by_place,
    content_hash,
    file_of,
    pack,
    place_metadata,
    source_condition,
    source_of,
    with_source,
)
from freeret.store.rows import Record
from freeret.store.table import Store
from probes import Item, as_item
from probes.errors import BadItem, BadSetting
from probes.model.encoding import Row

log = logging.getLogger(__name__)

BLOCK = 256
"""Items a commit: what a kill costs at most."""
HELD = 2**28
"""Bytes of media that the items of one commit may hold, as those from a URL do."""

Seen = dict[str, tuple[str, str]]
"""Ids of a stream, each with its content hash and where it stood."""


@dataclass
class Indexed:
    """What one call of `index` did."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Bad items by id (or place in the stream), each with what is wrong."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files were not read, by their ending or the reason, such as `.docx` or `hidden`."""
    pruned: int = 0
    """Items removed because their file or row has gone."""
    gone: int = 0
    """Items that are still stored though their file or row has gone."""
    seen: Seen = field(default_factory=dict, repr=False, compare=False)
    """Every good item of the stream, whether it was written or stored before."""

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
    """Write every item of the stream that is new or changed; all ids are `among` those given.
    Raises BadItem unless `on_error` is "skip"; what was written before stays."""
    check_on_error(on_error)
    done = Indexed()
    known = store.hashes(among)
    total = count_items(items) if progress else None
    with tqdm(total=total, desc="indexing", unit="item", disable=not progress) as bar:
        for block in blocks(enumerate(items)):
            done += index_block(
                store, embedder, block, known, on_error, done.seen, progress=progress
            )
            bar.update(len(block))  # they are committed now
    return done


def check_on_error(on_error: str) -> None:
    """Raise BadSetting for what is neither "raise" nor "skip"."""
    if on_error not in ("raise", "skip"):
        raise BadSetting(f'on_error must be "raise" or "skip", not {on_error!r}')


def index_block(
    store: Store,
    embedder: Embedder,
    block: Iterable[tuple[int, Any]],
    known: dict[str, str],
    on_error: str,
    seen: Seen,
    *,
    progress: bool = False,
) -> Indexed:
    """Write what is new or changed of a few items, each with its place in the stream, in one
    commit. `known` holds the hashes of what is stored, and learns the new ones; `seen` holds what
    came before in the same stream."""
    done = Indexed()
    pending: dict[str, _Pending] = {}
    for place, value in block:
        try:
            new = _read(value, place)
            id, earlier = new.id, done.seen.get(new.id) or seen.get(new.id)
            if earlier is not None and earlier[0] != new.hash:
                raise again(id, new.place, earlier[1])
            if earlier is not None or known.get(id) == new.hash:
                done.unchanged += 1
            else:
                new.rows = embedder.rows(new.item)
                pending[id] = new
            done.seen[id] = new.hash, new.place
        except BadItem as error:
            refuse(done, error, on_error, _name(value, place))
    for id, error in _of_other_files(store, pending, known).items():
        pending.pop(id)
        done.seen.pop(id)
        refuse(done, error, on_error, id)
    rows = [new.rows for new in pending.values()]
    vectors = embedder.encode_rows(rows, progress="embedding" if progress else None)
    named = list(pending)
    bad = not_finite([pending[id].item for id in named], vectors)
    for place, error in bad.items():
        pending.pop(named[place])
        done.seen.pop(named[place])
        refuse(done, error, on_error, named[place])
    fine = [vector for place, vector in enumerate(vectors.numpy()) if place not in bad]
    written = store.write([new.record(v) for new, v in zip(pending.values(), fine, strict=True)])
    known.update((id, new.hash) for id, new in pending.items())
    done.added, done.replaced = written.added, written.replaced
    return done


def refuse(done: Indexed, error: BadItem, on_error: str, place: str) -> None:
    """Raise an error, or count it under the id of its item, or the place where it stood."""
    name = _shown(error.item or place)
    said = str(error) if name in str(error) else f"{name}: {error}"
    if on_error == "raise":
        raise BadItem(said, name) from error
    done.skipped[name] = said
    log.warning("skipped: %s", said)


def again(id: str, place: str, earlier: str) -> BadItem:
    """The error of an id that comes twice in one stream with two contents."""
    return BadItem(
        f"{place}: the id {_shown(id)!r} was given to another item before, at {earlier}; an id "
        "names one item: give other ids, or drop one of them",
        place,
    )


def _of_other_files(
    store: Store, pending: Mapping[str, "_Pending"], known: Mapping[str, str]
) -> dict[str, BadItem]:
    """Items called by their place that would replace those of another file, which is still there:
    two folders of one name, in two calls."""
    called = [id for id, new in pending.items() if id in known and by_place(id, new.item.source)]
    errors = {}
    for id, parts in store.parts(called) if called else ():
        before, now = source_of(parts), pending[id].item.source
        if before != now and by_place(id, before) and _is_there(before or ""):
            errors[id] = BadItem(
                f"{id}: {now} would replace {before}, which is still there; give the folder that "
                "holds both, or rename one",
                id,
            )
    return errors


def _is_there(source: str) -> bool:
    """Whether the file of an item is still where it was; a URL is not asked."""
    return "://" in source or Path(source).exists() or Path(file_of(source)).exists()


def gone(store: Store, listing: Listing, done: Indexed, among: Container[str] | None) -> list[str]:
    """The ids of what came from the files and folders of the listing and is in them no more. What
    stands where something could not be read is not counted among them."""
    bad = {*done.skipped, *map(file_of, done.skipped)}

    def has_gone(id: str, source: str | None) -> bool:
        name = listing.name_of(source) if source is not None else None
        if name is None or id in done.seen or (among is not None and id not in among):
            return False
        file = file_of(name)
        return bad.isdisjoint({id, name, file, *map(str, PurePosixPath(file).parents)})

    below = store.parts(within=source_condition([place for place, _ in listing.roots]))
    return [id for id, parts in below if has_gone(id, source_of(parts))]


@dataclass
class _Pending:
    """An item that may have to be embedded and written."""

    item: Item
    id: str
    hash: str
    place: str
    parts: str
    blobs: list[bytes]
    rows: list[Row] = field(default_factory=list)

    def record(self, vector: np.ndarray) -> Record:
        return Record(
            id=self.id,
            hash=self.hash,
            signature=self.item.signature,
            parts=with_source(self.parts, self.item.source),
            blobs=self.blobs,
            metadata=place_metadata(self.item),
            vector=vector,
        )


def _read(value: Any, place: int) -> _Pending:
    """Read and hash one item. One without an id gets one from its content, so the same content is
    the same item."""
    item = as_item(value, place=f"item {place} of the stream")
    parts, blobs = pack(item)
    digest = content_hash(item, parts, blobs)
    item = item if item.id is not None else item.with_id(digest[:16])
    where = item.source or f"item {place} of the stream"
    return _Pending(item, item.id or "", digest, where, parts, blobs)


def blocks(stream: Iterable[Any], size: int = BLOCK) -> Iterator[list[Any]]:
    """A stream of items, bare or with their places, cut into what is taken at once: `size` of them,
    or as many as reach HELD bytes."""
    block, held = [], 0
    for one in stream:
        block.append(one)
        held += _held(one)
        if len(block) == size or held >= HELD:
            yield block
            block, held = [], 0
    if block:
        yield block


def _held(one: Any) -> int:
    item = one[1] if isinstance(one, tuple) else one
    media = item.media if isinstance(item, Item) else ()
    return sum(len(part.value) for part in media if isinstance(part.value, bytes))


def _name(value: Any, place: int) -> str:
    """How an item that cannot be read is called: by its id, or its place in the stream."""
    id = value.get("id") if isinstance(value, Mapping) else getattr(value, "id", None)
    return f"item {place} of the stream" if id is None else str(id)


def _shown(name: str) -> str:
    """A name that can be logged and printed, half a surrogate pair as its escape."""
    return name.encode("utf-8", "backslashreplace").decode()
