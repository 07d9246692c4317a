"""Why a selection matches nothing: the keys, values and modalities that a store does hold."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from freeret.store.filters import Selection, meets
from freeret.store.table import Store

SHOWN = 12
"""Keys or values that a message lists."""


def why_no_items(store: Store, selection: Selection) -> str | None:
    """Explain a selection that lets no item through.

    Returns:
        A sentence such as "no item has the key 'categroy'; keys here: category", which does not
        say where the store is; None when the selection lets an item through.
    """
    signatures = store.signatures()
    if not signatures:
        return "the store holds no items"
    if selection.filter is None and not selection.kinds:
        return None
    if not any(map(selection.takes_signature, signatures)):
        held = ", ".join(f"{count} {name}" for name, count in signatures.items())
        return f"no item holds {' or '.join(selection.kinds)}; items here: {held}"
    if store.selected(selection):
        return None
    if selection.filter is None or callable(selection.filter):
        return "no item passes the filter"
    for key, wanted in selection.filter.items():
        reason = _why_none_meets(store, key, wanted)
        if reason is not None:
            return reason
    return "each part of the filter has items, but no item has all of them"


def key_counts(store: Store) -> dict[str, int]:
    """Number of items per metadata key."""
    return dict(Counter(key for metadata in store.metadata() for key in metadata))


def _why_none_meets(store: Store, key: str, wanted: Any) -> str | None:
    values, keys = Counter[str](), Counter[str]()
    for metadata in store.metadata():
        if meets(metadata, key, wanted):
            return None
        keys.update(list(metadata))
        if key in metadata:
            values[_written(metadata[key])] += 1
    if not values:
        return f"no item has the key {key!r}; keys here: {_listed(keys) or 'none'}"
    typed = dict.fromkeys(map(_written, wanted if isinstance(wanted, list) else [wanted]))
    return f"no item has {key}={' or '.join(typed)}; values: {_listed(values)}"


def _written(value: Any) -> str:
    return str(value)[:60]


def _listed(names: Iterable[str]) -> str:
    first = sorted(names)
    more = f", and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    return ", ".join(first[:SHOWN]) + more
