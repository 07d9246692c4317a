"""The commands that measure: `freeret eval`, `compare`, `ablate` and `scenes`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from freeret import preflight
from freeret.cli.options import (
    AS_USUAL,
    Actors,
    Address,
    Depths,
    EngineName,
    Model,
    Positive,
    RecipeName,
    Settings,
)
from freeret.cli.output import print_table
from freeret.cli.results import Markdown, show_results
from probes.embedded import DEFAULT
from probes.errors import BadSetting
from probes.files import read_json
from probes.model.loading import Loading

if TYPE_CHECKING:
    from freeret.evaluate.actors import Actors as Spread
    from freeret.evaluate.loaders import Loader
    from freeret.recipe import Recipe
    from probes import Backbone

Suites = Annotated[
    str,
    Parameter(
        help="Suites: beir:FOLDER, paraphrases:FOLDER, ir:ID, sts:FILE, "
        "mmeb:FOLDER[/DATASET], mmeb-v2:FOLDER[/DATASET], mbeir:FOLDER[/DATASET], "
        "pictures:KIND, scenes:POOLS[xSIZE], scenes-mixed:POOLS[xSIZE], folder:FOLDER."
    ),
]
Queries = Annotated[
    Positive | None,
    Parameter(help="Evaluate a random sample of at most this many queries (see --seed)."),
]
Pool = Annotated[
    Positive | None,
    Parameter(
        help="Keep at most this many documents: all judged ones and a random sample of the others."
    ),
]
Beside = Annotated[
    RecipeName | None,
    Parameter(
        help="Measure this recipe too: auto (by the backbone's probe report), paper, or the path "
        "of a recipe.json."
    ),
]
SkipBad = Annotated[
    bool,
    Parameter(
        help="Leave out items that cannot be read: a bad query scores 0, a bad document is not in "
        "the pool. The result lists them."
    ),
]


def evaluate(
    *suites: Suites,
    model: Model = DEFAULT,
    recipe: RecipeName = "auto",
    system: tuple[str, ...] = ("recipe",),
    rerank: Depths = (),
    queries: Queries = None,
    pool: Pool = None,
    out: Path = Path("out/eval"),
    seed: int = 0,
    skip_bad: SkipBad = False,
    markdown: Markdown = False,
    engine: EngineName = "local",
    num_actors: Actors = None,
    address: Address = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Evaluate systems on suites. Run the same command again to resume.

    A dataset that cannot be loaded or measured is named at the end, with exit code 1; the others
    are evaluated.

    Args:
        system: The system: recipe, hybrid, paper, e5v, e5v-whiten, prompteol, metaeol,
            hierarchical, realign, echo, mean, last, bm25 or st:MODEL. May be given several times.
        out: Folder for one JSON file per run and one TREC run file per dataset.
        seed: Seed of the intervals and of the random samples.
    """
    preflight.check_systems(system)
    preflight.check_engine(engine, num_actors, address)
    preflight.check_recipe(recipe)
    preflight.check_writable(out)
    loaders = _loaders(suites, queries, pool, seed)
    import contextlib

    from freeret.evaluate.actors import ray_actors
    from freeret.evaluate.failures import Failure, Unfinished
    from freeret.evaluate.run import evaluate as run_one
    from freeret.evaluate.systems.registry import system as named

    files: list[Path] = []
    failures: list[Failure] = []
    spread = ray_actors(num_actors, address) if engine == "ray" else contextlib.nullcontext()
    with spread as actors:
        load, choose = _once(model, recipe, loading, actors)
        for name in system:
            try:
                files += run_one(
                    loaders, named(name, load, choose), out, rerank=rerank, seed=seed,
                    on_error="skip" if skip_bad else "raise", progress=True, actors=actors,
                )  # fmt: skip
            except Unfinished as error:
                files += error.files
                failures += error.failures
    show_results(files, markdown=markdown)
    if failures:
        raise Unfinished(failures, files)


def scenes(
    model: Model,
    /,
    *,
    recipe: Beside = None,
    size: Positive = 100,
    seeds: Positive = 3,
    out: Path = Path("out/scenes"),
    loading: Settings = AS_USUAL,
) -> None:
    """Measure retrieval among drawn pictures and clips: shorthand for `freeret eval scenes:POOLS`.

    Nothing is downloaded. For hard negatives, at which CLIP-like models are known to fail, it
    reports accuracy (chance is 0.5).

    Args:
        size: Number of documents in the pool of every task.
        seeds: Number of pools that are drawn.
        out: Folder of the result files.
    """
    systems = ("e5v", "paper", *(("recipe",) if recipe else ()))
    evaluate(
        f"scenes:{seeds}x{size}", model=model, recipe=recipe or "auto", system=systems, out=out,
        loading=loading,
    )  # fmt: skip


def compare(a: Path, b: Path, /) -> None:
    """Compare two result files query by query: a minus b, its 95% interval and p-value.

    Args:
        a: JSON file of one run, as `freeret eval` wrote it.
        b: JSON file of the run that is subtracted.
    """
    for file in (a, b):
        read_json(file)
    from freeret.evaluate.ablation.tables import signed
    from freeret.evaluate.results.file import Result
    from freeret.evaluate.results.file import compare as compare_results
    from freeret.evaluate.results.tables import labels_apart

    runs = [(file, Result.load(file)) for file in (a, b)]
    first, second = labels_apart(runs)
    print_table(
        f"{first} minus {second}",
        ["dataset", "metric", "queries", first, second, "difference [95%]", "p"],
        [
            [
                row.dataset,
                row.metric,
                str(row.queries),
                f"{row.a:.3f}",
                f"{row.b:.3f}",
                signed(row.difference, row.queries),
                f"{row.p:.4f}",
            ]
            for row in compare_results(runs[0][1], runs[1][1])
        ],
    )


def ablate(
    *suites: Suites,
    model: Model = DEFAULT,
    recipe: RecipeName = "auto",
    prompt: tuple[str, ...] = (),
    rerank: Depths = (),
    queries: Queries = None,
    pool: Pool = None,
    out: Path = Path("out/ablate"),
    seed: int = 0,
    skip_bad: SkipBad = False,
    markdown: Markdown = False,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure each part of the method: sites, priors, prompts, geometry, lexical weight, frames.

    Every finished prompt and every reranked query is kept; run the same command again to resume.
    Over several datasets the means are printed too.

    Args:
        prompt: Measure only this prompt beside the recipe's, the paper's and E5-V's. May be given
            several times; every prompt is one pass over the data.
        out: Folder for ablation.json and its figure (PNG and SVG).
        seed: Seed of the intervals and of the random samples.
    """
    preflight.check_recipe(recipe)
    preflight.check_writable(out)
    loaders = _loaders(suites, queries, pool, seed)
    from freeret.evaluate.ablation.file import Ablations, ablate_all
    from freeret.evaluate.ablation.measure import PROMPTS, Ablator
    from freeret.evaluate.failures import Unfinished
    from freeret.evaluate.plots import draw_ablation
    from freeret.evaluate.results.kept import slug
    from probes.plots import save

    unknown = [name for name in prompt if name not in PROMPTS]
    if unknown:
        raise BadSetting(f"there is no prompt {unknown[0]!r}; there are {', '.join(PROMPTS)}")
    load, choose = _once(model, recipe, loading)
    file = out / "ablation.json"
    ablator = Ablator(
        load(), choose(), prompt or tuple(PROMPTS), rerank, seed, skip=skip_bad, progress=True
    )
    failed: Unfinished | None = None
    try:
        ablate_all(ablator, loaders, file)
    except Unfinished as error:
        failed = error
    if file.is_file():
        show_results([file], markdown=markdown)
        for name, ablation in Ablations.load(file).datasets.items():
            save(draw_ablation(ablation, title=name), out / f"ablation-{slug(name)}")
    if failed:
        raise failed


def _loaders(
    suites: Sequence[str], queries: int | None, pool: int | None, seed: int
) -> list["Loader"]:
    from freeret.evaluate.datasets import sample
    from freeret.evaluate.loaders import suite

    if not suites:
        raise BadSetting("name at least one suite, such as beir:FOLDER; see freeret eval --help")
    # `suite` checks that the files exist, before a model is loaded; each is read when it is due.
    return [
        lambda load=load: sample(load(), queries, pool, seed)
        for spec in suites
        for load in suite(spec)
    ]


def _once(
    model: str, recipe: str, loading: Loading, spread: "Spread | None" = None
) -> tuple[Callable[[], "Backbone"], Callable[[], "Recipe"]]:
    """Functions that return the backbone and its recipe, each made at first use and kept.

    Where actors compute, they load the weights, and this process does not. Raises BadFile for a
    recipe file that names a prompt or frame that does not exist.
    """
    import functools

    from freeret.reports import named_recipe, recipe_for
    from probes import Backbone

    given = named_recipe(recipe)

    @functools.cache
    def load() -> "Backbone":
        return spread.backbone(model, loading) if spread else Backbone.load(model, loading)

    @functools.cache
    def choose() -> "Recipe":
        if given is None and spread:
            return spread.recipe(load())
        return recipe_for(load(), given)

    return load, choose
