"""Checks to run before deploying a new backbone: does it compute what the method needs?

Every line of the result is measured on the backbone itself. A line has FAILED if vectors or
judgements would be wrong; a limitation that only costs time or precision is a note.
"""

from freeret.check import media, model, text
from freeret.check.line import Check
from probes import Backbone
from probes.display import Results

__all__ = ["Check", "check"]


def check(backbone: Backbone) -> Results[Check]:
    """Check everything that a backbone is used for.

    Args:
        backbone: The backbone; its weights are not changed.

    Returns:
        Lines about the model (anatomy, weights, attention, batch invariance, throughput), about
        text (tokenizer, chat template, labels), and about every modality that it reads. The
        backbone can be deployed if every line has `passed`.
    """
    return Results([*model.checks(backbone), *text.checks(backbone), *media.checks(backbone)])
