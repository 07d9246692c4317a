"""Probe reports kept by fingerprint: a backbone is probed once."""

import hashlib
import json
import logging
from pathlib import Path

from freeret.recipe import Recipe
from probes import Backbone, ProbeReport, probe
from probes.embedded import default_cache
from probes.errors import BadFile

log = logging.getLogger(__name__)


def report_path(backbone: Backbone) -> Path:
    """Where the report of this backbone, with these weights and settings, is kept."""
    key = json.dumps(backbone.fingerprint(), sort_keys=True).encode()
    return default_cache() / "reports" / f"{hashlib.sha256(key).hexdigest()[:16]}.json"


def cached_report(backbone: Backbone, *, progress: bool = False) -> ProbeReport:
    """The kept report, or a new one: minutes of work, done once."""
    path = report_path(backbone)
    if path.is_file():
        try:
            return ProbeReport.load(path)
        except BadFile as error:
            log.warning("%s", error)
    log.warning("probing %s once, to choose its recipe; kept in %s", backbone.name, path)
    report = probe(backbone, progress=progress)
    report.save(path)
    return report


def own_recipe(backbone: Backbone, *, progress: bool = False) -> Recipe:
    """What the backbone's own report supports; it is probed where there is none."""
    return Recipe.from_report(cached_report(backbone, progress=progress))
