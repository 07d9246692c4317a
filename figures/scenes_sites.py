"""Where to read pictures: sites of the last layers, E5-V's prompt against the paper's, on scenes.

    python figures/scenes_sites.py

Three pools of 100 scenes of held-out combinations, each extraction raw and with the mean of each
modality subtracted. Draws figures/scenes_sites_<model>.json and prints the table of text→image,
image→text and image→image. The files were measured by an earlier version of this script (`python
figures/scenes_sites.py --model smolsight`); `freeret ablate scenes:3 --model smolsight` measures
the same extractions, but keeps intervals only for the control prompt's sites.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cyclopts
import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from probes.files import read_json
from probes.geometry import GeometryKind
from probes.plots import COLOURS, HOLLOW, STYLE, save
from probes.stats import Interval

HERE = Path(__file__).parent
PROMPTS = {"e5v": "E5-V", "control": "FreeRet", "prompteol": "PromptEOL"}
GEOMETRIES: dict[GeometryKind, str] = {"none": "raw", "centre": "centred"}
SHOWN = ("text→image", "image→text", "image→image")


@dataclass(frozen=True)
class SceneScores:
    """One extraction: Precision@1 by task, over all pools."""

    prompt: str
    site: str
    geometry: GeometryKind
    tasks: dict[str, Interval]

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "SceneScores":
        tasks = {task: Interval(*row[task]) for task in SHOWN}
        return cls(row["prompt"], row["site"], row["geometry"], tasks)


def main() -> None:
    for file in sorted(HERE.glob("scenes_sites_*.json")):
        scores = [SceneScores.from_json(row) for row in read_json(file)["settings"]]
        save(draw(scores), file.with_suffix(""))
        show(scores)


@rc_context(STYLE)
def draw(scores: list[SceneScores]) -> Figure:
    """One panel per task: Precision@1 by site, in order of execution; bands are 95% intervals."""
    sites = list(dict.fromkeys(score.site for score in scores))
    figure = Figure(figsize=(12.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(SHOWN), sharey=True)
    for ax, task in zip(panels, SHOWN, strict=True):
        for (prompt, label), colour in zip(PROMPTS.items(), COLOURS, strict=False):
            for kind, words in GEOMETRIES.items():
                line = [s for s in scores if (s.prompt, s.geometry) == (prompt, kind)]
                look = {"linestyle": "--", **HOLLOW} if kind == "none" else {}
                _line(ax, line, task, {"color": colour, "label": f"{label}, {words}", **look})
        ax.set_title(task)
        ax.set_xticks(range(len(sites)), sites, rotation=60)
        ax.set_xlabel("site, in order of execution")
        ax.set_ylim(0, 1)
    panels[0].set_ylabel("Precision@1 among 100")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _line(ax: Axes, scores: list[SceneScores], task: str, look: dict) -> None:
    mean, low, high = np.array([score.tasks[task] for score in scores]).T
    ax.fill_between(range(len(mean)), low, high, color=look["color"], alpha=0.15, linewidth=0)
    ax.plot(mean, marker="o", **look)


def show(scores: list[SceneScores]) -> None:
    table = Table("prompt", "site", "geometry", *SHOWN, title="Precision@1 [95%]")
    for score in scores:
        row = (
            PROMPTS[score.prompt],
            score.site,
            GEOMETRIES[score.geometry],
        )
        table.add_row(*row, *(str(score.tasks[task]) for task in SHOWN))
    Console(width=120).print(table)


if __name__ == "__main__":
    cyclopts.run(main)
