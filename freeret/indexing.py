"""Index: from a stream of items to rows in a store, resumable, each item once.

Items are read, hashed and written block by block; a block is one atomic commit. An item whose id
and content hash are stored already is not embedded again, so the same call after a kill goes on
where it stopped.
"""

import logging
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from freeret.counting import count_items
from freeret.embedder import Embedder
from freeret.payload import content_hash, encode_metadata, pack
from freeret.store import Record, Store
from probes import Item, as_item
from probes.encoding import Row
from probes.errors import BadItem, BadSetting

log = logging.getLogger(__name__)

BLOCK = 256
"""Items a commit: what a kill costs at most."""
HELD = 2**28
"""Bytes of media that the items of one commit may hold, as those from a URL do."""
NANS = "the model overflows on it; try another dtype"


@dataclass
class Indexed:
    """What one call of `index` did."""

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    skipped: dict[str, str] = field(default_factory=dict)
    """Bad items by id (or place in the stream), each with what is wrong."""

    def __iadd__(self, other: "Indexed") -> "Indexed":
        self.added += other.added
        self.replaced += other.replaced
        self.unchanged += other.unchanged
        self.skipped |= other.skipped
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
            done += index_block(store, embedder, block, known, on_error, progress=progress)
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
    *,
    progress: bool = False,
) -> Indexed:
    """Write what is new or changed of a few items, each with its place in the stream, in one
    commit. `known` holds the hashes of what is stored, and learns the new ones."""
    done = Indexed()

    def refuse(name: str, error: BadItem) -> None:
        if on_error == "raise":
            raise BadItem(f"{name}: {error}") from error
        done.skipped[name] = str(error)
        log.warning("skipped %s: %s", name, error)

    pending: dict[str, _Pending] = {}
    for place, value in block:
        try:
            new = _prepare(value, embedder, known)
        except BadItem as error:
            refuse(_name(value, place), error)
            continue
        if new is None:
            done.unchanged += 1
        else:
            id = new.item.id or ""
            pending[id], known[id] = new, new.hash
    rows = [new.rows for new in pending.values()]
    vectors = embedder.encode_rows(rows, progress=progress).numpy()
    whole = np.asarray(np.isfinite(vectors).all(axis=1))
    for id in [id for id, fine in zip(pending, whole, strict=True) if not fine]:
        known.pop(id)
        refuse(id, BadItem(f"{pending.pop(id).item.name}: its vector is not finite ({NANS})"))
    written = store.write(
        [new.record(v) for new, v in zip(pending.values(), vectors[whole], strict=True)]
    )
    done.added, done.replaced = written.added, written.replaced
    return done


@dataclass(frozen=True)
class _Pending:
    """An item that is to be embedded and written."""

    item: Item
    hash: str
    parts: str
    blobs: list[bytes]
    rows: list[Row]

    def record(self, vector: np.ndarray) -> Record:
        return Record(
            id=self.item.id or "",
            hash=self.hash,
            signature=self.item.signature,
            parts=self.parts,
            blobs=self.blobs,
            metadata=encode_metadata(self.item),
            vector=vector,
        )


def _prepare(value: Any, embedder: Embedder, known: dict[str, str]) -> _Pending | None:
    """Read, hash and tokenise one item; None when it is stored already as it is.

    An item without an id gets one from its content, so the same content is the same item.
    """
    item = as_item(value)
    parts, blobs = pack(item)
    digest = content_hash(item, parts, blobs)
    item = item if item.id is not None else item.with_id(digest[:16])
    if known.get(item.id or "") == digest:
        return None
    return _Pending(item, digest, parts, blobs, embedder.rows(item))


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
    if isinstance(value, BadItem):  # it was read elsewhere, and says where
        return str(value).partition(": ")[0]
    id = value.get("id") if isinstance(value, Mapping) else getattr(value, "id", None)
    if id is None:
        return f"item {place} of the stream"
    return str(id).encode("utf-8", "backslashreplace").decode()  # it will be logged and shown
