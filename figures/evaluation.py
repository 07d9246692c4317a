"""Every suite that runs offline, every system, as one table and one figure per backbone.

    freeret eval paraphrases:DATA/captions sts:DATA/stsb-dev.tsv beir:DATA/cranfield \
        --model smollm2-135m --recipe figures/results/smollm2-135m/chosen/recipe.json \
        --system e5v --system paper --system recipe --system bm25 --rerank 10,20 \
        --out figures/results/smollm2-135m
    python figures/evaluation.py

The same with `--model smolsight`, `scenes:3`, `scenes-mixed:3`, `pictures:photographs`,
`pictures:drawings` and `folder:DATA/drawings`, without BM25 where the suite is not text. Reads
figures/results/<model>/<system>.json: `vectors` is the recipe with lexical weight 0, `rerank-top20`
is the recipe reranked by its judge; `mean` is the recipe with `+mean` appended to its site, in a
copy of recipe.json. The texts of e5v, paper and vectors of smolsight were measured before it read
photographs; it reads texts as ever. What recipes of earlier versions reached, and by likelihood
with weight 0.2, is in figures/results/<model>/former/, which is not read here. Writes
figures/evaluation.md, and evaluation-<model>.png and .svg.
"""

from collections.abc import Mapping
from pathlib import Path

from freeret.evaluate.datasets import pools_of
from freeret.evaluate.metrics import Scores, difference, mean_of
from freeret.evaluate.plots import draw_systems
from freeret.evaluate.results.file import Result
from probes.errors import Mismatch
from probes.files import write_atomic
from probes.plots import save
from probes.stats import Interval

HERE = Path(__file__).parent
SYSTEMS = {
    "e5v": "E5-V extraction",
    "paper": "FreeRet-embed",
    "vectors": "recipe, vectors alone",
    "recipe": "recipe",
    "mean": "recipe, its site with the mean",
    "rerank-top20": "reranked by its judge, top 20",
    "bm25": "BM25",
}
HEAD = """# Every suite that runs offline

Main metric with its 95% bootstrap interval; in brackets the recipe minus this system, paired, with
its interval and p-value. The recipe ranks by vectors and words; the similarity of pairs (stsb-dev)
is measured by its vectors alone, which stand for it there. Scenes are means over three pools.

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
        for suite, names, base in suites(found):
            having = {n: r for n, r in found.items() if set(names) <= r.datasets.keys()}
            lines.append(row(folder.name, suite, names, having, found[base]))
            title = f"{suite}, {found[base].datasets[names[0]].main}"
            if len(having) > 1:
                panels[title] = {SYSTEMS[n]: mean(having[n], names) for n in SYSTEMS if n in having}
        save(draw_systems(panels), HERE / f"evaluation-{folder.name}")
    write_atomic(HERE / "evaluation.md", HEAD + "\n".join(lines) + "\n")


def suites(found: Mapping[str, Result]) -> list[tuple[str, list[str], str]]:
    """(suite, datasets, system that the others are compared with): the suites of the recipe, and
    those that only its vectors have."""
    rows: list[tuple[str, list[str], str]] = []
    for base in ("recipe", "vectors"):
        datasets = found[base].datasets if base in found else {}
        pools = pools_of({name: entry.group for name, entry in datasets.items()})
        seen = {suite for suite, *_ in rows}
        rows += [(suite, names, base) for suite, names in pools.items() if suite not in seen]
    return rows


def row(
    model: str, suite: str, names: list[str], found: Mapping[str, Result], recipe: Result
) -> str:
    entry = recipe.datasets[names[0]]
    queries = sum(recipe.datasets[name].queries for name in names)
    size = f"{suite} ({queries} queries, {entry.documents} documents)"
    cells = [cell(found[n], recipe, names) if n in found else "" for n in SYSTEMS]
    return f"| {model} | {size} | {entry.main} | " + " | ".join(cells) + " |"


def cell(result: Result, recipe: Result, names: list[str]) -> str:
    """The mean of a system; of another than the recipe also the paired difference.

    Raises Mismatch when the two saw other queries, documents or judgements.
    """
    said = "{:.3f} [{:.3f}, {:.3f}]".format(*mean(result, names))
    if result is recipe:
        return said
    if other := [n for n in names if result.datasets[n].digest != recipe.datasets[n].digest]:
        raise Mismatch(f"{result.run!r} and the recipe saw other items in {', '.join(other)}")
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
