"""Synonyms and their controls by site, and their separation d′, for several backbones.

freeret probe MODEL --out out/MODEL; cp out/MODEL/report.json probes/data/reports/MODEL.json
python figures/synonyms.py
"""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from probes import ProbeReport
from probes.data import REPORTS
from probes.plots import STYLE, draw_separation, draw_synonyms, save

HERE = Path(__file__).parent


def main() -> None:
    reports = {path.stem: ProbeReport.load(path) for path in sorted(REPORTS.glob("*.json"))}
    with rc_context(STYLE):
        figure = Figure(figsize=(1.6 + 4.2 * len(reports), 6), layout="constrained")
        panels = figure.subplots(2, len(reports), sharex="col", sharey="row", squeeze=False)
        for (name, report), (above, below) in zip(reports.items(), panels.T, strict=True):
            draw_synonyms(report.synonyms, above, legend=False)
            draw_separation(report.synonyms, below)
            above.set_title(name)
            below.tick_params(axis="x", rotation=60)
        for ax in panels.flat:
            ax.label_outer()
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save(figure, HERE / "synonyms")


if __name__ == "__main__":
    main()
