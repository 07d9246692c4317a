"""Likelihood of a query given a candidate, with its prior removed.

A language model that cannot answer whether two texts match still predicts text better after a
related one. For a query of n tokens,

    margin = 1/n · Σ_i [log p(q_i | candidate, q_<i) - log p(q_i | q_<i)]

which is the pointwise mutual information of query and candidate per token of the query, in nats: 0
where the candidate says nothing about the query. Query likelihood: Sachan et al. 2022 (arXiv
2204.07496), Zhuang et al. 2023 (arXiv 2310.13243); removing the prior: arXiv 2507.23284. Where the
query holds media and the candidate does not, the candidate is predicted from the query.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import BadItem
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record
from probes.prompts import Prompted

CUE = "Query:"
LOGITS = 2**25
"""Most logits that are computed at once."""


def prompt(context: Item | None) -> Prompted:
    """Ask for the query of a candidate; without one, for any query."""
    if context is None:
        return Prompted(user=("Write a search query.",), prefill=CUE)
    return Prompted(
        user=("Candidate: ", *context.parts, "\n\nWrite a search query that the candidate matches."),
        prefill=CUE,
    )


def likelihood(
    backbone: Backbone, pairs: Sequence[tuple[Item, Item]], *, progress: str | None = None
) -> Float[np.ndarray, " pairs"]:
    """How much likelier each candidate makes its query, per token.

    Args:
        backbone: The model that predicts.
        pairs: (query, candidate) pairs. Queries with the same candidate share its computation.
        progress: Title of a progress bar; None shows no bar.

    Returns:
        The margin of each pair in nats per token, float64.

    Raises:
        BadItem: Query and candidate both hold media, so that there is no text to predict.
    """
    asked = [_direction(*pair) for pair in pairs]
    texts = list({text.text: text for _, text in asked}.values())
    given = log_likelihood(backbone, [*asked, *((None, t) for t in texts)], progress=progress)
    prior = {text.text: value for text, value in zip(texts, given[len(asked) :], strict=True)}
    return given[: len(asked)] - np.array([prior[text.text] for _, text in asked])


def log_likelihood(
    backbone: Backbone,
    asked: Sequence[tuple[Item | None, Item]],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " asked"]:
    """The mean log-probability of the tokens of a text after a context, or after none."""

    def make(pair: tuple[Item | None, Item]) -> list[Row]:
        context, text = pair
        ids = backbone.encoder.plain.tokenize(f" {text.text}", text.name)
        ids = ids[: backbone.encoder.max_tokens // 2]
        name = text.name if context is None else context.name
        row = backbone.encoder.row(prompt(context), name, reserved=len(ids) - 1)
        return [row.predicting(ids)]

    def forward(batch: Batch) -> list[Tensor]:
        return batch.by_row(record(backbone, batch, ["norm"])["norm"])

    def run(made: list[Sequence[Row]], bar: str | None) -> Tensor:
        rows = [row for (row,) in made]
        states = run_batches(backbone, rows, forward, progress=bar)
        return _means(backbone, states, [row.targets for row in rows])

    return blockwise(backbone, make, asked, run, progress).numpy()


def _means(
    backbone: Backbone, states: Sequence[Tensor], targets: Sequence[Sequence[int]]
) -> Tensor:
    """The mean log-probability of each list of tokens after its states at the norm."""
    if not states:
        return torch.empty(0).double()
    joined, ids = torch.cat(states), torch.tensor([id for some in targets for id in some])
    step = max(1, LOGITS // backbone.model.config.get_text_config(decoder=True).vocab_size)
    logs = [
        backbone.lens(some, "norm").log_softmax(-1).gather(1, wanted[:, None].to(some.device))
        for some, wanted in zip(joined.split(step), ids.split(step), strict=True)
    ]
    flat = torch.cat(logs)[:, 0].double().cpu()
    return torch.stack([part.mean() for part in flat.split([len(some) for some in targets])])


def _direction(query: Item, candidate: Item) -> tuple[Item, Item]:
    """What is given, and the text that is predicted."""
    if not query.media:
        return candidate, query
    if not candidate.media:
        return query, candidate
    raise BadItem(f"{query.name} and {candidate.name} both hold media: there is no text to predict")
