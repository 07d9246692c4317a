"""Drawing results and ablations, apart from measuring them, in the project's one style."""

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
    "frame": ("stage 2", None),
}
"""Title of each panel, and the row of the paper's choice: a line goes through it."""


@rc_context(STYLE)
def draw_ablation(ablation: Ablation, title: str = "") -> Figure:
    """One panel a part, one line a row of the table: the metric with its 95% interval."""
    parts = {
        part: {row.label: Interval(*row.interval) for row in ablation.rows if row.part == part}
        for part in PARTS
    }
    shown = {part: rows for part, rows in parts.items() if rows}
    figure, panels = _stacked([len(rows) for rows in shown.values()])
    for ax, (part, rows) in zip(panels, shown.items(), strict=True):
        name, reference = PARTS[part]
        draw_intervals(rows, ax, reference)
        ax.set_title(name, fontsize=9)
    panels[-1].set_xlabel(ablation.metric)
    figure.suptitle(title)
    return figure


@rc_context(STYLE)
def draw_systems(suites: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """One panel a suite, under its title, one line a system with its 95% interval."""
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
def draw_regrets(found: Mapping[str, Sequence[Regret]], part: str) -> Figure:
    """A line from the worst to the best choice of each dataset, and a mark where the recipe's
    stands; a panel a backbone."""
    rows = {name: [r for r in regrets if r.part == part] for name, regrets in found.items()}
    figure, panels = _stacked([len(own) for own in rows.values()])
    for ax, (name, own) in zip(panels, rows.items(), strict=True):
        for y, r in enumerate(own):
            ax.plot([r.worst_value, r.best_value], [y, y], color="0.6", marker="|", zorder=1)
            ax.plot(r.value, y, color=COLOURS[0], marker=MARKERS[0])
        ax.set_yticks(range(len(own)), [f"{r.dataset}: {r.chosen}" for r in own])
        ax.set_ylim(len(own) - 0.5, -0.5)
        ax.set_title(name, fontsize=9)
    panels[-1].set_xlabel(f"the {part} chosen (point), between the worst and the best (line)")
    return figure


def _stacked(lines: Sequence[int]) -> tuple[Figure, Sequence[Axes]]:
    """Panels over each other with one x axis, each as high as the lines it holds."""
    size = (6.4, 0.26 * sum(lines) + 0.5 * len(lines) + 0.6)
    figure = Figure(figsize=size, layout="constrained")
    ratios = {"height_ratios": lines}
    panels = figure.subplots(len(lines), sharex=True, squeeze=False, gridspec_kw=ratios)
    return figure, list(panels[:, 0])
