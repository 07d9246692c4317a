"""From vectors to a run: the geometry of the pool, then the best documents of each query."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from freeret.corpus_geometry import Own, fit_corpus, with_queries
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import to_run
from probes import ControlPrompt
from probes.geometry import Kind
from probes.prompts import Prompt, as_prompt


def rank(
    dataset: Dataset,
    queries: Float[Tensor, "queries hidden"],
    documents: Float[Tensor, "documents hidden"],
    kind: Kind,
    own: Own,
) -> dict[str, dict[str, float]]:
    """Cosine in the geometry that the retriever would fit on these documents.

    `own` gives the project's own items, for a pool with little text and for queries of a kind that
    it does not hold. No other query and no judgement is seen.
    """
    asked = [query.signature for query in dataset.queries]
    pool = [document.signature for document in dataset.documents]
    geometry = with_queries(fit_corpus(kind, by_signature(pool, documents), own), asked, own)
    a = geometry.map(queries, asked, "query")
    b = geometry.map(documents, pool, "document")
    return to_run(dataset, lambda i, places: (b if places is None else b[places]) @ a[i])


def by_signature(
    signatures: list[str], vectors: Float[Tensor, "n hidden"]
) -> dict[str, Float[Tensor, "_ hidden"]]:
    """Vectors of each modality signature."""
    return {
        signature: vectors[torch.tensor([s == signature for s in signatures])]
        for signature in dict.fromkeys(signatures)
    }


def aligned(prompt: str | Prompt, task: str) -> Prompt:
    """A prompt whose task prior, where it has one, is that of the dataset."""
    chosen = as_prompt(prompt)
    if isinstance(chosen, ControlPrompt) and chosen.task is not None:
        return replace(chosen, task=task)
    return chosen
