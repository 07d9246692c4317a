"""Where several backbones lexicalize, under each kind of prompt.

freeret probe smollm2-135m --out out/smollm2-135m    (and gemma3-270m)
cp out/smollm2-135m/report.json probes/data/reports/smollm2-135m.json
python figures/curves.py
"""

from pathlib import Path

from probes import ProbeReport
from probes.data import REPORTS
from probes.plots import save, turns_figure

HERE = Path(__file__).parent
BACKBONES = {
    "SmolLM2-135M": "smollm2-135m",
    "Gemma-3-270M": "gemma3-270m",
    "Qwen2.5-Coder-0.5B": "qwen2.5-coder-0.5b",
}


def main() -> None:
    curves = {n: ProbeReport.load(REPORTS / f"{f}.json").curves for n, f in BACKBONES.items()}
    save(turns_figure(curves), HERE / "curves")


if __name__ == "__main__":
    main()
