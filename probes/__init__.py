"""Probes: look inside a language model and measure where it turns meaning into words."""

from probes.backbone import Backbone
from probes.diagnostic import Setting, diagnose
from probes.encoding import Batch
from probes.framing import FRAMES, Frame, FrameBias, framing_bias
from probes.geometry import Geometry
from probes.items import Item, Part, as_item, as_items
from probes.lexicalization import Curves, curve_prompts, curves_by_prompt, lexicalization_curves
from probes.media import Limits, MediaOptions
from probes.prompts import E5V, NAMED, PROMPT_EOL, ControlPrompt, TemplatePrompt
from probes.report import ProbeReport, probe
from probes.sites import Site, all_sites, late_sites
from probes.synonyms import SynonymSimilarity, synonym_similarity
from probes.trace import States, record

__all__ = [
    "E5V", "FRAMES", "NAMED", "PROMPT_EOL", "Backbone", "Batch", "ControlPrompt", "Curves", "Frame",
    "FrameBias", "Geometry", "Item", "Limits", "MediaOptions", "Part", "ProbeReport", "Setting",
    "Site", "States", "SynonymSimilarity", "TemplatePrompt", "all_sites", "as_item", "as_items",
    "curve_prompts", "curves_by_prompt", "diagnose", "framing_bias", "late_sites",
    "lexicalization_curves", "probe", "record", "synonym_similarity",
]  # fmt: skip
