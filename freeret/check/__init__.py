"""What to run before deploying a new backbone: does it compute what the method needs?

Every line of the result is a fact that is measured on the backbone itself. A line fails where
vectors or judgements would be wrong; what only costs time or precision is a note.
"""

from freeret.check.line import Check
from freeret.check.media import media
from freeret.check.model import anatomy, attention, batches, throughput, weights
from freeret.check.text import answer_cue, frames, tokenizer_file, tokens
from probes import Backbone

__all__ = ["Check", "check", "tokenizer_file"]


def check(backbone: Backbone) -> list[Check]:
    """Look at everything that a backbone is used for.

    Args:
        backbone: The backbone; its weights and caches stay as they are.

    Returns:
        Anatomy, weights, attention, tokenizer, chat template, invariance to the batch, shared
        prefix, labels of every frame, throughput, and the same for every kind of media that it
        reads. It can be deployed when every line has `passed`.
    """
    return [
        *anatomy(backbone),
        *weights(backbone),
        *attention(backbone),
        *tokens(backbone),
        *answer_cue(backbone),
        *batches(backbone),
        *frames(backbone),
        *throughput(backbone),
        *media(backbone),
    ]
