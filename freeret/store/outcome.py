"""Outcome of indexing: what was stored, what is bad, and which files are no longer there."""

import logging
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from freeret.sources.files import Listing
from freeret.store.payload import file_of, source_condition, source_of
from freeret.store.table import Store
from probes.errors import BadItem

log = logging.getLogger(__name__)

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

    @property
    def settled(self) -> int:
        """Number of items that are stored or skipped."""
        return self.added + self.replaced + self.unchanged + len(self.skipped)


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


def gone(store: Store, listing: Listing, done: Indexed, among: Container[str] | None) -> list[str]:
    """Ids of stored items that came from the files of a listing and are no longer in them.

    Args:
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


def _printable(name: str) -> str:
    """A name that can be logged and printed, with lone surrogates as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()
