"""What variants of the geometry gain over the present one, on this project's own pairs.

    python figures/geometry.py --model smollm2-135m    # measures, and writes the file of the model
    python figures/geometry.py                         # prints the table of all files

Sentences are queries and paraphrases their answers; near-misses are in the corpus too. On a
backbone that sees, captions are queries and their pictures answers. Both are split in halves: one
is searched, and the sentences or captions of the other are the example queries (the query bank)
that some variants need; then the halves change places. The geometry is fitted on the documents of
both. Two measures: the reciprocal rank of the answer among those of its half, and d′, the
separation of the scores of all right pairs from those of all wrong ones, which also says whether
scores of different queries are comparable, as similarity tasks need. Gains are paired differences
with 95% intervals. Writes figures/geometry_<model>.json.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from freeret.recipe import Recipe
from freeret.reports import report_of
from probes import Backbone
from probes.files import read_json, write_json
from probes.geometry import Moments, unit, whitening
from probes.measure.diagnostic.sets import answer_ranks, embed_set, sets_for
from probes.measure.reference import captions
from probes.model.batches.states import prompted_states
from probes.prompts import NAMED
from probes.stats import bootstrap, mean_interval, percentiles

HERE = Path(__file__).parent
SHRINKAGES = np.geomspace(0.01, 30, 40)
"""Among which the held-out likelihood chooses."""
FOLDS = 5
PRESENT: dict[str, str] = {"whiten": "whitening, shrinkage 1 + d/n", "centre": "centring"}
"""By geometry, the variant that `probes.geometry` computes."""


class Side(NamedTuple):
    """Unit vectors of one half, and the documents that the geometry is fitted on."""

    queries: Tensor
    answers: Tensor
    """Of the queries, in the same order."""
    corpus: Tensor
    bank: Tensor
    """Example queries, none of whose answers is searched."""
    references: Tensor | None
    """Bundled reference queries, where the corpus holds none of the queries' form."""


Variant = Callable[[Side], Float[Tensor, "queries answers"]]


def whitened(
    shrinkage: Callable[[Tensor], float] | None = None,
    *,
    centre: bool = False,
    removed: int = 0,
    kept: int | None = None,
    own_queries: bool = False,
    part: float = 0.5,
) -> Variant:
    """Cosines after whitening.

    Args:
        shrinkage: λ from the unit vectors of the corpus; None is the present rule.
        centre: Centre without whitening.
        removed: Number of first principal components that are removed instead of whitened
            (all-but-the-top, arXiv 1702.01417).
        kept: Number of first principal components that are kept; None keeps all.
        own_queries: Queries are centred and whitened by the moments of the bank.
        part: Part of the reference queries, the nearest ones, that a query is centred on.
    """

    def transform(rows: Tensor) -> Tensor:
        if centre and not removed:
            return torch.eye(rows.shape[1])
        covariance = Moments.of(rows).scatter / len(rows)
        if removed or kept:
            directions = torch.linalg.eigh(covariance).eigenvectors.float().flip(1)
            basis = directions[:, removed:kept]
            projection = basis @ basis.T
            if removed:
                return projection
            return whitening(covariance, len(rows)) @ projection
        return whitening(covariance, len(rows), None if shrinkage is None else shrinkage(rows))

    def centres(side: Side, mean: Tensor) -> Tensor:
        if side.references is None:
            return mean
        nearest = (side.queries @ side.references.T).topk(int(part * len(side.references))).indices
        return side.references[nearest].mean(1)

    def scores(side: Side) -> Tensor:
        mean, moved = side.corpus.mean(0), transform(side.corpus)
        if own_queries:
            queries = unit((side.queries - side.bank.mean(0)) @ transform(side.bank))
        else:
            queries = unit((side.queries - centres(side, mean)) @ moved)
        return queries @ unit((side.answers - mean) @ moved).T

    return scores


def less_hubs(
    base: Variant, temperature: float | None, weight: float, *, bundled: bool = False
) -> Variant:
    """Scores less weight times the hubness of the document: the mean of its scores for the bank, or
    their soft maximum (1/β)·log mean exp(β·score) (QB-Norm, arXiv 2112.12777). The bank can be that
    of the bundled reference queries."""

    def scores(side: Side) -> Tensor:
        bank = side.references if bundled and side.references is not None else side.bank
        banked = base(side._replace(queries=bank))
        if temperature is None:
            hubness = banked.mean(0)
        else:
            hubness = (temperature * banked).exp().mean(0).log() / temperature
        return base(side) - weight * hubness

    return scores


def oas(rows: Tensor) -> float:
    """λ of the oracle approximating shrinkage estimator (Chen et al., 2010, arXiv 0907.4698)."""
    n, d = rows.shape
    covariance = Moments.of(rows).scatter / n
    square, trace = float((covariance**2).sum()), float(covariance.trace())
    share = ((1 - 2 / d) * square + trace**2) / ((n + 1 - 2 / d) * (square - trace**2 / d))
    return min(share, 0.99) / (1 - min(share, 0.99))


def likeliest(rows: Tensor) -> float:
    """λ of the highest held-out Gaussian likelihood, in FOLDS folds."""
    total = np.zeros(len(SHRINKAGES))
    for fold in range(FOLDS):
        held = torch.arange(len(rows)) % FOLDS == fold
        moments = Moments.of(rows[~held])
        values, directions = torch.linalg.eigh(moments.scatter / moments.count)
        squares = ((rows[held].double() - moments.mean) @ directions) ** 2
        for i, weight in enumerate(SHRINKAGES):
            spread = (values.clamp_min(0) + weight * values.mean()) / (1 + weight)
            total[i] -= float((squares / spread).sum() + held.sum() * spread.log().sum()) / 2
    return float(SHRINKAGES[total.argmax()])


def fixed(value: float) -> Callable[[Tensor], float]:
    return lambda rows: value


def per_sample(factor: float) -> Callable[[Tensor], float]:
    """λ = factor · d/n."""
    return lambda rows: factor * rows.shape[1] / len(rows)


CENTRED = whitened(centre=True)
VARIANTS: dict[str, Variant] = {
    PRESENT["whiten"]: whitened(),
    PRESENT["centre"]: CENTRED,
    "whitening, OAS": whitened(oas),
    "whitening, held-out likelihood": whitened(likeliest),
    "whitening, shrinkage 0.5": whitened(fixed(0.5)),
    "whitening, shrinkage 1": whitened(fixed(1)),
    "whitening, shrinkage 2": whitened(fixed(2)),
    "whitening, shrinkage 5": whitened(fixed(5)),
    "whitening, shrinkage 10": whitened(fixed(10)),
    "whitening, shrinkage 0.7 d/n": whitened(per_sample(0.7)),
    "whitening, first 128 components": whitened(kept=128),
    "whitening, first 256 components": whitened(kept=256),
    "centring, first component removed": whitened(centre=True, removed=1),
    "centring, first 3 components removed": whitened(centre=True, removed=3),
    "centring, first 10 components removed": whitened(centre=True, removed=10),
    "whitening, queries by themselves": whitened(own_queries=True),
    "centring, queries by themselves": whitened(centre=True, own_queries=True),
    "whitening, less mean score": less_hubs(whitened(), None, 1.0),
    "whitening, QB-Norm, β 10, half": less_hubs(whitened(), 10, 0.5),
    "whitening, QB-Norm, β 10": less_hubs(whitened(), 10, 1.0),
    "whitening, QB-Norm, β 30, half": less_hubs(whitened(), 30, 0.5),
    "whitening, QB-Norm, β 30": less_hubs(whitened(), 30, 1.0),
    "centring, less mean score": less_hubs(CENTRED, None, 1.0),
    "centring, QB-Norm, β 10": less_hubs(CENTRED, 10, 1.0),
    "centring, QB-Norm, β 30, half": less_hubs(CENTRED, 30, 0.5),
    "centring, QB-Norm, β 30": less_hubs(CENTRED, 30, 1.0),
    "centring, QB-Norm by reference queries, β 10": less_hubs(CENTRED, 10, 1.0, bundled=True),
    "centring, queries on all references": whitened(centre=True, part=1),
    "centring, queries on the nearest quarter": whitened(centre=True, part=0.25),
    "whitening, queries on all references": whitened(part=1),
    "whitening, queries on the nearest quarter": whitened(part=0.25),
}


def halves(vectors: dict[str, Tensor], pictures: bool) -> Iterator[Side]:
    """Both halves of the sentences, or of the scenes; raw vectors by the names of the
    diagnostic."""
    units = {name: unit(rows) for name, rows in vectors.items()}
    if pictures:
        queries, answers, corpus = units["caption"], units["picture"], units["picture"]
        references = torch.cat([units["sentence"], units["reference caption"]])
    else:
        queries, answers = units["sentence"], units["paraphrase"]
        corpus = torch.cat([answers, units["near_miss"]])
        references = None
    even = torch.arange(len(queries)) % 2 == 0
    for half in (even, ~even):
        yield Side(queries[half], answers[half], corpus, queries[~half], references)


def measure(vectors: dict[str, Tensor], kind: str, pictures: bool) -> list[dict[str, Any]]:
    """One row per variant: both measures, and their paired gains over the present form of a
    geometry."""
    sides = list(halves(vectors, pictures))
    everyone = np.arange(len(sides[0].queries))[None]
    present = [VARIANTS[PRESENT[kind]](side) for side in sides]
    rows = []
    for name, variant in VARIANTS.items():
        scores = [variant(side) for side in sides]

        def gaps(picks: ndarray, scores: list[Tensor] = scores) -> ndarray:
            return separation(scores, picks) - separation(present, picks)

        ends = percentiles(bootstrap(gaps, everyone.size, seed=0))
        ranks = reciprocal_ranks(scores)
        rows.append(
            {
                "variant": name,
                "reciprocal rank": float(ranks.mean()),
                "gain": mean_interval(ranks - reciprocal_ranks(present)).to_list(),
                "separation": float(separation(scores, everyone)[0]),
                "gain in separation": [float(gaps(everyone)[0]), *(float(end) for end in ends)],
            }
        )
    return rows


def reciprocal_ranks(scores: list[Tensor]) -> Float[ndarray, " queries"]:
    return np.concatenate(
        [1 / answer_ranks(matrix.numpy(), np.arange(len(matrix))) for matrix in scores]
    )


def separation(
    scores: list[Tensor], picks: Int[ndarray, "resamples queries"]
) -> Float[ndarray, " resamples"]:
    """d′ = (mean of right pairs - mean of wrong pairs) / root of the mean of their variances, over
    the pairs of both halves; `picks` resamples the queries of each."""
    right, wrong, count = [], [], 0
    for matrix in scores:
        values, own = matrix.double().numpy(), matrix.diagonal().double().numpy()
        count += values.shape[1] - 1
        right.append(np.stack([own, own**2]))
        wrong.append(np.stack([values.sum(1), (values**2).sum(1)]) - right[-1])
    # Sums over all picks of values and squares, `[2, resamples]`, give means and variances.
    size = len(scores) * picks.shape[1]
    hits = sum(part[:, picks].sum(-1) for part in right) / size
    misses = sum(part[:, picks].sum(-1) for part in wrong) / (count * picks.shape[1])
    variances = [square - mean**2 for mean, square in (hits, misses)]
    return (hits[0] - misses[0]) / np.sqrt(np.mean(variances, axis=0))


def main(model: str | None = None) -> None:
    """Measure a model at the prompt and site of its recipe, or print the tables."""
    if model is not None:
        backbone = Backbone.load(model)
        recipe = Recipe.from_report(report_of(backbone))
        save(backbone.name, recipe, embed(backbone, recipe))
    for file in sorted(HERE.glob("geometry_*.json")):
        show(read_json(file))


def embed(backbone: Backbone, recipe: Recipe) -> dict[str, Tensor]:
    """Raw vectors of the paraphrases and, where the backbone reads them, of the scenes."""
    prompt, sites = NAMED[recipe.prompt], [recipe.site]
    texts = embed_set(backbone, prompt, "paraphrases", sites, progress=True)
    paraphrases, near_misses = texts.documents.split(texts.set.pool)
    vectors = {"sentence": texts.queries, "paraphrase": paraphrases, "near_miss": near_misses}
    if "scenes" in sets_for(backbone):
        scenes = embed_set(backbone, prompt, "scenes", sites, progress=True)
        vectors |= {"caption": scenes.queries, "picture": scenes.documents}
        vectors["reference caption"] = prompted_states(backbone, prompt, captions(), "query", sites)
    return {name: states[:, 0] for name, states in vectors.items()}


def save(model: str, recipe: Recipe, vectors: dict[str, Tensor]) -> None:
    """Measure, and write the file of a model."""
    kind = recipe.geometry if recipe.geometry in PRESENT else "whiten"
    tables = {"paraphrases": measure(vectors, kind, pictures=False)}
    if "picture" in vectors:
        tables["pictures"] = measure(vectors, kind, pictures=True)
    about = {"model": model, "prompt": recipe.prompt, "site": recipe.site, "over": PRESENT[kind]}
    write_json(HERE / f"geometry_{model.replace('/', '-')}.json", {**about, "tables": tables})


def show(data: dict[str, Any]) -> None:
    for pairs, rows in data["tables"].items():
        title = f"{data['model']}, {data['prompt']} at {data['site']}: {pairs}, over {data['over']}"
        table = Table("variant", "reciprocal rank", "gain", "d′", "gain", title=title)
        for row in rows:
            table.add_row(
                row["variant"],
                f"{row['reciprocal rank']:.3f}",
                "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["gain"]),
                f"{row['separation']:.2f}",
                "{:+.2f} [{:+.2f}, {:+.2f}]".format(*row["gain in separation"]),
            )
        Console(width=120).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
