"""Feed: the items of one call of `index`, whatever they were given as."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from freeret.sources import files as sources
from freeret.store import indexing
from freeret.store.indexing import Indexed, check_on_error
from freeret.store.sharding import Shard
from freeret.store.table import Store
from probes.errors import BadSetting


@dataclass(frozen=True)
class Feed:
    """A stream of items, and what is known of where they come from."""

    stream: Iterable[Any]
    shard: Shard | None
    listing: sources.Listing | None
    """The files, where items are read from files."""
    prune: bool
    passed_over: Counter[str]
    """Files that are not read, counted while the stream is."""

    @classmethod
    def of(cls, items: Any, on_error: str, prune: bool, shards: str | None) -> "Feed":
        """Raises BadSetting, and the BadItem of a file that cannot be read unless `on_error` is
        "skip"."""
        check_on_error(on_error)
        shard = Shard.parse(shards) if shards is not None else None
        listing, passed_over = sources.listed(items), Counter[str]()
        if listing is not None:
            passed_over = listing.passed_over
            if listing.bad and on_error == "raise":
                raise listing.bad[0]
        elif prune:
            raise BadSetting(
                "to prune, give the files and folders: paths, or freeret.sources.files.Files"
            )
        stream: Iterable[Any] = listing or sources.opened(items, passed_over)
        return cls(
            stream if shard is None else shard.of(stream), shard, listing, prune, passed_over
        )

    def finish(self, done: Indexed, store: Store) -> None:
        """Count what was passed over, and remove what has gone from the files, or say how much that
        is. A shard that does not prune looks for nothing, since the others do not either."""
        done.passed_over = dict(self.passed_over)
        if self.listing is None or (self.shard is not None and not self.prune):
            return
        gone = indexing.gone(store, self.listing, done, self.shard)
        if self.prune:
            done.pruned = store.delete(gone)
        else:
            done.gone = len(gone)
