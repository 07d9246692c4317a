"""ReAlign (arXiv 2512.19115): prompt and whitening, as in its authors' code.

Each side, queries and candidates, is whitened by its mean and covariance over all items that are
evaluated together, so that the score of a query depends on the other queries.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from probes import Backbone, Item
from probes.geometry import unit
from probes.prompts import Prompted

SHRINKAGE = 0.1
EPSILON = 1e-5
"""Added to the eigenvalues, which sum to less than 1."""


def summarize(item: Item) -> Prompted:
    """The item under ReAlign's wording, such as `Summarize the above image and the sentence`."""
    kinds = dict.fromkeys(part.kind for part in item.parts)
    nouns = ["sentence" if kind == "text" else kind for kind in kinds]
    cue = f"\nSummarize the above {' and the '.join(nouns)} in one word: "
    return Prompted(user=(*item.parts, cue))


def opening(backbone: Backbone) -> int:
    """Number of tokens with which the chat template opens the model's turn, where ReAlign stops."""
    chat = backbone.encoder.chat
    if chat is None:
        return 0
    return len(backbone.tokenizer(chat.generation_prompt, add_special_tokens=False)["input_ids"])


def whiten_apart(vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """ZCA-whiten one side of a dataset by the moments of that side.

    W = ((1 - α)·C + α·tr(C)/d·I + ε·I)^(-1/2), with α = SHRINKAGE so that fewer vectors than
    dimensions suffice. A single vector, which equals its mean, stays as it is.

    Returns:
        Unit vectors, float32.
    """
    units = unit(vectors)
    if len(units) < 2:
        return units
    centred = units.double() - units.double().mean(0)
    covariance = centred.T @ centred / (len(units) - 1)
    values, directions = torch.linalg.eigh(covariance)
    values = (1 - SHRINKAGE) * values.clamp_min(0) + SHRINKAGE * values.mean() + EPSILON
    return unit(centred @ (directions * values.rsqrt() @ directions.T))
