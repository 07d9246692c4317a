"""Probes: record the states of a language model, and measure where they turn into words."""

from typing import TYPE_CHECKING

from probes.lazy import lazy_names

if TYPE_CHECKING:
    from probes.geometry import Geometry
    from probes.items import Item, Part, as_item, as_items
    from probes.measure.diagnostic.extractions import diagnose
    from probes.measure.diagnostic.scores import DiagnosticScore
    from probes.measure.framing import FRAMES, Frame, FrameBias, framing_bias
    from probes.measure.lexicalization import (
        Curves,
        curve_prompts,
        curves_by_prompt,
        lexicalization_curves,
    )
    from probes.measure.run import probe
    from probes.measure.synonyms import SynonymSimilarity, synonym_similarity
    from probes.media.sources import Limits, MediaOptions
    from probes.microscope.lens import LensTable, lens
    from probes.microscope.patching import PatchGrid, patch_grid
    from probes.microscope.stored import StoredStates, store_states, stored_states
    from probes.microscope.turns import Turn, turn
    from probes.microscope.writes import Writes, writes
    from probes.model.backbone import Backbone
    from probes.model.batches.states import states_of
    from probes.model.encoding import Batch
    from probes.model.interventions import intervene, replace, scale, skip
    from probes.model.loading import Loading
    from probes.model.sites import Site, all_sites, late_sites
    from probes.model.trace import States, attention_patterns, record
    from probes.prompts import E5V, NAMED, PROMPT_EOL, ControlPrompt, TemplatePrompt
    from probes.reports.comparison import Comparison, compare
    from probes.reports.report import ProbeReport

__all__ = [
    "E5V",
    "FRAMES",
    "NAMED",
    "PROMPT_EOL",
    "Backbone",
    "Batch",
    "Comparison",
    "ControlPrompt",
    "Curves",
    "DiagnosticScore",
    "Frame",
    "FrameBias",
    "Geometry",
    "Item",
    "LensTable",
    "Limits",
    "Loading",
    "MediaOptions",
    "Part",
    "PatchGrid",
    "ProbeReport",
    "Site",
    "States",
    "StoredStates",
    "SynonymSimilarity",
    "TemplatePrompt",
    "Turn",
    "Writes",
    "all_sites",
    "as_item",
    "as_items",
    "attention_patterns",
    "compare",
    "curve_prompts",
    "curves_by_prompt",
    "diagnose",
    "framing_bias",
    "intervene",
    "late_sites",
    "lens",
    "lexicalization_curves",
    "patch_grid",
    "probe",
    "record",
    "replace",
    "scale",
    "skip",
    "states_of",
    "store_states",
    "stored_states",
    "synonym_similarity",
    "turn",
    "writes",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "probes.microscope.patching": "PatchGrid patch_grid",
        "probes.microscope.stored": "StoredStates store_states stored_states",
        "probes.model.backbone": "Backbone",
        "probes.measure.diagnostic.extractions": "diagnose",
        "probes.measure.diagnostic.scores": "DiagnosticScore",
        "probes.model.encoding": "Batch",
        "probes.measure.framing": "FRAMES Frame FrameBias framing_bias",
        "probes.geometry": "Geometry",
        "probes.items": "Item Part as_item as_items",
        "probes.measure.lexicalization": (
            "Curves curve_prompts curves_by_prompt lexicalization_curves"
        ),
        "probes.microscope.lens": "LensTable lens",
        "probes.model.interventions": "intervene replace scale skip",
        "probes.model.loading": "Loading",
        "probes.measure.run": "probe",
        "probes.media.sources": "Limits MediaOptions",
        "probes.prompts": "E5V NAMED PROMPT_EOL ControlPrompt TemplatePrompt",
        "probes.reports.comparison": "Comparison compare",
        "probes.reports.report": "ProbeReport",
        "probes.model.sites": "Site all_sites late_sites",
        "probes.model.batches.states": "states_of",
        "probes.measure.synonyms": "SynonymSimilarity synonym_similarity",
        "probes.model.trace": "States attention_patterns record",
        "probes.microscope.turns": "Turn turn",
        "probes.microscope.writes": "Writes writes",
    },
)
