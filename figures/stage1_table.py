"""Stage 1 on a BEIR folder: E5-V, PromptEOL, hierarchical, ReAlign, the paper's choice, the recipe.

    python figures/stage1_table.py --data DATA_FOLDER --model smollm2-135m

Writes figures/stage1_<data>_<model>.json and prints the table; without --data it only draws what
was measured. The recipe comes from the probe report in probes/data/reports; the judgements are
used for scoring alone.
"""

from pathlib import Path

import cyclopts
from rich.console import Console
from rich.table import Table
from torch import Tensor

from freeret import ControlPrompt, Embedder, Recipe
from freeret.corpus_geometry import own_vectors
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import load_beir
from freeret.evaluate.metrics import Figure, difference, figure
from freeret.evaluate.plots import draw_methods
from freeret.evaluate.vectors import rank
from probes import Backbone, ProbeReport
from probes.data import REPORTS
from probes.files import write_json
from probes.geometry import Kind
from probes.plots import save
from probes.prompts import Prompt, as_prompt

HERE = Path(__file__).parent


def methods(recipe: Recipe) -> dict[str, tuple[Prompt, str, Kind]]:
    """Prompt, site and geometry of each row."""
    rows: dict[str, tuple[str | Prompt, str, Kind]] = {
        "E5-V extraction": ("e5v", "norm", "none"),
        "PromptEOL": ("prompteol", "norm", "none"),
        "hierarchical prompt": ("hierarchical", "norm", "none"),
        "ReAlign on E5-V": ("e5v", "norm", "whiten"),
        "FreeRet-embed as in the paper": ("control", "attn[-1]", "none"),
        "recipe": (recipe.prompt, recipe.site, recipe.geometry),
        "paper, no task prior": (ControlPrompt(task=None), "attn[-1]", "none"),
        "paper, no grounding prior": (ControlPrompt(grounding=False), "attn[-1]", "none"),
        "paper, no denoising prior": (ControlPrompt(denoise=False), "attn[-1]", "none"),
        "paper, no prior": (
            ControlPrompt(task=None, grounding=False, denoise=False), "attn[-1]", "none"
        ),
    }  # fmt: skip
    return {name: (as_prompt(p), site, kind) for name, (p, site, kind) in rows.items()}


def main(*, data: Path | None = None, model: str = "smollm2-135m") -> None:
    if data:
        measure(data, model)
    for measured in HERE.glob("stage1_*.json"):
        label = "Precision@1 with 95% intervals"
        save(draw_methods(measured, "recipe", label), measured.with_suffix(""))


def measure(data: Path, model: str) -> None:
    dataset, backbone = load_beir(data), Backbone.load(model)
    recipe = Recipe.from_report(ProbeReport.load(REPORTS / f"{model}.json"))
    rows = methods(recipe)
    encoded: dict[tuple[Prompt, str], tuple[Tensor, Tensor]] = {}
    found: dict[str, Figure] = {}
    for name, (prompt, site, kind) in rows.items():
        embedder = Embedder(backbone, site, prompt)
        if (prompt, site) not in encoded:
            encoded[prompt, site] = (
                embedder.encode_query(dataset.queries, progress=True),
                embedder.encode_document(dataset.documents, progress=True),
            )
        queries, documents = encoded[prompt, site]
        run = rank(dataset, queries, documents, kind, own_vectors(embedder.encode))
        found[name] = figure(dataset, run, "P@1")
    result = {"data": dataset.name, "model": model, "fingerprint": backbone.fingerprint()}
    result["recipe"] = recipe.to_json()
    result["methods"] = {n: table_row(n, found) for n in found}
    write_json(HERE / f"stage1_{dataset.name}_{model}.json", result)
    show(dataset, result["methods"])


def table_row(name: str, found: dict[str, Figure]) -> dict:
    reference = "FreeRet-embed as in the paper" if name.startswith("paper") else "recipe"
    gain, p = difference([(found[reference], found[name])])
    return {
        "precision_at_1": found[name].interval().to_list(),
        "against": reference,
        "gain_of_reference": gain.to_list(),
        "p": p,
        "per_query": found[name].values.tolist(),
    }


def show(dataset: Dataset, rows: dict[str, dict]) -> None:
    title = f"{dataset.name}: {len(dataset.queries)} queries, pool {len(dataset.documents)}, P@1"
    table = Table("method", "P@1 [95%]", "compared row minus this [95%]", "p", title=title)
    for name, row in rows.items():
        point, low, high = row["precision_at_1"]
        gain, under, over = row["gain_of_reference"]
        said = f"{row['against']}: {gain:+.3f} [{under:+.3f}, {over:+.3f}]"
        table.add_row(name, f"{point:.3f} [{low:.3f}, {high:.3f}]", said, f"{row['p']:.3f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
