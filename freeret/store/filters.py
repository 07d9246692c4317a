"""Selections of items for a search, an export or a deletion: by metadata and by kind of content.

A filter is a mapping of metadata that items must have, where a list means any of its values, or a
function of the metadata. Values are compared as JSON values: the number 1993 is not the text
"1993", and `true` is not 1. On the command line `year=1993` stands for both: the text, which a CSV
holds, and the number, which a JSONL file may hold.

`folder` of a file matches any part of its path: `{"folder": "animals"}` finds the files of every
folder of that name and of the folders in it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from probes.errors import BadSetting
from probes.media.formats import MODALITIES
from probes.metadata import as_metadata

FOLDER = "folder"
IDS = 10_000
"""Ids looked up per query. LanceDB parses the whole query, which takes kilobytes per id."""
Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]
"""Metadata that items must have (a list means any of its values), or a function of it."""


@dataclass(frozen=True)
class Selection:
    """The items that pass a filter and hold at least one of the kinds; made by `Selection.of`."""

    filter: Filter | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, filter: Any = None, kinds: Any = None) -> "Selection":
        """Check a filter and kinds.

        Args:
            filter: A `Filter`; its values are converted as metadata is: dates to ISO 8601, tuples
                and sets to lists.
            kinds: `text`, `image`, `video` or `audio`, or several of them; none for all.

        Raises:
            BadSetting: `filter` is no filter, or one of `kinds` is no kind.
        """
        names = (kinds,) if isinstance(kinds, str) else tuple(kinds or ())
        for name in names:
            if name not in MODALITIES:
                raise BadSetting(f"there is no kind {name!r}; kinds: {', '.join(MODALITIES)}")
        return cls(check_filter(filter), names)

    def takes_signature(self, signature: str) -> bool:
        """Whether items of this modality signature hold at least one of the kinds: `image+text`
        passes for `image` and for `text`."""
        return not self.kinds or not set(self.kinds).isdisjoint(signature.split("+"))

    def takes_metadata(self, metadata: Mapping[str, Any]) -> bool:
        """Whether the filter lets this metadata through. Raises BadSetting when it raises."""
        return self.filter is None or passes(metadata, self.filter)

    def sql(self) -> str | None:
        """SQL condition that holds for every item that passes, and for few others; None for all."""
        kinds = " OR ".join(f"contains(signature, '{kind}')" for kind in self.kinds)
        clauses = [f"({kinds})" if kinds else None, to_sql(self.filter) if self.filter else None]
        return " AND ".join(clause for clause in clauses if clause) or None


EVERYTHING = Selection()


def check_filter(filter: Any) -> Filter | None:
    """Convert the values of a filter as metadata is. Raises BadSetting if it is no filter."""
    if filter is None:
        return None
    if not isinstance(filter, Mapping):
        if callable(filter):
            return lambda metadata: bool(filter(metadata))
        raise BadSetting(
            f'{filter!r} is no filter: give the metadata that hits must have, {{"year": 1999}} or '
            '{"year": [1999, 2000]}, or a function of the metadata'
        )
    checked = as_metadata(filter)
    if len(checked) < len(filter):
        odd = next(key for key in filter if str(key) not in checked)
        raise BadSetting(f"filter: metadata cannot hold {filter[odd]!r}, the value for {odd!r}")
    return checked


def parse_filter(conditions: Sequence[str]) -> dict[str, list[Any]] | None:
    """Parse conditions written `key=value` on the command line.

    A value stands for the text as written, and also for the number, `true`, `false` or `null` that
    it parses as. Several keys must all match; of a key that is given several times, one value must.

    Returns:
        A filter, or None when there are no conditions.

    Raises:
        BadSetting: A condition without `=` or without a key.
    """
    values: dict[str, list[Any]] = {}
    for condition in conditions:
        key, equals, value = condition.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"--filter takes key=value, such as category=food, not {condition!r}")
        values.setdefault(key.strip(), []).extend([value, *_as_json(value)])
    return values or None


def _as_json(text: str) -> list[Any]:
    """The number, truth value or null that a text parses as, if any."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return [value] if value is None or isinstance(value, int | float) else []


def passes(metadata: Mapping[str, Any], wanted: Filter) -> bool:
    """Whether a filter lets metadata through. Raises BadSetting when a function raises."""
    if callable(wanted):
        try:
            return bool(wanted(metadata))
        except Exception as error:
            raise BadSetting(
                f"the filter raised {type(error).__name__}: {error} for metadata {dict(metadata)!r}"
            ) from error
    return all(meets(metadata, key, wanted[key]) for key in wanted)


def meets(metadata: Mapping[str, Any], key: str, wanted: Any) -> bool:
    """Whether metadata has one of the wanted values under a key."""
    if key not in metadata:
        return False
    values = _values(wanted)
    if key == FOLDER and _is_place(metadata):
        return any(isinstance(v, str) and is_below(metadata[key], v) for v in values)
    return any(_equal(metadata[key], value) for value in values)


def is_below(folder: str, wanted: str) -> bool:
    """Whether a folder's path passes through the wanted folder: `corpus/pictures/animals` is below
    `animals`, `pictures`, `pictures/animals` and `corpus`, but not below `anim`."""
    name = wanted.strip("/")
    return bool(name) and f"/{name}/" in f"/{folder}/"


def _is_place(metadata: Mapping[str, Any]) -> bool:
    """Whether `folder` says where the item's file stands, and is no metadata of the user."""
    file, folder = metadata.get("file"), metadata[FOLDER]
    return isinstance(file, str) and str(PurePosixPath(file).parent) == folder


def _values(wanted: Any) -> list[Any]:
    return wanted if isinstance(wanted, list) else [wanted]


def _equal(a: Any, b: Any) -> bool:
    """Equality of JSON values: in Python, True == 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def to_sql(wanted: Filter) -> str | None:
    """SQL condition on the metadata column that holds for everything that passes and for little
    else, so that most other rows are never read. Texts are looked for with their key; for other
    values, which JSON can write in several ways, only the key is."""
    if callable(wanted):
        return None
    clauses = []
    for key, value in wanted.items():
        values = _values(value)
        if not all(isinstance(v, str) for v in values):
            sought = [json.dumps({key: 0}, ensure_ascii=False)[1:-2]]
        elif key == FOLDER:  # any part of a path matches, so the value alone is looked for
            sought = [json.dumps(v.strip("/"), ensure_ascii=False)[1:-1] for v in values]
        else:
            sought = [json.dumps({key: v}, ensure_ascii=False)[1:-1] for v in values]
        quoted = ["'" + text.replace("'", "''") + "'" for text in sought]
        if quoted:
            clauses.append("(" + " OR ".join(f"contains(metadata, {q})" for q in quoted) + ")")
    return " AND ".join(clauses) or None


def id_conditions(ids: Sequence[str]) -> list[str]:
    """SQL conditions that together hold for these ids, each for at most IDS of them."""
    quoted = ["'" + id.replace("'", "''") + "'" for id in ids]
    return [f"id IN ({', '.join(quoted[i : i + IDS])})" for i in range(0, len(ids), IDS)]
