"""Where to read pictures: sites of the last layers under four prompts, raw and centred.

    python figures/pictures_sites.py --model smolsight --drawings DATA/drawings
    python figures/pictures_sites.py                     # draws all that was measured

Drawn scenes of held-out combinations, three pools of 100, and the photographs and drawings that
come with the project; with --drawings also those of a folder, as `freeret eval folder:` reads it.
Precision@1 of the embedder alone, its vectors as they are and with the mean of queries and of
documents subtracted; intervals are 95%. Writes figures/pictures_sites_<model>.json and the figure
beside it, and prints the table.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import load_folder
from freeret.evaluate.loaders.pictures import load_pictures
from freeret.evaluate.loaders.scenes import load_scenes
from probes import Backbone
from probes.files import read_json, write_json
from probes.geometry import unit
from probes.measure.diagnostic.sets import answer_ranks
from probes.model.batches.states import prompted_states
from probes.plots import COLOURS, HOLLOW, STYLE, save
from probes.prompts import as_prompt
from probes.stats import Interval, mean_interval

HERE = Path(__file__).parent
PROMPTS = {"e5v": "E5-V", "control": "FreeRet", "prompteol": "PromptEOL", "topic": "topic"}
SITES = [*(f"{kind}[{layer}]" for layer in range(-6, 0) for kind in ("attn", "mlp")), "norm"]
POOLS = 3

Score = dict[str, Any]
"""Prompt, site, whether vectors are centred, and the interval of each task."""


def main(*, model: str | None = None, drawings: Path | None = None) -> None:
    """Draw all files.

    Args:
        model: Measure this backbone first.
        drawings: Folder of more pictures with their names as queries.
    """
    if model:
        measure(model, drawings)
    for file in sorted(HERE.glob("pictures_sites_*.json")):
        scores = read_json(file)["scores"]
        save(draw(scores), file.with_suffix(""))
        show(scores, file.stem)


def tasks(drawings: Path | None) -> dict[str, list[Dataset]]:
    """The datasets of each task by its name; a query of each has one right document."""
    measured = {
        f"scenes, {task}": [load_scenes(seed, task) for seed in range(POOLS)]
        for task in ("text→image", "image→text", "image→image")
    }
    for kind in ("photographs", "drawings"):
        dataset = load_pictures(kind, "text→image")
        measured[f"{len(dataset.documents)} {kind}, text→image"] = [dataset]
    if drawings is not None:
        dataset = load_folder(drawings)
        measured[f"{len(dataset.documents)} drawings, text→image"] = [dataset]
    return measured


def measure(model: str, drawings: Path | None) -> None:
    """Write the scores of a backbone."""
    backbone = Backbone.load(model)
    measured = tasks(drawings)
    scores = []
    for name in PROMPTS:
        prompt = as_prompt(name)
        right = {
            task: [
                _right(
                    dataset,
                    prompted_states(
                        backbone, prompt, dataset.queries, "query", SITES, progress=task
                    ),
                    prompted_states(
                        backbone, prompt, dataset.documents, "document", SITES, progress=task
                    ),
                )
                for dataset in datasets
            ]
            for task, datasets in measured.items()
        }
        for column, site in enumerate(SITES):
            for centred in (False, True):
                found = {
                    task: mean_interval(
                        np.concatenate([pool[column, int(centred)] for pool in pools])
                    )
                    for task, pools in right.items()
                }
                scores.append({"prompt": name, "site": site, "centred": centred, "tasks": found})
    write_json(
        HERE / f"pictures_sites_{model}.json",
        {"pools": POOLS, "fingerprint": backbone.fingerprint, "scores": scores},
    )


def _right(dataset: Dataset, queries: Tensor, documents: Tensor) -> np.ndarray:
    """Whether the first hit is the right one, [sites, raw or centred, queries]."""
    place = {item.id: number for number, item in enumerate(dataset.documents)}
    judged = (dataset.judgements[str(query.id)] for query in dataset.queries)
    answers = np.array([place[id] for [id] in judged])
    rows = []
    for column in range(len(SITES)):
        sides = [queries[:, column].float(), documents[:, column].float()]
        for asked, held in (sides, [side - side.mean(0) for side in sides]):
            rows.append(answer_ranks((unit(asked) @ unit(held).T).numpy(), answers) == 1)
    return np.array(rows, dtype=float).reshape(len(SITES), 2, -1)


@rc_context(STYLE)
def draw(scores: Sequence[Score]) -> Figure:
    """A panel per task: Precision@1 by site, in order of execution; bands are 95% intervals."""
    names = list(scores[0]["tasks"])
    sites = list(dict.fromkeys(score["site"] for score in scores))
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(12.5, 3.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).flatten()
    for ax, task in zip(panels, names, strict=False):
        for (prompt, label), colour in zip(PROMPTS.items(), COLOURS, strict=False):
            for centred, words in ((False, "raw"), (True, "centred")):
                line = [s for s in scores if (s["prompt"], s["centred"]) == (prompt, centred)]
                look = {} if centred else {"linestyle": "--", **HOLLOW}
                _line(ax, line, task, {"color": colour, "label": f"{label}, {words}", **look})
        ax.set_title(task)
        ax.set_xticks(range(len(sites)), sites, rotation=60)
        ax.set_ylim(0, 1)
    for ax in panels[len(names) :]:
        ax.remove()
    figure.supxlabel("site, in order of execution")
    figure.supylabel("Precision@1")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(PROMPTS))
    return figure


def _line(ax: Axes, scores: Sequence[Score], task: str, look: dict[str, Any]) -> None:
    mean, low, high = np.array([score["tasks"][task] for score in scores]).T
    ax.fill_between(range(len(mean)), low, high, color=look["color"], alpha=0.12, linewidth=0)
    ax.plot(mean, marker="o", **look)


def show(scores: Sequence[Score], title: str) -> None:
    """Print the table."""
    table = Table("prompt", "site", "vectors", *scores[0]["tasks"], title=f"{title}: Precision@1")
    for score in scores:
        found = (str(Interval(*interval)) for interval in score["tasks"].values())
        vectors = "centred" if score["centred"] else "raw"
        table.add_row(PROMPTS[score["prompt"]], score["site"], vectors, *found)
    Console(width=180).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
