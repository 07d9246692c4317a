"""Figures of results and ablations, in the project's style."""

from collections.abc import Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freeret.evaluate.ablation.file import Regret
from freeret.evaluate.ablation.measure import Ablation
from probes.plots import COLOURS, MARKERS, STYLE, draw_intervals
from probes.stats import Interval

PARTS = {
    "choice": ("whole choices", "FreeRet-embed"),
    "site": ("site, under the control prompt", "attn[-1]"),
    "prior": ("a prior off, at attn[-1]", None),
    "prompt": ("prompt, at attn[-1]", "control"),
    "geometry": ("geometry, at attn[-1] and at the recipe's site", "none"),
    "lexical": ("weight of BM25, as in the recipe otherwise", "recipe, 0"),
    "frame": ("stage 2", None),
}
"""Part -> title of its panel, and the row of the paper's choice, through which a line is drawn."""


@rc_context(STYLE)
def draw_ablation(ablation: Ablation, title: str = "") -> Figure:
    """Draw a panel per part and a line per row of the table: the metric with its 95% interval."""
    parts = {
        part: {row.label: Interval(*row.interval) for row in ablation.rows if row.part == part}
        for part in PARTS
    }
    measured = {part: rows for part, rows in parts.items() if rows}
    figure, panels = _stacked([len(rows) for rows in measured.values()])
    for ax, (part, rows) in zip(panels, measured.items(), strict=True):
        name, reference = PARTS[part]
        draw_intervals(rows, ax, reference)
        ax.set_title(name, fontsize=9)
    panels[-1].set_xlabel(ablation.metric)
    figure.suptitle(title)
    return figure


@rc_context(STYLE)
def draw_systems(suites: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """Draw a panel per suite, by its title, and a line per system with its 95% interval."""
    columns = 1 if len(suites) < 4 else 2
    lines = -(-len(suites) // columns)
    height = lines * (0.6 + 0.24 * max(map(len, suites.values())))
    figure = Figure(figsize=(3.6 * columns + 1.4, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, (title, systems) in zip(panels, suites.items(), strict=False):
        draw_intervals(systems, ax)
        ax.set_title(title, fontsize=9)
    for ax in panels[len(suites) :]:
        ax.remove()
    return figure


@rc_context(STYLE)
def draw_regrets(regrets: Mapping[str, Sequence[Regret]], part: str) -> Figure:
    """Draw a panel per backbone: a line from the worst to the best choice on each dataset, with a
    mark at the recipe's."""
    rows = {name: [r for r in several if r.part == part] for name, several in regrets.items()}
    figure, panels = _stacked([len(lines) for lines in rows.values()])
    for ax, (name, lines) in zip(panels, rows.items(), strict=True):
        for y, r in enumerate(lines):
            ax.plot([r.worst_value, r.best_value], [y, y], color="0.6", marker="|", zorder=1)
            ax.plot(r.value, y, color=COLOURS[0], marker=MARKERS[0])
        ax.set_yticks(range(len(lines)), [f"{r.dataset}: {r.chosen}" for r in lines])
        ax.set_ylim(len(lines) - 0.5, -0.5)
        ax.set_title(name, fontsize=9)
    label = f"the {part} chosen (point), between the worst and the best (line)"
    figure.supxlabel(label, fontsize=9)
    return figure


def _stacked(lines: Sequence[int]) -> tuple[Figure, Sequence[Axes]]:
    """Stacked panels with a shared x axis, each as high as its number of lines."""
    size = (6.4, 0.26 * sum(lines) + 0.5 * len(lines) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    ratios = {"height_ratios": lines}
    panels = figure.subplots(len(lines), sharex=True, squeeze=False, gridspec_kw=ratios)
    return figure, list(panels[:, 0])
