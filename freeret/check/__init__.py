"""What to run before deploying a new backbone: does it compute what the method needs?

Every line of the result is a fact that is measured on the backbone itself. A line fails where
vectors or judgements would be wrong; what only costs time or precision is a note.
"""

from freeret.check import media, model, text
from freeret.check.line import Check
from probes import Backbone

__all__ = ["Check", "check"]


def check(backbone: Backbone) -> list[Check]:
    """Look at everything that a backbone is used for.

    Args:
        backbone: The backbone; its weights stay as they are.

    Returns:
        Lines about the model (anatomy, weights, attention, invariance to the batch, throughput),
        about text (tokenizer, chat template, labels), and about every kind of media that it reads.
        The backbone can be deployed when every line has `passed`.
    """
    return [*model.checks(backbone), *text.checks(backbone), *media.checks(backbone)]
