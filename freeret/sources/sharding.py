"""Shards: disjoint parts of a corpus, for schedulers that start plain processes.

Every process reads the whole stream and keeps the items of its shard, by a hash of the id, so no
process needs to know of another.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from probes.errors import BadItem, BadSetting
from probes.items import as_item


@dataclass(frozen=True)
class Shard:
    """Shard `k` of `n`, counted from 1."""

    k: int
    n: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `k/n`. Raises BadSetting."""
        k, _, n = str(text).partition("/")
        if not (k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
            raise BadSetting(f"{text!r} is not a shard; write k/n, from 1/n to n/n")
        return cls(int(k), int(n))

    def __contains__(self, id: str) -> bool:
        digest = hashlib.sha256(id.encode("utf-8", "backslashreplace")).digest()
        return int.from_bytes(digest[:8]) % self.n == self.k - 1

    def of(self, stream: Iterable[Any]) -> Iterator[Any]:
        """The items of this shard. Unreadable items are assigned by the hash of their error message
        and yielded as BadItem, so exactly one shard reports them."""
        from freeret.store.payload import content_id  # imports torch, which parsing does not need

        for value in stream:
            try:
                item = as_item(value)
                id = item.id if item.id is not None else content_id(item)
            except BadItem as error:
                item, id = error, str(error)
            if id in self:
                yield item
