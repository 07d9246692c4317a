"""Estimates of the work of each probe, for its progress bar and for the time that is announced.

The unit is a token of text that passes through the language model.
"""

from torch import nn

from probes.measure.diagnostic.extractions import TASKED
from probes.measure.diagnostic.sets import PICTURED, query_set
from probes.measure.lexicalization import PROMPT_KINDS, curve_prompts, curve_sites
from probes.measure.parts import PartName
from probes.measure.reference import captions, everyday
from probes.model.backbone import Backbone
from probes.prompts import NAMED

TOKENS: dict[PartName, int] = {
    "framing": 30_200,
    "heads": 17_000,
    "curves": 12_500,
    "diagnostic": 229_000,
    "splitting": 34_000,
    "hybrid": 0,
    "reranking": 200_000,
    "synonyms": 7_400,
    "injection": 8_700,
}
"""Tokens of text that pass through smollm2-135m in each part of a whole report, in which the
diagnostic takes states from the curves, and reranking from the diagnostic. Those of the diagnostic,
of splitting and of reranking are estimates from the lengths of the texts; other tokenizers differ a
little. To count, add up the tokens that `probes.progress.listening` reports during a part."""
CAPTION = 15
"""Tokens of a caption of a drawn scene (an estimate), without the prompt that all of them share."""


def tokens_of(backbone: Backbone, part: PartName) -> int:
    """Tokens that pass through the model in a part, those of pictures included."""
    return TOKENS[part] + (_tokens_of_pictures(backbone) if part == "diagnostic" else 0)


def work_of(backbone: Backbone, part: PartName) -> float:
    """The time that a part takes, as the number of tokens that pass through the model in it."""
    return float(tokens_of(backbone, part)) + (_lens(backbone) if part == "curves" else 0.0)


def picture_tokens(backbone: Backbone) -> int:
    """Tokens of a row with a picture of the diagnostic; 0 for a backbone that reads no pictures."""
    if "image" not in backbone.modalities:
        return 0
    picture = query_set("scenes").documents[0]
    return len(backbone.row(NAMED["prompteol"].apply(picture)))


def _tokens_of_pictures(backbone: Backbone) -> int:
    """Tokens of the diagnostic's pictures: each of them, each caption, and the reference captions
    under every prompt."""
    if "image" not in backbone.modalities:
        return 0
    shown = sum(query_set(name).pool for name in PICTURED)
    captioned = shown + len(captions()) + len(everyday())
    rows = shown * picture_tokens(backbone) + captioned * CAPTION
    return (len(NAMED) + len(TASKED)) * rows


def _lens(backbone: Backbone) -> float:
    """Work of the logit lens, which applies the whole LM head at every site after `embed` of each
    prompt; a token passes through the weights of the layers."""
    layers = backbone.model.get_submodule(backbone.anatomy.layers)
    head = backbone.model.get_submodule(backbone.anatomy.head)
    ratio = _size(head) / max(1, _size(layers))
    rows = len(PROMPT_KINDS) * len(curve_prompts("text"))
    return rows * (len(curve_sites(backbone.num_layers)) - 1) * ratio


def _size(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
