"""Cache of probe reports, keyed by weights: a backbone is measured once, and every command finds
the report.

A report serves a backbone if it was measured with the same weights, tokenizer (chat template
included), processor and picture settings. Name, folder, revision, dtype, attention implementation
and package versions do not matter. Reports in the cache come before those that are shipped for the
embedded backbones.
"""

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Collection, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from freeret.recipe import Recipe
from freeret.scale.sizing import items_per_second, tokens_per_second
from probes import Backbone, ProbeReport, probe
from probes.data import REPORTS
from probes.embedded import default_cache
from probes.errors import BadFile
from probes.measure.cost import picture_tokens, work_of
from probes.measure.diagnostic.sets import SCENES, query_set
from probes.measure.parts import PARTS, PartName, with_needed
from probes.measure.run import DTYPES, kept_parts, probe_parts
from probes.reports.report import decisive, read_parts

log = logging.getLogger(__name__)


def report_path(backbone: Backbone) -> Path:
    """The place in the cache for the report of this backbone."""
    return default_cache() / "reports" / f"{_key(backbone)}.json"


def parts_folder(backbone: Backbone, seed: int = 0) -> Path:
    """The place in the cache for the parts of an unfinished report of this backbone."""
    return default_cache() / "reports" / "unfinished" / f"{_key(backbone)}-{seed}"


def known_report(backbone: Backbone) -> ProbeReport | None:
    """The cached or shipped report of these weights, or None. A report that cannot be read is left
    out with a warning."""
    for path in _candidates(backbone):
        try:
            return ProbeReport.load(path)
        except BadFile as error:
            log.warning("%s", error)
    return None


def probe_and_keep(backbone: Backbone, *, seed: int = 0) -> ProbeReport:
    """Probe now, with a progress bar, and cache the report. The estimated duration is logged first;
    parts that an interrupted run finished are not measured again.
    """
    announce(backbone, PARTS, seed)
    unfinished = parts_folder(backbone, seed)
    report = probe(backbone, seed=seed, progress=True, keep=unfinished)
    report.save(report_path(backbone))
    shutil.rmtree(unfinished, ignore_errors=True)
    return report


def measure_and_keep(
    backbone: Backbone, parts: Collection[PartName], *, seed: int = 0
) -> dict[str, Any]:
    """Measure some parts of a report. They are cached, and a later run of other parts or of the
    whole report reuses them.

    Returns:
        The parts, as `probe_parts` returns them.
    """
    announce(backbone, parts, seed)
    unfinished = parts_folder(backbone, seed)
    return probe_parts(backbone, parts, seed=seed, progress=True, keep=unfinished)


def report_of(backbone: Backbone) -> ProbeReport:
    """The cached or shipped report of these weights. Where there is none, the backbone is probed,
    which takes minutes and is announced first."""
    report = known_report(backbone)
    if report is not None:
        return report
    log.info(
        "%s has no probe report yet: it is probed now, once, to choose its recipe (the recipe "
        "`paper` needs no report). The report is kept in %s",
        backbone.name,
        report_path(backbone),
    )
    return probe_and_keep(backbone)


def recipe_for(backbone: Backbone, recipe: Recipe | None = None) -> Recipe:
    """The recipe to use with a backbone.

    Args:
        recipe: A recipe to use as it is; None: the one that the probe report of the backbone
            supports (see `report_of`).

    Returns:
        The recipe. One that was measured on other weights comes with a warning, and says so in its
        reasons.
    """
    if recipe is None:
        return Recipe.from_report(report_of(backbone))
    origin = recipe.provenance
    if origin is None or _same_weights(origin.weights, backbone):
        return recipe
    warnings.warn(
        f"the recipe was measured on {origin.model}, and is used with {backbone.name}: its choices "
        f"may not suit this model, and the figures that it quotes are those of {origin.model}; "
        f"`freeret probe {backbone.name}` measures this one",
        stacklevel=3,
    )
    return recipe.used_with(backbone.name)


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


def announce(backbone: Backbone, parts: Collection[PartName], seed: int = 0) -> None:
    """Log which parts of a report are cached, and how long the others take on this device by a
    short measurement."""
    wanted = with_needed(parts)
    done = kept_parts(backbone, wanted, seed, parts_folder(backbone, seed))
    left: list[PartName] = [part for part in wanted if done.get(part) is None]
    if done:
        log.info("Measured before, and kept: %s", ", ".join(done))
    if left:
        duration = in_words(seconds_of(backbone, left))
        log.info("Probing %s takes %s here", backbone.name, duration)


def seconds_of(backbone: Backbone, parts: Collection[PartName]) -> float:
    """Estimated duration of parts of a report: their work over the throughput of texts and of
    pictures."""
    throughput = tokens_per_second(backbone)
    seconds = sum(work_of(backbone, part) for part in parts) / throughput
    if "image" in backbone.modalities and "diagnostic" in parts:
        # Each picture goes through processor and tower once, through the model for every prompt.
        scenes = cycle(query_set("scenes").documents)
        rate = items_per_second(backbone, lambda _: next(scenes))
        seconds += SCENES * max(0.0, 1 / rate - picture_tokens(backbone) / throughput)
    return seconds


def in_words(seconds: float) -> str:
    """A duration to the minute."""
    return "less than a minute" if seconds < 50 else f"about {max(1, round(seconds / 60))} min"


def _key(backbone: Backbone) -> str:
    key = json.dumps(decisive(backbone.fingerprint()), sort_keys=True).encode()
    return hashlib.sha256(key).hexdigest()[:16]


def _candidates(backbone: Backbone) -> Iterator[Path]:
    """Reports that serve this backbone: the one under its key, then those that were measured in
    another dtype, then the shipped ones."""
    cached = report_path(backbone)
    if cached.is_file():
        yield cached
    for path in (*sorted(cached.parent.glob("*.json")), *sorted(REPORTS.glob("*.json"))):
        if path != cached and _serves(path, backbone):
            yield path


def _serves(path: Path, backbone: Backbone) -> bool:
    """Whether the report was measured on this backbone, in any dtype: its weights are these, as
    they are or as one of the two dtypes rounds them."""
    try:
        report = read_parts(path, [])
    except BadFile:
        return False
    theirs, ours = decisive(report["fingerprint"]), decisive(backbone.fingerprint())
    digests = [theirs.pop("weights"), *report["rounded"].values()]
    del ours["weights"]
    return theirs == ours and _same_weights(digests, backbone)


def _same_weights(digests: Collection[str], backbone: Backbone) -> bool:
    """Whether one of the digests is of the weights of this backbone, as they are or as another
    dtype rounds them."""
    return backbone.fingerprint()["weights"] in digests or any(
        backbone.weights_digest(dtype) in digests for dtype in DTYPES
    )
