"""Probe reports by weights: a backbone is measured once, and every command finds the report.

One rule says which report serves a backbone: it was measured with the same weights, tokenizer
(chat template included), processor and picture settings. Name, folder, revision, dtype, attention
implementation and package versions do not matter. Reports in the cache come first, then those that
are shipped for the embedded backbones.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freeret.recipe import Recipe
from freeret.sizing import tokens_per_second
from probes import Backbone, ProbeReport, probe
from probes.data import REPORTS
from probes.embedded import default_cache
from probes.errors import BadFile
from probes.files import read_json

log = logging.getLogger(__name__)

PROBE_TOKENS = 130_000
"""Tokens that pass through a text-only model while it is probed."""


def report_path(backbone: Backbone) -> Path:
    """The place in the cache for the report of this backbone."""
    key = json.dumps(_decisive(backbone.fingerprint()), sort_keys=True).encode()
    return default_cache() / "reports" / f"{hashlib.sha256(key).hexdigest()[:16]}.json"


def known_report(backbone: Backbone) -> ProbeReport | None:
    """The report of these weights, from the cache or from the shipped ones; None when there is
    neither. A report that cannot be read is passed over with a warning."""
    for path in _candidates(backbone):
        try:
            return ProbeReport.load(path)
        except BadFile as error:
            log.warning("%s", error)
    return None


def probe_and_keep(backbone: Backbone, *, seed: int = 0) -> ProbeReport:
    """Probe now, with a progress bar, and keep the report in the cache.

    Args:
        backbone: The model to measure.
        seed: Seed of the bootstrap intervals.
    """
    report = probe(backbone, seed=seed, progress=True)
    report.save(report_path(backbone))
    return report


def report_of(backbone: Backbone) -> ProbeReport:
    """The known report of these weights; where there is none, the backbone is probed, which takes
    minutes and is announced first."""
    known = known_report(backbone)
    if known is not None:
        return known
    log.info(
        "%s has no probe report yet: it is probed now, once, to choose its recipe. "
        "This takes %s here; the recipe `paper` does without. The report is kept in %s",
        backbone.name,
        _estimate(backbone),
        report_path(backbone),
    )
    return probe_and_keep(backbone)


def own_recipe(backbone: Backbone) -> Recipe:
    """The recipe that the backbone's own report supports."""
    return Recipe.from_report(report_of(backbone))


def named_recipe(name: str) -> Recipe | None:
    """The recipe that `--recipe` asks for.

    Args:
        name: `auto`, `paper`, or the path of a recipe.json.

    Returns:
        The recipe; None for `auto`, which needs the backbone's report.

    Raises:
        BadFile: The file is missing, cut off or names what does not exist.
    """
    match name:
        case "auto":
            return None
        case "paper":
            return Recipe.paper()
        case _:
            return Recipe.load(name)


def _decisive(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a fingerprint decides what the probes measure."""
    media = fingerprint.get("media") or {}
    same = {key: fingerprint.get(key) for key in ("weights", "tokenizer", "processor")}
    bound = {"max_pixels": media["max_pixels"]} if "max_pixels" in media else {}
    return {**same, "pictures": media.get("images"), **bound}


def _candidates(backbone: Backbone) -> Iterator[Path]:
    kept = report_path(backbone)
    if kept.is_file():
        yield kept
    wanted = _decisive(backbone.fingerprint())
    for path in sorted(REPORTS.glob("*.json")):
        if _decisive(read_json(path)["fingerprint"]) == wanted:
            yield path


def _estimate(backbone: Backbone) -> str:
    """How long probing takes, in words, from a short measurement."""
    minutes = PROBE_TOKENS / tokens_per_second(backbone) / 60
    about = "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"
    return f"{about} and more for its pictures" if backbone.sees else about
