"""Feed: the items of one call of `index` in whatever form they were given, and pruning after it."""

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from freeret.sources.files import Listing, listed, opened
from freeret.sources.sharding import Shard
from freeret.store.indexing import Indexed
from freeret.store.payload import file_of, source_condition, source_of
from freeret.store.table import Store
from probes.arguments import check_choice
from probes.errors import BadSetting


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


def gone(store: Store, listing: Listing, done: Indexed, among: Container[str] | None) -> list[str]:
    """Ids of stored items that came from the files of a listing and are no longer in them.

    Args:
        store: The store.
        listing: The files and folders.
        done: The outcome of indexing them. Items below a place that could not be read stay.
        among: Restricts the ids to a shard.
    """
    bad = {*done.skipped, *map(file_of, done.skipped)}

    def has_gone(id: str, source: str | None) -> bool:
        name = listing.name_of(source) if source is not None else None
        if name is None or id in done.seen or (among is not None and id not in among):
            return False
        file = file_of(name)
        return bad.isdisjoint({id, name, file, *map(str, PurePosixPath(file).parents)})

    below = store.parts(within=source_condition([place for place, _ in listing.roots]))
    return [id for id, parts in below if has_gone(id, source_of(parts))]
