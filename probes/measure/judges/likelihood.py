"""Likelihood of a query given a candidate, with its prior removed.

A language model that cannot answer whether two texts match still predicts a text better after a
related one. For a query of n tokens,

    margin = 1/n · Σ_i [log p(q_i | candidate, q_<i) - log p(q_i | q_<i)]

which is the pointwise mutual information of query and candidate per token of the query, in nats: 0
where the candidate says nothing about the query. Query likelihood: Sachan et al., 2022 (arXiv
2204.07496), Zhuang et al., 2023 (arXiv 2310.13243); without the prior: arXiv 2507.23284.

Where the query holds media and the candidate is text, the candidate is predicted from the query:
mutual information is symmetric. Where both hold media there is no text to predict, and the margin
is 0.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record
from probes.prompts import Prompted

Asked = tuple[Item | None, Item]
"""A text that is predicted, the second, and what it is predicted from: nothing for its prior."""
LOGITS = 2**25
"""Most logits that are computed at once."""


def likelihood(
    backbone: Backbone, pairs: Sequence[tuple[Item, Item]], *, progress: str | None = None
) -> Float[np.ndarray, " pairs"]:
    """How much likelier each candidate makes its query, per token.

    Args:
        backbone: The model that predicts.
        pairs: (query, candidate) pairs. Queries of one candidate share its computation.
        progress: Title of a progress bar; None shows no bar.

    Returns:
        The margin of each pair in nats per token, float64.

    Raises:
        BadItem: An item cannot be read.
    """
    asked = {i: a for i, pair in enumerate(pairs) if (a := predicted_text(*pair)) is not None}
    texts = list({text.text: text for _, text in asked.values()}.values())
    priors: list[Asked] = [(None, text) for text in texts]
    found = log_likelihoods(backbone, [*asked.values(), *priors], progress=progress)
    prior = dict(zip([text.text for text in texts], found[len(asked) :], strict=True))
    margins = np.zeros(len(pairs))
    for (i, (_, text)), given in zip(asked.items(), found, strict=False):
        margins[i] = given - prior[text.text]
    return margins


def likelihood_prompt(context: Item | None) -> Prompted:
    """Ask for a query that an item matches; without an item, for any query."""
    ask = "Write a search query"
    if context is None:
        return Prompted(user=(f"{ask}.",), prefill="Query:")
    return Prompted(
        user=("Candidate: ", *context.parts, f"\n\n{ask} that the candidate matches."),
        prefill="Query:",
    )


def pair_prompt(query: Item, candidate: Item) -> Prompted:
    """The exchange that precedes the text of a pair that is predicted."""
    asked = predicted_text(query, candidate)
    return likelihood_prompt(asked and asked[0])


def log_likelihoods(
    backbone: Backbone, asked: Sequence[Asked], *, progress: str | None = None
) -> Float[np.ndarray, " asked"]:
    """The mean log-probability of the tokens of each text, in nats, float64."""

    def forward(batch: Batch) -> list[Tensor]:
        return batch.by_row(record(backbone, batch, ["norm"])["norm"])

    def run(made: list[Sequence[Row]], bar: str | None) -> Tensor:
        rows = [row for (row,) in made]
        return _means(backbone, rows, run_batches(backbone, rows, forward, progress=bar))

    return blockwise(
        backbone, lambda pair: [predicted_row(backbone, pair)], asked, run, progress
    ).numpy()


def predicted_row(backbone: Backbone, asked: Asked) -> Row:
    """The row at whose end a text is predicted. A text that fills more than half of the context is
    cut."""
    context, text = asked
    ids = backbone.encoder.plain.tokenize(f" {text.text}", text.name)
    ids = ids[: backbone.encoder.max_tokens // 2]
    name = text.name if context is None else context.name
    row = backbone.encoder.row(likelihood_prompt(context), name, reserved=len(ids) - 1)
    return row.predicting(ids)


def _means(backbone: Backbone, rows: Sequence[Row], states: Sequence[Tensor]) -> Tensor:
    """The mean log-probability of the targets of each row, from its states at the norm."""
    if not rows:
        return torch.empty(0).double()
    joined = torch.cat(list(states))
    ids = torch.tensor([id for row in rows for id in row.targets])[:, None]
    step = max(1, LOGITS // backbone.model.config.get_text_config(decoder=True).vocab_size)
    logs = []
    for some, targets in zip(joined.split(step), ids.split(step), strict=True):
        logits = backbone.lens(some, "norm")
        logs.append(logits.log_softmax(-1).gather(1, targets.to(logits.device))[:, 0])
    by_row = torch.cat(logs).double().cpu().split([row.read for row in rows])
    return torch.stack([values.mean() for values in by_row])


def predicted_text(query: Item, candidate: Item) -> Asked | None:
    """The text of a pair to predict, and what it is predicted from; None where both hold media."""
    if not query.media:
        return candidate, query
    return None if candidate.media else (query, candidate)
