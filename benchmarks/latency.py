"""What accuracy costs: seconds of one query against Precision@1, stage 1 alone and reranked.

    python benchmarks/latency.py --data DATA/captions --model qwen2.5-coder-0.5b \
        --depth 5 --depth 10
    python benchmarks/latency.py --data DATA/captions --model smollm2-135m

The documents are in a store already; a query is embedded, searched for, and its first candidates
are judged, one query at a time, the ways in turn. DATA is a BEIR folder of paraphrases; the recipe
is that of probes/data/reports/<model>.json. Writes benchmarks/results/latency_<model>.json;
figures/latency.py draws it.
"""

import os
import tempfile
import time
from pathlib import Path

import cyclopts
import numpy as np

from common import median, save
from freeret import FreeRet, Recipe
from freeret.evaluate.datasets import sample
from freeret.evaluate.loaders import load_beir
from probes import Backbone, ProbeReport
from probes.data import REPORTS
from probes.stats import mean_interval

ROOT = Path(__file__).parents[1]


def main(
    *, data: Path, model: str, depth: tuple[int, ...] = (), queries: int | None = None
) -> None:
    backbone = Backbone.load(model)
    report = ProbeReport.load(REPORTS / f"{model}.json")
    dataset = sample(load_beir(data, task="same meaning", metrics=("P@1",)), queries)
    ways = {
        "E5-V extraction": (Recipe.e5v(), 0),
        "FreeRet-embed": (Recipe.paper(), 0),
        "recipe": (Recipe.from_report(report), 0),
        **{f"recipe, top {k}": (Recipe.from_report(report), k) for k in sorted(depth)},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    right: dict[str, list[float]] = {name: [] for name in ways}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        made: dict[Recipe, FreeRet] = {}
        for recipe, _ in ways.values():
            if recipe not in made:
                made[recipe] = FreeRet(backbone, recipe, progress=True)
                made[recipe].index(dataset.documents, Path(folder) / str(len(made)))
                made[recipe].progress = False
        for turn, query in enumerate([dataset.queries[0], *dataset.queries]):
            for name, (recipe, count) in ways.items():
                start = time.perf_counter()
                hits = made[recipe].search(query, top_n=max(10, count), rerank=count)
                if turn:  # the first one warms up
                    seconds[name].append(time.perf_counter() - start)
                    right[name].append(dataset.judgements[query.id or ""].get(hits[0].id, 0) > 0)
    save(
        f"latency_{model}",
        {
            "model": model,
            "queries": len(dataset.queries),
            "documents": len(dataset.documents),
            "note": dataset.note,
            "load before and after": [load, os.getloadavg()[0]],
            "ways": {
                name: {
                    "seconds": median(seconds[name]),
                    "precision_at_1": list(map(float, mean_interval(np.array(right[name])))),
                }
                for name in ways
            },
        },
    )


if __name__ == "__main__":
    cyclopts.run(main)
