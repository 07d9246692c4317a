"""Where to read pictures: sites of the last layers under three prompts, raw and centred.

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
from typing import Any, NamedTuple

import cyclopts
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from freeret.evaluate.loaders import load_folder
from freeret.evaluate.loaders.pictures import captioned_pictures
from freeret.evaluate.loaders.scenes import make_ground
from probes import Backbone, Item
from probes.files import read_json, write_json
from probes.geometry import unit
from probes.measure.diagnostic.sets import answer_ranks
from probes.model.batches.states import prompted_states
from probes.plots import COLOURS, HOLLOW, STYLE, save
from probes.prompts import as_prompt
from probes.stats import Interval, mean_interval

HERE = Path(__file__).parent
PROMPTS = {"e5v": "E5-V", "control": "FreeRet", "prompteol": "PromptEOL"}
SITES = [*(f"{kind}[{layer}]" for layer in range(-6, 0) for kind in ("attn", "mlp")), "norm"]
SCENE_POOLS = 3

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


class Pool(NamedTuple):
    """Lists of items; the i-th items of all lists belong together."""

    items: dict[str, list[Item]]
    tasks: dict[str, tuple[str, str]]
    """The lists of queries and of documents of each task, by its name."""


def pools(drawings: Path | None) -> list[Pool]:
    """What is measured: a task of several pools is measured over all of them."""
    scenes = {
        "scenes, text→image": ("captions", "pictures"),
        "scenes, image→text": ("pictures", "captions"),
        "scenes, image→image": ("pictures", "renderings"),
    }
    found = []
    for seed in range(SCENE_POOLS):
        items = make_ground(seed).items
        found.append(Pool({k: items[k] for k in ("captions", "pictures", "renderings")}, scenes))
    for kind in ("photographs", "drawings"):
        found.append(_captioned(kind, *captioned_pictures(kind)))
    if drawings is not None:
        dataset = load_folder(drawings)
        documents = {item.id: item for item in dataset.documents}
        judged = (dataset.judgements[str(query.id)] for query in dataset.queries)
        found.append(_captioned("drawings", dataset.queries, [documents[id] for [id] in judged]))
    return found


def _captioned(kind: str, captions: list[Item], shown: list[Item]) -> Pool:
    task = f"{len(shown)} {kind}, text→image"
    return Pool({"captions": captions, "pictures": shown}, {task: ("captions", "pictures")})


def measure(model: str, drawings: Path | None) -> None:
    """Write the scores of a backbone."""
    backbone = Backbone.load(model)
    scores: list[Score] = []
    for name in PROMPTS:
        first: dict[str, list[np.ndarray]] = {}
        for pool in pools(drawings):
            # These prompts read queries and documents alike.
            states = {
                kind: prompted_states(
                    backbone, as_prompt(name), items, "document", SITES, progress=f"{name}, {kind}"
                )
                for kind, items in pool.items.items()
            }
            for task, (queries, documents) in pool.tasks.items():
                first.setdefault(task, []).append(_first(states[queries], states[documents]))
        right = {task: np.concatenate(found, axis=2) for task, found in first.items()}
        for column, site in enumerate(SITES):
            for centred in (False, True):
                found = {t: mean_interval(hits[column, int(centred)]) for t, hits in right.items()}
                scores.append({"prompt": name, "site": site, "centred": centred, "tasks": found})
    write_json(
        HERE / f"pictures_sites_{model}.json",
        {"pools": SCENE_POOLS, "fingerprint": backbone.fingerprint(), "scores": scores},
    )


def _first(queries: Tensor, documents: Tensor) -> np.ndarray:
    """Whether the first hit is the right one, 0 or 1, [sites, raw or centred, queries]."""
    answers = np.arange(len(queries))
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
    for ax in panels[::3]:
        ax.set_ylabel("Precision@1")
    for ax in panels[-3:]:
        ax.set_xlabel("site, in order of execution")
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
