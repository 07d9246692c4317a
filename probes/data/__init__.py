"""Diagnostic data written for this project, as plain rows."""

import csv
import functools
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"
"""Probe reports of the embedded backbones, `<alias>.json`, as `freeret probe` wrote them."""
PICTURES = Path(__file__).parent / "pictures"
"""The files of `pictures`, at most 384 pixels wide and high."""


@functools.cache
def paraphrases() -> list[dict[str, str]]:
    """200 rows: sentence, paraphrase, near_miss (similar words, another meaning), subject."""
    return _jsonl("paraphrases.jsonl")


@functools.cache
def matches() -> list[dict[str, Any]]:
    """200 rows: query, candidate, match. Each of 100 queries has a match and a near-miss."""
    return _jsonl("matches.jsonl")


@functools.cache
def passages() -> list[dict[str, str]]:
    """120 rows: group, passage (about 170 words), question and request, two queries that only this
    passage of its group answers. Each of the 20 groups holds six passages on one subject."""
    return _jsonl("passages.jsonl")


@functools.cache
def synonyms() -> list[dict[str, str]]:
    """500 rows: kind, a, b, pos. 250 synonym pairs, and 250 control pairs of the same words."""
    with (files(__name__) / "synonyms.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@functools.cache
def pictures() -> list[dict[str, str]]:
    """63 rows: file, caption, kind (photograph or drawing), source, licence. 36 photographs and 27
    drawings of everyday things, under the licences that `LICENSES/pictures.md` explains."""
    return _jsonl("pictures.jsonl")


@functools.cache
def everyday_captions() -> list[str]:
    """200 short captions of everyday things, as people write them; none belongs to a picture."""
    return (files(__name__) / "captions.txt").read_text(encoding="utf-8").splitlines()


def _jsonl(name: str) -> list[dict[str, Any]]:
    text = (files(__name__) / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
