"""Probes: look inside a language model and measure where it turns meaning into words."""

from typing import TYPE_CHECKING

from probes.lazy import lazy_names

if TYPE_CHECKING:
    from probes.backbone import Backbone
    from probes.diagnostic import Setting, diagnose
    from probes.encoding import Batch
    from probes.framing import FRAMES, Frame, FrameBias, framing_bias
    from probes.geometry import Geometry
    from probes.items import Item, Part, as_item, as_items
    from probes.lexicalization import Curves, curve_prompts, curves_by_prompt, lexicalization_curves
    from probes.loading import Loading
    from probes.measuring import probe
    from probes.media import Limits, MediaOptions
    from probes.prompts import E5V, NAMED, PROMPT_EOL, ControlPrompt, TemplatePrompt
    from probes.report import ProbeReport
    from probes.sites import Site, all_sites, late_sites
    from probes.states import states_of
    from probes.synonyms import SynonymSimilarity, synonym_similarity
    from probes.trace import States, record

__all__ = [
    "E5V", "FRAMES", "NAMED", "PROMPT_EOL", "Backbone", "Batch", "ControlPrompt", "Curves", "Frame",
    "FrameBias", "Geometry", "Item", "Limits", "Loading", "MediaOptions", "Part", "ProbeReport",
    "Setting", "Site", "States", "SynonymSimilarity", "TemplatePrompt", "all_sites", "as_item",
    "as_items", "curve_prompts", "curves_by_prompt", "diagnose", "framing_bias", "late_sites",
    "lexicalization_curves", "probe", "record", "states_of", "synonym_similarity",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "probes.backbone": "Backbone",
        "probes.diagnostic": "Setting diagnose",
        "probes.encoding": "Batch",
        "probes.framing": "FRAMES Frame FrameBias framing_bias",
        "probes.geometry": "Geometry",
        "probes.items": "Item Part as_item as_items",
        "probes.lexicalization": "Curves curve_prompts curves_by_prompt lexicalization_curves",
        "probes.loading": "Loading",
        "probes.measuring": "probe",
        "probes.media": "Limits MediaOptions",
        "probes.prompts": "E5V NAMED PROMPT_EOL ControlPrompt TemplatePrompt",
        "probes.report": "ProbeReport",
        "probes.sites": "Site all_sites late_sites",
        "probes.states": "states_of",
        "probes.synonyms": "SynonymSimilarity synonym_similarity",
        "probes.trace": "States record",
    },
)
