"""Label skew against AUC: which frames favour a label, and which can tell a match.

freeret probe MODEL --out out/MODEL; cp out/MODEL/report.json probes/data/reports/MODEL.json
python figures/framing.py
"""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from probes import ProbeReport
from probes.data import REPORTS
from probes.plots import STYLE, draw_framing, save

HERE = Path(__file__).parent


def main() -> None:
    reports = {path.stem: ProbeReport.load(path) for path in sorted(REPORTS.glob("*.json"))}
    with rc_context(STYLE):
        figure = Figure(figsize=(2 + 3.4 * len(reports), 3.6), layout="constrained")
        panels = figure.subplots(1, len(reports), sharey=True, squeeze=False)[0]
        for (name, report), ax in zip(reports.items(), panels, strict=True):
            draw_framing(report.framing, ax)
            ax.set_title(name)
            ax.label_outer()
            if ax is not panels[-1]:
                ax.get_legend().remove()
    save(figure, HERE / "framing")


if __name__ == "__main__":
    main()
