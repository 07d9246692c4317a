"""What each part of the method is worth, and what the recipe's choices cost.

    freeret ablate paraphrases:DATA/captions sts:DATA/stsb-dev.tsv --model smollm2-135m \
        --recipe figures/results/smollm2-135m/chosen/recipe.json \
        --out figures/results/smollm2-135m/ablation
    python figures/ablation.py

Reads figures/results/<model>/ablation/ablation.json; writes a figure a dataset and
figures/regret-<model>.md.
"""

from pathlib import Path

from freeret.evaluate.ablations import Ablations, mean_regret, regrets
from freeret.evaluate.plots import draw_ablation
from probes.files import write_atomic
from probes.plots import save

HERE = Path(__file__).parent


def main() -> None:
    for file in sorted((HERE / "results").glob("*/ablation/ablation.json")):
        model, found = file.parent.parent.name, Ablations.load(file)
        for name, ablation in found.datasets.items():
            save(draw_ablation(ablation, title=name), HERE / f"ablation-{name}-{model}")
        write_atomic(HERE / f"regret-{model}.md", table(model, found))


def table(model: str, found: Ablations) -> str:
    """Markdown: the choice against the best and the worst there is."""
    rows = regrets(found)
    lines = [
        f"# {model}: regret of the recipe's choices",
        "",
        "| dataset | among | chosen | | best | | worst | | regret |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.dataset} | {r.part}s | {r.chosen} | {r.value:.3f} | {r.best} | {r.best_value:.3f} | "
        f"{r.worst} | {r.worst_value:.3f} | {r.regret:.3f} |"
        for r in rows
    ]
    means = [f"{p}s {mean_regret(rows, p):.3f}" for p in dict.fromkeys(r.part for r in rows)]
    return "\n".join([*lines, "", f"Mean regret among {', '.join(means)}."]) + "\n"


if __name__ == "__main__":
    main()
