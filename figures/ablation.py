"""What each part of the method is worth, and what the recipe's choices cost.

    freeret ablate paraphrases:DATA/captions --model MODEL \\
        --recipe figures/results/MODEL/chosen/recipe.json --out figures/results/MODEL/priors
    freeret ablate paraphrases:DATA/captions sts:DATA/stsb-dev.tsv beir:DATA/cranfield \\
        --prompt control --prompt 'control, no task' --prompt e5v --prompt prompteol \\
        --prompt topic --prompt hierarchical --model MODEL \\
        --recipe figures/results/MODEL/chosen/recipe.json --out figures/results/MODEL/ablation
    freeret ablate paraphrases:DATA/captions --prompt e5v --rerank 5 --model MODEL \\
        --recipe figures/results/MODEL/chosen/recipe.json --out figures/results/MODEL/frames
    python figures/ablation.py

The second one with --dtype bfloat16 for smolsight, also on scenes:3 (its seven tasks, without the
hard negatives) and folder:DATA/drawings, and on beir:DATA/cranfield with --queries 60 --pool 300.
The language models' files hold the recipe's site, and on captions with its prompt the other sites.

The first measures all prompts and priors: a figure per dataset, ablation-<dataset>-<model>. The
next one measures, for every prompt that a recipe is chosen among, all geometries and lexical
weights at the recipe's site, and all late sites by vectors alone; the last one every frame. What
the recipe's choice costs against the best and the worst is in regret.md, .png and .svg.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from freeret import Recipe
from freeret.evaluate.ablation.file import (
    Ablations,
    Regret,
    mean_held_out,
    mean_regret,
    regrets,
    worst_regret,
)
from freeret.evaluate.plots import draw_ablation, draw_regrets
from probes import ProbeReport
from probes.data import REPORTS
from probes.files import write_atomic
from probes.plots import save

HERE = Path(__file__).parent
PARTS = {
    "setting": "prompt, geometry and weight of BM25 together, at the recipe's site",
    "prompt": "prompts, the rest as in the recipe",
    "geometry": "geometries, the rest as in the recipe",
    "lexical": "weights of BM25, the rest as in the recipe",
    "site": "late sites by vectors alone, the rest as in the recipe",
}
"""What the recipe's choice is compared with, by the part of a regret."""
Found = Mapping[str, Sequence[Regret]]
"""Regrets by backbone."""


def main() -> None:
    for file in sorted((HERE / "results").glob("*/priors/ablation.json")):
        for name, ablation in Ablations.load(file).datasets.items():
            title = f"{name}, {file.parent.parent.name}"
            save(
                draw_ablation(ablation, title), HERE / f"ablation-{name}-{file.parent.parent.name}"
            )
    found: dict[str, list[Regret]] = {}
    frames: dict[str, list[Regret]] = {}
    for file in sorted((HERE / "results").glob("*/ablation/ablation.json")):
        model = file.parents[1].name
        # What the rule chooses now, whatever it chose when the grid was measured.
        recipe = Recipe.from_report(ProbeReport.load(REPORTS / f"{model}.json"))
        found[model] = regrets(Ablations.load(file), recipe)
    for file in sorted((HERE / "results").glob("*/frames/ablation.json")):
        rows = regrets(Ablations.load(file))
        frames[file.parents[1].name] = [row for row in rows if row.part == "frame"]
    if found:
        write_atomic(HERE / "regret.md", page(found, frames))
        save(draw_regrets(found, "setting"), HERE / "regret")


def page(found: Found, frames: Found) -> str:
    """Markdown: the choices against the best and the worst there is."""
    everything = [row for rows in found.values() for row in rows]
    lines = [
        "# Regret of the recipe's choices",
        "",
        "Best minus chosen, in points of 100, over all backbones and datasets. Held out: the best "
        "is picked on half of the queries, and compared with the choice on the other half.",
        "",
        "| among | mean | worst | mean held out |",
        "|---|---|---|---|",
        *(f"| {among} | {_summary(everything, part)} |" for part, among in PARTS.items()),
        "",
        "By backbone, prompt, geometry and weight together:",
        "",
        "| backbone | datasets | mean | worst | mean held out |",
        "|---|---|---|---|---|",
        *(
            f"| {model} | {len({row.dataset for row in rows})} | {_summary(rows, 'setting')} |"
            for model, rows in found.items()
        ),
    ]
    for part, among in PARTS.items():
        title = f"{among[0].upper()}{among[1:]}"
        lines += ["", f"## {title}", "", *_rows(found, part)]
    lines += ["", "## Frames, measured with earlier recipes", "", *_rows(frames, "frame")]
    return "\n".join(lines) + "\n"


def _summary(rows: Sequence[Regret], part: str) -> str:
    """Cells of the mean, the worst and the held-out mean."""
    held_out = mean_held_out(rows, part)
    cells = (mean_regret(rows, part), worst_regret(rows, part), held_out)
    return " | ".join(f"{100 * cell:.1f}" for cell in cells)


def _rows(found: Found, part: str) -> list[str]:
    """Lines of a table of one part."""
    head = "| backbone | dataset | chosen | | best | | worst | | regret | held out |"
    return [
        head,
        "|---" * (head.count("|") - 1) + "|",
        *(
            f"| {model} | {r.dataset} | {r.chosen} | {r.value:.3f} | {r.best} | "
            f"{r.best_value:.3f} | {r.worst} | {r.worst_value:.3f} | {100 * r.regret:.1f} | "
            f"{'' if r.held_out is None else f'{100 * r.held_out:.1f}'} |"
            for model, rows in found.items()
            for r in rows
            if r.part == part
        ),
    ]


if __name__ == "__main__":
    main()
