"""The commands that measure: `freeret eval`, `freeret compare`, `freeret ablate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from freeret.evaluate.ablations import Ablations
    from freeret.evaluate.loaders import Loader
    from freeret.recipe import Recipe
    from probes import Backbone

Suites = Annotated[
    str,
    Parameter(
        help="beir:FOLDER, paraphrases:FOLDER, ir:ID, sts:FILE, mmeb:FOLDER[/DATASET], "
        "mmeb-v2:FOLDER[/DATASET], scenes:POOLS, folder:FOLDER."
    ),
]


def register(app: App) -> None:
    """Put the commands of this file on the app."""
    app.command(evaluate, name="eval")
    app.command(compare)
    app.command(ablate)


def evaluate(
    *suites: Suites,
    model: str = "smollm2-135m",
    recipe: str = "auto",
    system: tuple[str, ...] = ("recipe",),
    rerank: str = "",
    queries: int | None = None,
    pool: int | None = None,
    out: Path = Path("out/eval"),
    seed: int = 0,
    engine: Literal["local", "ray"] = "local",
    num_actors: int | None = None,
    address: str | None = None,
) -> None:
    """Evaluate systems on suites; run it again to go on where it stopped.

    Parameters
    ----------
    model: Alias of an embedded default, a model folder, or a hub id.
    recipe: auto (what the probes choose), paper, or a recipe.json.
    system: recipe, paper, e5v, prompteol, metaeol, hierarchical, realign, echo, mean, last, bm25,
        st:MODEL; may be given several times.
    rerank: Depths of stage 2, such as 5,10,50.
    queries: Keep a seeded draw of so many queries.
    pool: Keep all judged documents and a seeded draw of the others, so many in all.
    out: Folder for one JSON and one TREC run file a run.
    seed: Seed of the intervals and of the draw.
    engine: ray spreads the work over actors of Ray, one backbone each.
    num_actors: How many; by default one a GPU, or one a machine that has none.
    address: Of a running Ray cluster, or auto; without it Ray is started on this machine.
    """
    import contextlib

    from freeret.evaluate.run import evaluate as run_one
    from freeret.evaluate.spread import ray_actors
    from freeret.evaluate.systems import system as named

    loaders = _loaders(suites, queries, pool, seed)
    load, choose = _once(model, recipe)
    depths, files = _numbers(rerank), []
    spread = ray_actors(num_actors, address) if engine == "ray" else contextlib.nullcontext()
    with spread as actors:
        for name in system:
            files += run_one(
                loaders, named(name, load, choose), out,
                rerank=depths, seed=seed, progress=True, actors=actors,
            )  # fmt: skip
    _show(files)


def compare(a: Path, b: Path, /) -> None:
    """Compare two result files query by query: a minus b, its 95% interval and p-value."""
    from freeret.cli import print_table
    from freeret.evaluate.results import Result
    from freeret.evaluate.results import compare as compare_results

    first, second = Result.load(a), Result.load(b)
    print_table(
        f"{first.run} minus {second.run}",
        ["dataset", "metric", "queries", first.run, second.run, "difference [95%]", "p"],
        [
            [
                row.dataset,
                row.metric,
                str(row.queries),
                f"{row.a:.3f}",
                f"{row.b:.3f}",
                _signed(row.difference),
                f"{row.p:.4f}",
            ]
            for row in compare_results(first, second)
        ],
    )


def ablate(
    *suites: Suites,
    model: str = "smollm2-135m",
    recipe: str = "auto",
    prompt: tuple[str, ...] = (),
    rerank: str = "",
    queries: int | None = None,
    pool: int | None = None,
    out: Path = Path("out/ablate"),
    seed: int = 0,
) -> None:
    """Measure each part of the method: sites, priors, prompts, geometry, frames.

    Parameters
    ----------
    model: Alias of an embedded default, a model folder, or a hub id.
    recipe: auto (what the probes choose), paper, or a recipe.json.
    prompt: Only these prompts beside the recipe's, the paper's and E5-V's; may be given several
        times. Every prompt is one pass over the data.
    rerank: Depths of stage 2, such as 5,10,50; without it there is no stage 2.
    queries: Keep a seeded draw of so many queries.
    pool: Keep all judged documents and a seeded draw of the others, so many in all.
    out: Folder for ablation.json and its figure (PNG and SVG).
    seed: Seed of the intervals and of the draw.
    """
    from freeret.evaluate.ablate import PROMPTS
    from freeret.evaluate.ablations import ablate_all
    from freeret.evaluate.plots import draw_ablation
    from probes.plots import save

    load, choose = _once(model, recipe)
    found = ablate_all(
        load(),
        choose(),
        _loaders(suites, queries, pool, seed),
        out / "ablation.json",
        prompts=prompt or tuple(PROMPTS),
        depths=_numbers(rerank),
        seed=seed,
        progress=True,
    )
    _show_ablations(found)
    for name, ablation in found.datasets.items():
        save(draw_ablation(ablation, title=name), out / f"ablation-{name}")


def _loaders(
    suites: Sequence[str], queries: int | None, pool: int | None, seed: int
) -> list["Loader"]:
    from freeret.evaluate.datasets import sample
    from freeret.evaluate.loaders import suite
    from probes.errors import BadSetting

    if not suites:
        raise BadSetting("name at least one suite, such as beir:FOLDER; see freeret eval --help")
    # All of them now: what is missing is known before a model is loaded.
    datasets = [sample(load(), queries, pool, seed) for spec in suites for load in suite(spec)]
    return [lambda dataset=dataset: dataset for dataset in datasets]


def _once(model: str, recipe: str) -> tuple:
    """Makers of the backbone and of its recipe, each made at first use and kept."""
    import functools

    from freeret.recipe import Recipe
    from freeret.reports import own_recipe
    from probes import Backbone

    @functools.cache
    def load() -> "Backbone":
        return Backbone.load(model)

    @functools.cache
    def choose() -> "Recipe":
        if recipe == "paper":
            return Recipe.paper()
        if recipe == "auto":
            return own_recipe(load(), progress=True)
        return Recipe.load(recipe)

    return load, choose


def _numbers(text: str) -> list[int]:
    from probes.errors import BadSetting

    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise BadSetting(f"--rerank takes depths such as 5,10,50, not {text!r}")
    return found


def _show(files: Sequence[Path]) -> None:
    """The main metric of every dataset and run, and the means, each with its interval."""
    from freeret.cli import console, print_table
    from freeret.evaluate.results import Result

    results = [Result.load(file) for file in files]
    rows = []
    for name in dict.fromkeys(name for result in results for name in result.datasets):
        for result in (result for result in results if name in result.datasets):
            entry = result.datasets[name]
            measured = entry.metrics[entry.main]
            rows.append([name, entry.main, result.run, _cell(measured.interval)])
    for group in dict.fromkeys(group for result in results for group in result.means):
        for result in (result for result in results if group in result.means):
            rows.append([f"mean of {group}", "main", result.run, _cell(result.means[group])])
    print_table("Evaluation", ["dataset", "metric", "run", "[95% interval]"], rows)
    for file in files:
        console.print(str(file), markup=False, soft_wrap=True)


def _cell(interval: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval)


def _signed(interval: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval)


def _show_ablations(found: "Ablations") -> None:
    from freeret.cli import print_table
    from freeret.evaluate.ablations import regrets

    for name, ablation in found.datasets.items():
        rows = [
            [
                row.part,
                row.label,
                _cell(row.interval),
                _signed(row.difference),
                f"{row.p:.4f}",
                "" if row.auc is None else f"{row.auc:.3f}",
                "" if row.accuracy is None else f"{row.accuracy:.3f}",
            ]
            for row in ablation.rows
        ]
        columns = ["part", "", ablation.metric, "minus the paper's choice", "p", "AUC", "accuracy"]
        print_table(
            f"{name}, {ablation.queries} queries, {ablation.documents} documents", columns, rows
        )
    print_table(
        "Regret of the recipe's choices",
        ["dataset", "choice", "chosen", "", "best", "", "worst", "", "regret"],
        [
            [
                r.dataset, r.part, r.chosen, f"{r.value:.3f}", r.best, f"{r.best_value:.3f}",
                r.worst, f"{r.worst_value:.3f}", f"{r.regret:.3f}",
            ]
            for r in regrets(found)
        ],
    )  # fmt: skip
