"""Pointwise mutual information of query and candidate, from the likelihood of each given the other.

A language model that cannot answer whether two texts match still predicts a text better after a
related one. For a query q and a candidate c,

    margin = 1/2 · [log p(q | c) - log p(q) + log p(c | q) - log p(c)]

Both differences estimate log p(q, c) / (p(q) p(c)) in nats, which are the log-odds that the two
belong together and not to a query and a candidate at random. The first is query likelihood (Sachan
et al., 2022, arXiv 2204.07496; Zhuang et al., 2023, arXiv 2310.13243), in which log p(q) changes no
ranking; in the second the prior of the candidate decides: without it, common texts win (arXiv
2507.23284). On the paraphrases the second tells near-misses better, which repeat the words of their
query.

A medium is not predicted. Where one side holds media, the margin is the difference of the other
side; where both do, it is 0.
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
    """How much likelier query and candidate make each other: the margin of each (query, candidate)
    pair in nats, float64.

    Pairs of one query share its computation, and so do those of one candidate. `progress` is the
    title of a progress bar. Raises BadItem where an item cannot be read.
    """
    asked = [(i, one) for i, pair in enumerate(pairs) for one in _predictable(*pair)]
    texts = list({text.text: text for _, (_, text) in asked}.values())
    priors: list[Asked] = [(None, text) for text in texts]
    found = log_likelihoods(backbone, [*(one for _, one in asked), *priors], progress=progress)
    prior = dict(zip([text.text for text in texts], found[len(asked) :], strict=True))
    margins, counts = np.zeros(len(pairs)), np.zeros(len(pairs))
    for (i, (_, text)), given in zip(asked, found, strict=False):
        margins[i] += given - prior[text.text]
        counts[i] += 1
    return margins / np.maximum(counts, 1)


def likelihood_prompt(context: Item | None) -> Prompted:
    """Ask for a text that matches an item; without an item, for any text."""
    if context is None:
        ask = "Write a query: a question, a description, or a statement."
        return Prompted(user=(ask,), prefill="Query:")
    ask = (
        "Write a query that the candidate matches: a question that it answers, a description of "
        "it, or the same in other words."
    )
    return Prompted(user=("Candidate: ", *context.parts, f"\n\n{ask}"), prefill="Query:")


def pair_prompt(query: Item, candidate: Item) -> Prompted:
    """The exchange that precedes the text of a pair that is predicted."""
    asked = predicted_text(query, candidate)
    return likelihood_prompt(asked and asked[0])


def log_likelihoods(
    backbone: Backbone, asked: Sequence[Asked], *, progress: str | None = None
) -> Float[np.ndarray, " asked"]:
    """The log-probability of each text, in nats, float64."""

    def forward(batch: Batch) -> list[Tensor]:
        return batch.by_row(record(backbone, batch, ["norm"])["norm"])

    def run(made: list[Sequence[Row]], bar: str | None) -> Tensor:
        rows = [row for (row,) in made]
        return _sums(backbone, rows, run_batches(backbone, rows, forward, progress=bar))

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


def _sums(backbone: Backbone, rows: Sequence[Row], states: Sequence[Tensor]) -> Tensor:
    """The log-probability of the targets of each row, from its states at the norm."""
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
    return torch.stack([values.sum() for values in by_row])


def predicted_text(query: Item, candidate: Item) -> Asked | None:
    """The text of a pair that is predicted first, the query's if it holds no media, and what it is
    predicted from; None where both hold media."""
    return next(iter(_predictable(query, candidate)), None)


def _predictable(query: Item, candidate: Item) -> list[Asked]:
    """The sides of a pair that are text, each with the other side, from which it is predicted."""
    sides: list[Asked] = [(candidate, query), (query, candidate)]
    return [(context, text) for context, text in sides if not text.media]
