"""Every suite that runs offline, every system, as one table and one figure per backbone.

    freeret eval paraphrases:DATA/captions sts:DATA/stsb-dev.tsv beir:DATA/cranfield \
        --model smollm2-135m --recipe figures/results/smollm2-135m/chosen/recipe.json \
        --system e5v --system paper --system recipe --system bm25 --out figures/results/smollm2-135m
    python figures/evaluation.py

The same with `--model smolsight` and `scenes:3`, without BM25 where the suite is not text. Reads
figures/results/<model>/<system>.json; writes figures/evaluation.md, and evaluation-<model>.png and
.svg.
"""

from collections.abc import Mapping
from pathlib import Path

from freeret.evaluate.metrics import Scores, difference, mean_of
from freeret.evaluate.plots import draw_systems
from freeret.evaluate.results.file import Result
from probes.files import write_atomic
from probes.plots import save
from probes.stats import Interval

HERE = Path(__file__).parent
SYSTEMS = {"e5v": "E5-V extraction", "paper": "FreeRet-embed", "recipe": "recipe", "bm25": "BM25"}
HEAD = """# Every suite that runs offline

Main metric with its 95% bootstrap interval; in brackets the recipe minus this system, paired, with
its interval and p-value. Scenes are means over three pools of 100.

"""


def main() -> None:
    lines = [
        "| backbone | suite | metric | " + " | ".join(SYSTEMS.values()) + " |",
        "|---|---|---|" + "---|" * len(SYSTEMS),
    ]
    for folder in sorted(p for p in (HERE / "results").iterdir() if p.is_dir()):
        files = {name: folder / f"{name}.json" for name in SYSTEMS}
        found = {name: Result.load(file) for name, file in files.items() if file.is_file()}
        if "recipe" not in found:
            continue
        panels = {}
        for suite, names in suites(found["recipe"]).items():
            having = {n: r for n, r in found.items() if set(names) <= r.datasets.keys()}
            lines.append(row(folder.name, suite, names, having))
            title = f"{suite}, {found['recipe'].datasets[names[0]].main}"
            panels[title] = {SYSTEMS[n]: mean(r, names) for n, r in having.items()}
        save(draw_systems(panels), HERE / f"evaluation-{folder.name}")
    write_atomic(HERE / "evaluation.md", HEAD + "\n".join(lines) + "\n")


def suites(result: Result) -> dict[str, list[str]]:
    """Datasets by suite: each by itself, but the pools of one scene task, which are called after
    it, together."""
    found: dict[str, list[str]] = {}
    for name, entry in result.datasets.items():
        pooled = entry.group and name.startswith(entry.group)
        found.setdefault(entry.group if pooled else name, []).append(name)
    return found


def row(model: str, suite: str, names: list[str], found: Mapping[str, Result]) -> str:
    entry = found["recipe"].datasets[names[0]]
    size = f"{suite} ({entry.queries * len(names)} queries, {entry.documents} documents)"
    cells = [cell(found[n], found["recipe"], names) if n in found else "" for n in SYSTEMS]
    return f"| {model} | {size} | {entry.main} | " + " | ".join(cells) + " |"


def cell(result: Result, recipe: Result, names: list[str]) -> str:
    said = "{:.3f} [{:.3f}, {:.3f}]".format(*mean(result, names))
    if result is recipe:
        return said
    pairs = list(zip(figures(recipe, names), figures(result, names), strict=True))
    gap, p = difference(pairs, recipe.seed)
    return f"{said} ({{:+.3f}} [{{:+.3f}}, {{:+.3f}}], p {p:.4f})".format(*gap)


def mean(result: Result, names: list[str]) -> Interval:
    return mean_of(figures(result, names), result.seed)


def figures(result: Result, names: list[str]) -> list[Scores]:
    """The main metric of each dataset."""
    return [result.datasets[name].scores(result.datasets[name].main) for name in names]


if __name__ == "__main__":
    main()
