"""Label skew against AUC: which frames favour a label, and which can tell a match.

freeret probe MODEL --out out/MODEL; cp out/MODEL/report.json probes/data/reports/MODEL.json
python figures/framing.py
"""

from pathlib import Path

from probes import ProbeReport
from probes.data import REPORTS
from probes.plots import save
from probes.plots.figures import figure_of

HERE = Path(__file__).parent


def main() -> None:
    reports = {path.stem: ProbeReport.load(path) for path in sorted(REPORTS.glob("*.json"))}
    framing = {name: report.framing for name, report in reports.items()}
    save(figure_of("framing", framing), HERE / "framing")


if __name__ == "__main__":
    main()
