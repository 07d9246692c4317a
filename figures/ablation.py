"""What each part of the method is worth, and what the recipe's choices cost.

    freeret ablate paraphrases:DATA/captions --model MODEL \
        --recipe figures/results/MODEL/chosen/recipe.json --out figures/results/MODEL/priors
    freeret ablate paraphrases:DATA/captions sts:DATA/stsb-dev.tsv --queries 300 --prompt e5v \
        --model MODEL --recipe figures/results/MODEL/chosen/recipe.json \
        --out figures/results/MODEL/ablation
    freeret ablate beir:DATA/cranfield --queries 60 --pool 300 …     # the rest as before
    freeret ablate paraphrases:DATA/captions --prompt e5v --rerank 5 --model MODEL \
        --recipe figures/results/MODEL/chosen/recipe.json --out figures/results/MODEL/frames
    python figures/ablation.py

The first measures all prompts and priors: one figure per dataset, ablation-<dataset>-<model>. The
next two measure every late site under the recipe's prompt, in every geometry, the last one every
frame: what the choice cost against the best and the worst, regret.md, .png and .svg.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from freeret import Recipe
from freeret.evaluate.ablation.file import Ablations, Regret, mean_regret, regrets
from freeret.evaluate.plots import draw_ablation, draw_regrets
from probes import ProbeReport
from probes.data import REPORTS
from probes.files import write_atomic
from probes.plots import save

HERE = Path(__file__).parent


def main() -> None:
    for file in sorted((HERE / "results").glob("*/priors/ablation.json")):
        for name, ablation in Ablations.load(file).datasets.items():
            title = f"{name}, {file.parent.parent.name}"
            save(
                draw_ablation(ablation, title), HERE / f"ablation-{name}-{file.parent.parent.name}"
            )
    found: dict[str, list[Regret]] = {}
    for file in sorted((HERE / "results").glob("*/ablation/ablation.json")):
        model = file.parent.parent.name
        report = ProbeReport.load(REPORTS / f"{model}.json")
        # What the rule chooses now, whatever it chose when the grid was measured.
        recipe = Recipe.from_report(report)
        found[model] = regrets(Ablations.load(file), recipe)
        frames = file.parents[1] / "frames" / "ablation.json"
        if frames.is_file():
            rows = regrets(Ablations.load(frames), recipe)
            found[model] += [row for row in rows if row.part == "frame"]
    if found:
        write_atomic(HERE / "regret.md", table(found))
        save(draw_regrets(found, "site"), HERE / "regret")


def table(found: Mapping[str, Sequence[Regret]]) -> str:
    """Markdown: the choice against the best and the worst there is."""
    lines = [
        "# Regret of the recipe's choices",
        "",
        "Sites: all late ones, under the recipe's prompt and geometry. Settings: all of them under "
        "the recipe's, the paper's and E5-V's prompts, in every geometry.",
        "",
        "| backbone | dataset | among | chosen | | best | | worst | | regret |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {model} | {r.dataset} | {r.part}s | {r.chosen} | {r.value:.3f} | {r.best} | "
        f"{r.best_value:.3f} | {r.worst} | {r.worst_value:.3f} | {r.regret:.3f} |"
        for model, rows in found.items()
        for r in rows
    ]
    lines += ["", "Mean regret:", ""]
    everything = [r for rows in found.values() for r in rows]
    for model, rows in {**found, "all backbones": everything}.items():
        parts = dict.fromkeys(r.part for r in rows)
        means = ", ".join(f"{mean_regret(rows, part):.3f} among {part}s" for part in parts)
        lines.append(f"- {model}: {means}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
