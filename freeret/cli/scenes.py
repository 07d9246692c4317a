"""The command `freeret scenes`: what a backbone sees, measured without a download."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from freeret import preflight
from freeret.cli.options import AS_USUAL, Model, Positive, RecipeName, Settings
from freeret.cli.output import print_table, say

Beside = Annotated[
    RecipeName | None,
    Parameter(
        help="Measure this recipe beside the presets: auto (by the backbone's probe report), "
        "paper, or the path of a recipe.json."
    ),
]


def scenes(
    model: Model,
    /,
    *,
    recipe: Beside = None,
    size: Positive = 100,
    seeds: Positive = 3,
    out: Path | None = None,
    loading: Settings = AS_USUAL,
) -> None:
    """Measure retrieval among compositional pictures and clips that are made on the spot.

    The last rows are what CLIP-like models are known to fail at: the share of hard negatives
    told apart, where 0.5 is chance.

    Args:
        size: Number of documents in the pool of every task.
        seeds: Number of pools that are drawn.
        out: JSON file for every figure.
    """
    if recipe is not None:
        preflight.check_recipe(recipe)
    if out is not None:
        preflight.check_writable(out.parent)
    from freeret.evaluate.loaders.scenes import FAILURES, TASKS, make_ground
    from freeret.evaluate.scene_scores import PRESETS, Setting, score_scenes
    from freeret.reports import named_recipe, recipe_for
    from probes import Backbone
    from probes.files import write_json

    settings = dict(PRESETS)
    chosen = None if recipe is None else named_recipe(recipe)
    backbone = Backbone.load(model, loading)
    if recipe is not None:
        chosen = recipe_for(backbone, chosen)
        settings["recipe"] = Setting(chosen.prompt, chosen.site, chosen.geometry)
    grounds = [make_ground(seed, size) for seed in range(seeds)]
    scores = score_scenes(backbone, grounds, list(settings.values()), progress=True)
    measured = [score.tasks | score.failures for score in scores]
    print_table(
        f"{model}: {seeds} {'pool' if seeds == 1 else 'pools'} of {size} scenes, "
        f"Precision@1 (chance {1 / size:.2f}) and hard "
        "negatives told apart (chance 0.50)",
        ["", *settings],
        [
            [name, *(str(values.get(name, "–")) for values in measured)]
            for name in (*TASKS, *FAILURES)
        ],
    )
    if out is not None:
        found = {name: score.to_json() for name, score in zip(settings, scores, strict=True)}
        about = {
            "size": size,
            "seeds": seeds,
            "fingerprint": backbone.fingerprint(),
            "loading": backbone.loading.given(),
        }
        write_json(out, {**about, "settings": found})
        say(f"Figures are in {out}")
