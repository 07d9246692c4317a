"""Shards: disjoint parts of one corpus, for schedulers that start plain processes.

Every process reads the whole stream and keeps what is its own, by a hash of the id, so that no
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
    """Part `k` of `n`, counted from 1."""

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
        """The items of this shard. What cannot be read belongs to one shard too, by what is wrong
        with it, and stands in the stream as that error."""
        from freeret.store.payload import (
            content_id,  # it imports torch, and the name of a shard needs none
        )

        for value in stream:
            try:
                found = as_item(value)
                id = found.id if found.id is not None else content_id(found)
            except BadItem as error:
                found, id = error, str(error)
            if id in self:
                yield found
