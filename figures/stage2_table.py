"""Stage 2 on a BEIR folder: every frame judges the first candidates of stage 1.

    python figures/stage2_table.py --data DATA_FOLDER --model qwen2.5-coder-0.5b --top-n 10

Writes figures/stage2_<data>_<model>.json and prints the table; without --data it only draws what
was measured. Each frame in both orders of its options, averaged, and calibrated; the A/B question
also with its options after the candidate, which leaves less to share; stage 1 alone and the recipe
stand beside. The recipe comes from the probe report in probes/data/reports.
"""

from pathlib import Path

import cyclopts
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from freeret import Embedder, Recipe, Reranker
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import load_beir
from freeret.evaluate.metrics import Figure, difference
from freeret.evaluate.plots import draw_methods
from freeret.retriever import fuse
from probes import FRAMES, Backbone, Geometry, ProbeReport
from probes.data import REPORTS
from probes.files import write_json
from probes.framing import SWAPPED, content_free_margin
from probes.plots import save
from probes.stats import auc, mean_interval

HERE = Path(__file__).parent
SHARED = ("mcq", "yes_no", "true_false", "right_wrong")


def main(*, data: Path | None = None, model: str = "qwen2.5-coder-0.5b", top_n: int = 10) -> None:
    if data:
        measure(data, model, top_n)
    for measured in HERE.glob("stage2_*.json"):
        label = "Precision@1 among the candidates, with 95% intervals"
        save(draw_methods(measured, "stage 1 alone", label), measured.with_suffix(""))


def measure(data: Path, model: str, top_n: int) -> None:
    dataset, backbone = load_beir(data), Backbone.load(model)
    recipe = Recipe.from_report(ProbeReport.load(REPORTS / f"{model}.json"))
    scores, chosen = first_stage(dataset, backbone, recipe, top_n)
    pairs = [
        (query, dataset.documents[i])
        for query, row in zip(dataset.queries, chosen, strict=True)
        for i in row
    ]
    relevant = np.array([d.id in dataset.judgements[q.id or ""] for q, d in pairs])
    relevant = relevant.reshape(chosen.shape)

    margins: dict[str, np.ndarray] = {}
    blanks: dict[str, float] = {}
    for name in SHARED:
        plain = Reranker(backbone, name).margins(pairs, progress=True).reshape(chosen.shape)
        swapped = Reranker(backbone, SWAPPED[name]).margins(pairs, progress=True)
        margins[name] = plain
        margins[f"{name}, other order"] = swapped.reshape(chosen.shape)
        margins[f"{name}, both orders"] = (plain + margins[f"{name}, other order"]) / 2
        blanks[name] = content_free_margin(backbone, FRAMES[name])
    last = Reranker(backbone, "mcq", layout="options last").margins(pairs, progress=True)
    margins["mcq, options last"] = last.reshape(chosen.shape)
    blanks["mcq, options last"] = content_free_margin(
        backbone, FRAMES["mcq"], layout="options last"
    )
    first = relevant[:, 0].astype(float)  # stage 1 ranks its candidates best first
    rows = {"stage 1 alone": row_of(scores, relevant, first, None)}
    for name, values in margins.items():
        rows[name] = row_of(values, relevant, first, blanks.get(name))
    if recipe.frame is not None:
        fused = np.stack(
            [fuse(s, m, recipe.fusion) for s, m in zip(scores, margins[recipe.frame], strict=True)]
        )
        rows["recipe"] = row_of(fused, relevant, first, None)
    else:
        rows["recipe"] = rows["stage 1 alone"]
    result = {
        "data": dataset.name, "model": model, "top_n": top_n, "recipe": recipe.to_json(),
        "fingerprint": backbone.fingerprint(), "methods": rows,
        "relevant": relevant.tolist(), "stage1": np.round(scores, 5).tolist(),
        "margins": {name: np.round(values, 4).tolist() for name, values in margins.items()},
    }  # fmt: skip
    write_json(HERE / f"stage2_{dataset.name}_{model}.json", result)
    show(f"{dataset.name}, {model}, top {top_n}", rows)


def first_stage(
    dataset: Dataset, backbone: Backbone, recipe: Recipe, top_n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and document indices of the first candidates, best first."""
    embedder = Embedder.from_recipe(backbone, recipe)
    documents = embedder.encode_document(dataset.documents, progress=True)
    queries = embedder.encode_query(dataset.queries, progress=True)
    geometry = Geometry.fit(recipe.geometry, {"text": documents})
    mapped = geometry.map(documents, ["text"] * len(documents), "document")
    similarity = geometry.map(queries, ["text"] * len(queries), "query") @ mapped.T
    best = torch.topk(similarity, top_n, dim=1)
    return best.values.numpy(), best.indices.numpy()


def row_of(
    scores: np.ndarray, relevant: np.ndarray, first: np.ndarray, blank: float | None
) -> dict:
    """P@1 among the candidates, its difference to stage 1, AUC, label skew without content."""
    hit = relevant[np.arange(len(scores)), scores.argmax(1)].astype(float)
    gain, p = difference([(Figure("P@1", hit), Figure("P@1", first))])
    return {
        "precision_at_1": mean_interval(hit).to_list(),
        "gain": gain.to_list(),
        "p": p,
        "auc": auc(scores.ravel(), relevant.ravel()),
        "p_without_content": None if blank is None else float(1 / (1 + np.exp(-blank))),
        "accuracy": float(((scores > 0) == relevant).mean()),
        "accuracy_calibrated": (
            None if blank is None else float(((scores > blank) == relevant).mean())
        ),
        "per_query": hit.tolist(),
    }


def show(title: str, rows: dict[str, dict]) -> None:
    table = Table("method", "P@1 [95%]", "minus stage 1", "p", "AUC", "skew", title=title)
    for name, row in rows.items():
        point, low, high = row["precision_at_1"]
        gain, under, over = row["gain"]
        skew = row["p_without_content"]
        table.add_row(
            name,
            f"{point:.3f} [{low:.3f}, {high:.3f}]",
            f"{gain:+.3f} [{under:+.3f}, {over:+.3f}]",
            f"{row['p']:.3f}",
            f"{row['auc']:.3f}",
            "" if skew is None else f"{skew:.2f}",
        )
    Console(width=140).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
