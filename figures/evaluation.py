"""Every suite that runs offline, every system, as one table and one figure a backbone.

    freeret eval paraphrases:DATA/captions beir:DATA/cranfield sts:DATA/stsb-dev.tsv \
        --model smollm2-135m --recipe figures/results/smollm2-135m/chosen/recipe.json \
        --system e5v --system paper --system recipe --system bm25 --out figures/results/smollm2-135m
    python figures/evaluation.py

Reads figures/results/<model>/<system>.json; writes figures/evaluation-<model>.md, .png and .svg.
"""

from pathlib import Path

from freeret.evaluate.plots import draw_systems
from freeret.evaluate.results import Result, compare
from probes.files import write_atomic
from probes.plots import save

HERE = Path(__file__).parent
SYSTEMS = {"e5v": "E5-V extraction", "paper": "FreeRet-embed", "recipe": "recipe", "bm25": "BM25"}


def main() -> None:
    for folder in sorted(p for p in (HERE / "results").iterdir() if p.is_dir()):
        files = {label: folder / f"{name}.json" for name, label in SYSTEMS.items()}
        found = {label: Result.load(file) for label, file in files.items() if file.is_file()}
        if "recipe" not in found:
            continue
        write_atomic(HERE / f"evaluation-{folder.name}.md", table(folder.name, found))
        save(draw_systems(found), HERE / f"evaluation-{folder.name}")


def table(model: str, found: dict[str, Result]) -> str:
    """Markdown: the main metric with its 95% interval, and the recipe's paired gain beside."""
    names = list(found["recipe"].datasets)
    lines = [
        f"# {model}",
        "",
        "Main metric with its 95% interval; in brackets the recipe minus this system, paired, and "
        "its p-value.",
        "",
        "| suite | metric | " + " | ".join(found) + " |",
        "|---|---|" + "---|" * len(found),
    ]
    for name in names:
        entry = found["recipe"].datasets[name]
        cells = [cell(label, result, found["recipe"], name) for label, result in found.items()]
        suite = f"{name} ({entry.queries} queries, {entry.documents} documents)"
        lines.append(f"| {suite} | {entry.main} | " + " | ".join(cells) + " |")
    notes = {f"- {n}: {e.note}" for n, e in found["recipe"].datasets.items() if e.note}
    return "\n".join([*lines, "", *sorted(notes)]).rstrip() + "\n"


def cell(label: str, result: Result, recipe: Result, name: str) -> str:
    entry = result.datasets.get(name)
    if entry is None:
        return ""
    mean, low, high = entry.metrics[entry.main].interval
    said = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
    if label == "recipe":
        return said
    row = next(r for r in compare(recipe, result) if (r.dataset, r.metric) == (name, entry.main))
    gap, low, high = row.difference
    return f"{said} ({gap:+.3f} [{low:+.3f}, {high:+.3f}], p {row.p:.4f})"


if __name__ == "__main__":
    main()
