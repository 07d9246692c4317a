"""Metrics by ir-measures, kept per query so that methods can be compared in pairs."""

from collections.abc import Mapping

import ir_measures
import numpy as np
import torch
from ir_measures import P
from jaxtyping import Float
from scipy.stats import permutation_test
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from probes.stats import Interval, mean_interval

Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score."""


def precision_at_1(dataset: Dataset, run: Run) -> Float[np.ndarray, " queries"]:
    """P@1 of each query in the dataset's order; a query without hits counts 0."""
    found = ir_measures.iter_calc([P @ 1], dataset.judgements, run)
    by_query = {metric.query_id: metric.value for metric in found}
    return np.array([by_query.get(query.id or "", 0.0) for query in dataset.queries])


def to_run(
    dataset: Dataset, scores: Float[Tensor, "queries documents"], depth: int = 100
) -> dict[str, dict[str, float]]:
    """The best documents of each query; ties break by document id."""
    ids = [document.id or "" for document in dataset.documents]
    order = torch.tensor(sorted(range(len(ids)), key=ids.__getitem__))
    run: dict[str, dict[str, float]] = {}
    for query, row in zip(dataset.queries, scores, strict=True):
        best = row[order].sort(descending=True, stable=True).indices[:depth]
        # ir-measures breaks ties by id downwards: a tiny slope keeps this order.
        run[query.id or ""] = {
            ids[order[i]]: float(row[order[i]].double() - rank * 1e-12)
            for rank, i in enumerate(best.tolist())
        }
    return run


def paired(
    a: Float[np.ndarray, " queries"], b: Float[np.ndarray, " queries"], seed: int = 0
) -> tuple[Interval, float]:
    """Mean difference a - b with its interval, and the p-value of a paired permutation test."""
    difference = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if not difference.any():
        return Interval(0.0, 0.0, 0.0), 1.0
    test = permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis=axis),
        permutation_type="samples",
        n_resamples=4999,
        rng=seed,
    )
    return mean_interval(difference, seed), float(test.pvalue)
