"""Process many items of which a few are bad: the others are processed, and each bad one named."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from freeret.embedder import not_finite
from freeret.evaluate.datasets import Dataset
from probes import Item
from probes.errors import BadItem, one_line
from probes.prompts import Side

BAD = (BadItem, torch.OutOfMemoryError)
"""Errors that concern an item and not the whole run."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Skipped:
    """An item or pair that was left out of an evaluation, and why.

    A skipped query finds nothing and scores 0, a skipped document is not in the pool, and a pair
    that stage 2 could not judge stands below the judged ones, in stage 1's order.
    """

    side: Literal["query", "document", "pair"]
    id: str
    """Of a pair, the ids of query and document with a space between."""
    reason: str


def skipped_documents(dataset: Dataset, skip: bool) -> list[Skipped] | None:
    """The documents that could not be read when the dataset was loaded; None where bad items are
    not skipped. Raises what `Dataset.check_readable` does then."""
    if not skip:
        dataset.check_readable()
        return None
    return [Skipped("document", id, reason) for id, reason in dataset.unreadable.items()]


def work_on_good(
    work: Callable[[Sequence[Any]], Result], things: Sequence[Any], ids: Sequence[str | None]
) -> tuple[list[Result], dict[int, str]]:
    """Apply `work` to all things but the bad ones.

    Where it fails, the things are split at the one that the error names, or else in halves, so that
    each good one is processed in full only once.

    Args:
        work: Raises one of BAD where a thing is bad.
        things: In order.
        ids: What `BadItem.item` would name each thing.

    Returns:
        The results of runs of consecutive good things, in order; and by index, the reason for each
        bad one.
    """
    places = {id: place for place, id in enumerate(ids) if id is not None}
    done: list[Result] = []
    bad: dict[int, str] = {}
    pending = [(0, len(things))]
    while pending:
        start, end = pending.pop()
        try:
            done.append(work(things[start:end]))
            continue
        except BAD as error:
            named = places.get(getattr(error, "item", None) or "", -1)
            if end - start <= 1:
                named = start
            if start <= named < end:
                bad[named] = one_line(error)
                parts = [(start, named), (named + 1, end)]
            else:
                parts = [(start, (start + end) // 2), ((start + end) // 2, end)]
        pending += [part for part in reversed(parts) if part[0] < part[1]]
    return done, bad


def encode_good(
    encode: Callable[[Sequence[Item], Side], Tensor],
    items: Sequence[Item],
    side: Side,
    skipped: list[Skipped],
) -> tuple[list[Item], Tensor]:
    """The items that can be encoded, and their finite vectors; the others are added to `skipped`.

    Raises BadItem when no item can be encoded.
    """

    def work(some: Sequence[Item]) -> Tensor:
        return encode(some, side)

    done, bad = work_on_good(work, items, [item.id for item in items])
    good = [item for place, item in enumerate(items) if place not in bad]
    if not good:
        raise BadItem(f"no {side} can be encoded: {next(iter(bad.values()), 'there is none')}")
    vectors = torch.cat(done) if len(done) > 1 else done[0]
    reasons = {items[place].id or "": reason for place, reason in bad.items()}
    infinite = not_finite(good, vectors.flatten(1))
    reasons |= {good[place].id or "": one_line(error) for place, error in infinite.items()}
    if infinite:
        kept = [place for place in range(len(good)) if place not in infinite]
        good, vectors = [good[place] for place in kept], vectors[kept]
        if not good:
            raise BadItem(f"no {side} can be encoded: {next(iter(reasons.values()))}")
    skipped += [Skipped(side, id, reason) for id, reason in reasons.items()]
    return good, vectors
