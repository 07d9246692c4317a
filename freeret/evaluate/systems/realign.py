"""ReAlign (arXiv 2512.19115): how its authors' code words a prompt, and how it whitens.

Queries and candidates are whitened apart, each side by its own mean and covariance over all that
are evaluated together, so that a query's score depends on the other queries.
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
    """Tokens by which the chat template opens the model's turn: ReAlign's rows end before them."""
    chat = backbone.encoder.chat
    if chat is None:
        return 0
    return len(backbone.tokenizer(chat.generation_prompt, add_special_tokens=False)["input_ids"])


def whiten_apart(vectors: Float[Tensor, "n hidden"]) -> Float[Tensor, "n hidden"]:
    """One side of a dataset, ZCA-whitened by its own moments.

    W = ((1 - α)·C + α·tr(C)/d·I + ε·I)^(-1/2) with α = SHRINKAGE: fewer vectors than dimensions do
    no harm. A lone vector, which would be its own mean, stays as it is.

    Args:
        vectors: Raw vectors.

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
