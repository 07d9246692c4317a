"""Ray against one process: throughput, the same results, and what kills do.

    python benchmarks/ray_engine.py               # 5,000 texts, smollm2-135m
    python benchmarks/ray_engine.py --kills 20                   # a tiny random model

Throughput: two actors of one core against one process of two cores, from the first to the last
commit, so that neither Ray's start nor the loading of the backbone counts; both are said apart. The
single run also checks the sizing formula: hours foretold from the tokens/s of `freeret check`.
Writes benchmarks/results/ray_{throughput,kills}.json.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
import torch

from common import save
from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.sizing import Sizing, computed, tokens_per_second
from freeret.sources.files import Files
from freeret.store.indexing import BLOCK
from freeret.store.table import Store
from probes import Backbone, Item
from probes.data import paraphrases
from probes.geometry import unit

sys.path.append(str(Path(__file__).parents[1]))

from tests.scale.test_ray_engine import kill_ray
from tests.stores import save_tiny

RECIPE = Recipe("prompteol", "attn[-1]", "centre", None)
QUERIES = 50


def texts(count: int) -> list[str]:
    """Sentences like captions, each unlike all others."""
    own = [row["sentence"] for row in paraphrases()]
    return [f"{own[k % len(own)]} ({k})" for k in range(count)]


def write(folder: Path, rows: list[str]) -> Path:
    """Four files, so that reading is spread too."""
    folder.mkdir()
    for part in range(4):
        lines = [json.dumps({"id": f"i{k:06}", "text": rows[k]}) for k in range(part, len(rows), 4)]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return folder


def working_seconds(store: Path, started: float) -> dict[str, float]:
    """From the first commit to the last, by the versions of the table, and what came before."""
    stamps = [v["timestamp"].timestamp() for v in Store.open(store).table.list_versions()]
    commits = sorted(stamps)[1:]  # the first is the creation
    return {"before the first commit": commits[0] - started, "after it": commits[-1] - commits[0]}


def throughput(folder: Path, model: str, items: int) -> dict[str, Any]:
    backbone, corpus = Backbone.load(model), write(folder / "corpus", texts(items))
    speed = tokens_per_second(backbone)
    embedder = Embedder.from_recipe(backbone, RECIPE)
    tokens = computed([embedder.rows(Item(text))[0] for text in texts(items)]) / items
    foretold = Sizing(items, speed / tokens, backbone.hidden_size).hours * 3600
    seconds, retrievers = {}, {}
    for name, options in {"one": {}, "ray": {"engine": "ray", "num_actors": 2}}.items():
        retrievers[name] = FreeRet(backbone, RECIPE)
        start = time.time()
        retrievers[name].index(Files([corpus]), folder / name, **options)
        seconds[name] = {
            "whole": time.time() - start, **working_seconds(folder / name, start)
        }  # fmt: skip
        print(name, seconds[name], flush=True)
    found, expected = (
        [[h.id for h in hits] for hits in retrievers[n].search_many(texts(QUERIES), top_n=10)]
        for n in ("ray", "one")
    )
    ours, theirs = (Store.open(folder / name).vectors() for name in ("ray", "one"))
    rates = {
        name: (items - BLOCK * (2 if name == "ray" else 1)) / s["after it"]
        for name, s in seconds.items()
    }
    return {
        "items": items, "model": model, "threads of one": torch.get_num_threads(),
        "tokens an item": tokens, "tokens/s": speed,
        "seconds foretold for one": foretold, "seconds": seconds, "items/s": rates,
        "ray / one": rates["ray"] / rates["one"],
        "whole run, ray / one": seconds["one"]["whole"] / seconds["ray"]["whole"],
        "same ids": ours.ids == theirs.ids,
        "largest difference of a unit vector": float(
            (unit(ours.vectors) - unit(theirs.vectors)).abs().max()
        ),
        "queries with the same ten": sum(map(list.__eq__, found, expected)) / QUERIES,
    }  # fmt: skip


def main(*, model: str = "smollm2-135m", items: int = 5000, kills: int = 0) -> None:
    """Throughput, or with `kills` so many deaths instead."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # else Ray's workers yield to everything
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder, before = Path(temporary), os.getloadavg()[0]
        if kills:
            found = kill_ray(folder / "run", save_tiny(folder / "model"), items, kills)
        else:
            found = throughput(folder, model, items)
        about["load before and after"] = [before, os.getloadavg()[0]]
    print(json.dumps(found, indent=1))
    save("ray_kills" if kills else "ray_throughput", about | found)


if __name__ == "__main__":
    cyclopts.run(main)
