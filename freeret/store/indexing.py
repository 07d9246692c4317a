"""Index: from whatever `FreeRet.index` is given to rows of a store. Resumable and idempotent.

The way of an item: it is read and hashed, compared with what is stored, tokenised (all of that in
threads, ahead of the model), embedded, and written with others in one atomic commit. An item whose
id and content hash are stored already is not embedded again, so after a crash the same call resumes
where it stopped.
"""

import contextlib
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from freeret.embedder import Embedder, not_finite
from freeret.sources.files import Files, Listing, listed
from freeret.sources.sharding import Shard
from freeret.store.outcome import Indexed, given_twice, gone, refuse
from freeret.store.payload import Record, by_place, file_of, record_of, source_of
from freeret.store.table import Store
from probes import Backbone, Item, as_item
from probes.arguments import check_choice
from probes.errors import BadItem, BadSetting
from probes.items import several
from probes.model.batches.ahead import ahead, media_bytes, row_blocks
from probes.model.encoding import Row

T = TypeVar("T")

LONGEST_NAME = 1024
"""Characters of a text that could still be a path."""
BLOCK = 256
"""Items whose ids are looked up at once."""
HELD = 2**28
"""Most bytes of in-memory media, such as those read from a URL, in the items of a block."""
COMMIT_BYTES = 2**26
COMMIT_SECONDS = 30
"""A commit is due when its rows have this many bytes, or the last one was this long ago: what a
kill loses."""


@dataclass(frozen=True)
class Feed:
    """A stream of items, and what is known about where they come from."""

    stream: Iterable[Any]
    shard: Shard | None
    listing: Listing | None
    """The files, when items are read from files alone."""
    prune: bool
    passed_over: Counter[str]
    """Files that are not read, counted while the stream is."""

    @classmethod
    def of(cls, items: Any, on_error: str, prune: bool, shards: str | None) -> "Feed":
        """Open what `FreeRet.index` was given.

        Raises:
            BadSetting: `on_error`, `shards` or `prune` does not fit.
            BadItem: A file cannot be read, unless `on_error` is "skip".
        """
        check_choice("on_error", on_error, ("raise", "skip"))
        shard = Shard.parse(shards) if shards is not None else None
        listing, passed_over = listed(items), Counter[str]()
        if listing is not None:
            passed_over = listing.passed_over
            if listing.bad and on_error == "raise":
                raise listing.bad[0]
        elif prune:
            raise BadSetting(
                "to prune, give the files and folders: paths, or freeret.sources.files.Files"
            )
        stream: Iterable[Any] = listing or opened(items, passed_over)
        return cls(
            stream if shard is None else shard.of(stream), shard, listing, prune, passed_over
        )

    def finish(self, done: Indexed, store: Store) -> None:
        """Report the files that were passed over, and remove or count the items whose file is gone.
        A shard does so only when it prunes, for it would count no more than its part."""
        done.passed_over = dict(self.passed_over)
        if self.listing is None or (self.shard is not None and not self.prune):
            return
        ids = gone(store, self.listing, done, self.shard)
        if self.prune:
            done.pruned = store.delete(ids)
        else:
            done.gone = len(ids)


def opened(items: Any, passed_over: Counter[str]) -> Iterator[Any]:
    """A stream of items in any form, in which every path is replaced by the items it leads to."""
    for value in several(items):
        if isinstance(value, str):
            _warn_of_path(value)
        if isinstance(value, Path):
            try:
                listing = Files([value], on_error="skip").listing()
            except BadItem as error:
                yield error
                continue
            passed_over.update(listing.passed_over)
            yield from listing
        else:
            yield value


def _warn_of_path(text: str) -> None:
    """A str is always text; warn when it looks as if the file or folder of that name was meant."""
    with contextlib.suppress(OSError, ValueError):  # too long for a name, or with a null byte
        if text and len(text) < LONGEST_NAME and Path(text).exists():
            warnings.warn(
                f"{text!r} is stored as a text; give pathlib.Path({text!r}) to read the "
                f"{'folder' if Path(text).is_dir() else 'file'} of that name",
                stacklevel=2,
            )


@dataclass(frozen=True)
class Entry:
    """An item on its way into a store."""

    item: Item
    record: Record
    place: str
    absent: int | None = None
    """A version of the store that does not hold its id; None where it replaces a row."""
    rows: list[Row] = field(default_factory=list)
    """Its tokens and media, under each prompt."""

    @property
    def id(self) -> str:
        return self.record.id


def index_items(
    store: Store,
    embedder: Embedder,
    stream: Iterable[tuple[int, Any]],
    *,
    on_error: str = "raise",
    progress: bool = False,
    total: int | None = None,
) -> Indexed:
    """Embed and upsert every new or changed item of a stream.

    Args:
        stream: Items in any form that `as_item` reads, each with its place in the stream.
        on_error: `"skip"` reports bad items instead of raising BadItem.
        total: Number of items for the bar, if it is known.

    Raises:
        BadItem: An item is bad and not skipped; what was embedded before is stored.
    """
    done, embedded, committed = Indexed(), list[Entry](), time.monotonic()
    launched = deque[Callable[[], Iterator[Entry]]]()
    behind = _launched_ahead(embedder.backbone)
    stream = iter(stream)
    first = next(stream, None)
    if first is None:  # no bar where there is nothing to do
        return done
    stream = chain([first], stream)

    def commit() -> None:
        nonlocal committed
        entries = embedded.copy()
        embedded.clear()  # they are not tried again
        versions = [entry.absent for entry in entries if entry.absent is not None]
        absent = min(versions, default=None) if len(versions) == len(entries) else None
        written = store.write([entry.record for entry in entries], absent)
        done.added += written.added
        done.replaced += written.replaced
        committed = time.monotonic()
        bar.update(done.settled - bar.n)

    with (
        tqdm(total=total, desc="indexing", unit="item", disable=not progress) as bar,
        closing(_tokenised(store, embedder, stream, done, on_error, bar)) as entries,
    ):
        try:
            for block in row_blocks(embedder.backbone, entries, lambda entry: entry.rows):
                launched.append(_launch(embedder, block, done, on_error, progress))
                if len(launched) > behind:
                    embedded += launched.popleft()()
                held = sum(entry.record.nbytes for entry in embedded)
                if held >= COMMIT_BYTES or time.monotonic() - committed >= COMMIT_SECONDS:
                    commit()
        finally:
            try:
                while launched:
                    embedded += launched.popleft()()
            finally:
                commit()
    return done


def _launched_ahead(backbone: Backbone) -> int:
    """Blocks that are launched before an earlier one is waited for: a GPU computes the next while
    the last is taken from it and stored."""
    return int(backbone.device.type == "cuda")


def _launch(
    embedder: Embedder, block: list[Entry], done: Indexed, on_error: str, progress: bool
) -> Callable[[], Iterator[Entry]]:
    """Embed a block. The result waits for it and yields the entries with their vectors and words,
    without their rows."""
    items = [entry.item for entry in block]
    bar = "embedding" if progress else None
    result = embedder.launch(items, [entry.rows for entry in block], progress=bar)

    def entries() -> Iterator[Entry]:
        vectors, words = result()
        bad = not_finite(items, vectors)
        for number, (entry, vector) in enumerate(zip(block, vectors.numpy(), strict=True)):
            if number in bad:
                del done.seen[entry.id]
                refuse(done, bad[number], on_error, entry.id)
            else:
                yield replace(
                    entry,
                    record=replace(entry.record, vector=vector, words=words[number]),
                    rows=[],
                )

    return entries


def _tokenised(
    store: Store,
    embedder: Embedder,
    stream: Iterable[tuple[int, Any]],
    done: Indexed,
    on_error: str,
    bar: tqdm,
) -> Generator[Entry, None, None]:
    """The new or changed items of a stream with their rows, which are made in threads."""

    def tokenise(entry: Entry) -> Entry | tuple[Entry, BadItem]:
        try:
            return replace(entry, rows=embedder.rows(entry.item))
        except BadItem as error:
            return entry, error

    def nbytes(made: Entry | tuple[Entry, BadItem]) -> int:
        return media_bytes(made.rows) if isinstance(made, Entry) else 0

    with (
        closing(_changed(store, stream, done, on_error, bar)) as changed,
        closing(ahead(tokenise, changed, nbytes=nbytes)) as made,
    ):
        for entry in made:
            if isinstance(entry, Entry):
                yield entry
            else:
                bad, error = entry
                del done.seen[bad.id]
                refuse(done, error, on_error, bad.id)


def _changed(
    store: Store, stream: Iterable[tuple[int, Any]], done: Indexed, on_error: str, bar: tqdm
) -> Generator[Entry, None, None]:
    """The items of a stream that the store does not hold as they are now. They are read and hashed
    in threads, and compared block by block."""
    with closing(ahead(_read, stream, nbytes=_held)) as read:
        for block in blocks(read, nbytes=_held):
            store.refresh()
            version = store.version
            hashes = store.hashes([entry.id for entry in block if isinstance(entry, Entry)])
            changed: dict[str, Entry] = {}
            for entry in block:
                try:
                    if isinstance(entry, BadItem):
                        raise entry
                    id, hash = entry.id, entry.record.hash
                    earlier = done.seen.get(id)
                    if earlier is not None and earlier[0] != hash:
                        raise given_twice(id, entry.place, earlier[1])
                    if earlier is not None or hashes.get(id) == hash:
                        done.unchanged += 1
                    else:
                        changed[id] = replace(entry, absent=None if id in hashes else version)
                    done.seen[id] = hash, entry.place
                except BadItem as error:
                    refuse(done, error, on_error, "")
            for id, error in _of_other_files(store, changed).items():
                del changed[id], done.seen[id]
                refuse(done, error, on_error, id)
            bar.update(done.settled - bar.n)
            yield from changed.values()


def _read(placed: tuple[int, Any]) -> Entry | BadItem:
    """Read and hash one item. An error names it by its id, or else by its place."""
    number, value = placed
    place = f"item {number} of the stream"
    try:
        item = as_item(value, place=place)
        record = record_of(item)
    except BadItem as error:
        id = value.get("id") if isinstance(value, Mapping) else getattr(value, "id", None)
        return BadItem(str(error), error.item or (place if id is None else str(id)))
    item = item if item.id is not None else item.with_id(record.id)
    return Entry(item, record, item.source or place)


def _held(read: Entry | BadItem) -> int:
    return sum(map(len, read.record.blobs)) if isinstance(read, Entry) else 0


def _of_other_files(store: Store, changed: Mapping[str, Entry]) -> dict[str, BadItem]:
    """Errors for items named by their place that would replace those of another file which still
    exists: two folders of one name, in two calls."""
    by_their_place = [
        id for id, new in changed.items() if new.absent is None and by_place(id, new.item.source)
    ]
    errors = {}
    for id, parts in store.parts(by_their_place):
        before, now = source_of(parts), changed[id].item.source
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


def payload_bytes(placed: Any) -> int:
    """Bytes of the in-memory media of an item, bare or as a pair of place and item."""
    item = placed[1] if isinstance(placed, tuple) else placed
    media = item.media if isinstance(item, Item) else ()
    return sum(len(part.value) for part in media if isinstance(part.value, bytes))


def blocks(
    stream: Iterable[T], size: int = BLOCK, nbytes: Callable[[T], int] = payload_bytes
) -> Iterator[list[T]]:
    """Split a stream into blocks of at most `size` values, or about HELD bytes.

    Args:
        stream: Items, bare or as pairs of place and item, or other values.
        nbytes: Bytes that a value holds in memory.
    """
    block, held = [], 0
    for value in stream:
        block.append(value)
        held += nbytes(value)
        if len(block) == size or held >= HELD:
            yield block
            block, held = [], 0
    if block:
        yield block
