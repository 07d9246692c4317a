"""Which items a search, an export or a deletion is about: by metadata, and by kind of content.

A filter is a mapping of metadata that items must have, where a list means any of its values, or a
function of the metadata. Values are equal as JSON values are: the number 1993 is not the text
"1993", and `true` is not 1. On the command line nobody writes JSON, so there `year=1993` stands for
both: the text, which a CSV holds, and the number, which a JSONL file may hold.
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
Filter = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]
"""Metadata that hits must have (a list means any of its values), or a function of the metadata."""


@dataclass(frozen=True)
class Selection:
    """The items that pass a filter and hold at least one of the kinds; made by `Selection.of`."""

    filter: Filter | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(cls, filter: Any = None, kinds: Any = None) -> "Selection":
        """Check what was asked for.

        Args:
            filter: A `Filter`; its values are brought to what metadata holds: dates as ISO 8601,
                tuples and sets as lists.
            kinds: `text`, `image`, `video` or `audio`, or several of them; none for all.

        Raises:
            BadSetting: What is no filter, or no kind.
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
        """Whether the filter lets this metadata through. Raises BadSetting where it raises."""
        return self.filter is None or passes(metadata, self.filter)

    def sql(self) -> str | None:
        """SQL that holds for every item that passes, and for few others; None for all."""
        kinds = " OR ".join(f"contains(signature, '{kind}')" for kind in self.kinds)
        clauses = [f"({kinds})" if kinds else None, to_sql(self.filter) if self.filter else None]
        return " AND ".join(clause for clause in clauses if clause) or None


EVERYTHING = Selection()


def check_filter(filter: Any) -> Filter | None:
    """A filter with its values as metadata holds them; raises BadSetting for what is no filter."""
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
        raise BadSetting(f"filter: no metadata can be {filter[odd]!r}, as {odd!r} is asked to be")
    return checked


def parse_filter(conditions: Sequence[str]) -> dict[str, list[Any]] | None:
    """The filter that `key=value` on the command line stands for.

    A value stands for the text as it is written, and also for the number, `true`, `false` or `null`
    that it reads as. Several keys must all have their value; a key that is given several times must
    have one of them.

    Returns:
        A filter, or None where there are no conditions.

    Raises:
        BadSetting: A condition without `=` or without a key.
    """
    found: dict[str, list[Any]] = {}
    for to_sql in conditions:
        key, equals, value = to_sql.partition("=")
        if not equals or not key.strip():
            raise BadSetting(f"--filter takes key=value, such as category=food, not {to_sql!r}")
        found.setdefault(key.strip(), []).extend([value, *_as_json(value)])
    return found or None


def _as_json(text: str) -> list[Any]:
    """The number, truth value or null that a text reads as, if any."""
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return [value] if value is None or isinstance(value, int | float) else []


def passes(metadata: Mapping[str, Any], wanted: Filter) -> bool:
    """Whether a filter lets metadata through. Raises BadSetting where a function raises."""
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
    """As JSON has it: to Python, True is 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def to_sql(wanted: Filter) -> str | None:
    """SQL over the written metadata that holds for all that passes, and for little else, so that
    most of what does not pass is never read: texts are looked for with their key, of other values,
    which can be written in several ways, the key alone."""
    if callable(wanted):
        return None
    clauses = []
    for key, value in wanted.items():
        values = _values(value)
        if key == FOLDER:  # any part of a path matches, so the value alone is looked for
            values = [v.strip("/") if isinstance(v, str) else v for v in values]
        texts = bool(values) and all(isinstance(v, str) for v in values)
        written = [json.dumps({key: v if texts else 0}, ensure_ascii=False)[1:-1] for v in values]
        if texts and key == FOLDER:
            written = [json.dumps(v, ensure_ascii=False)[1:-1] for v in values]
        sought = written if texts else [text[:-1] for text in written[:1]]
        quoted = ["'" + text.replace("'", "''") + "'" for text in sought]
        if quoted:
            clauses.append("(" + " OR ".join(f"contains(metadata, {q})" for q in quoted) + ")")
    return " AND ".join(clauses) or None
