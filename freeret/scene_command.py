"""The command `freeret scenes`: what a backbone sees, measured without a download."""

from pathlib import Path

from freeret.cli import Model, console, print_table


def scenes(
    model: Model,
    /,
    *,
    recipe: Path | None = None,
    size: int = 100,
    seeds: int = 3,
    out: Path | None = None,
) -> None:
    """Measure retrieval among compositional pictures and clips that are made on the spot.

    The last rows are what CLIP-like models are known to fail at: the share of hard negatives
    told apart, where 0.5 is chance.

    Parameters
    ----------
    recipe: A recipe.json of `freeret probe`, measured beside the presets.
    size: Documents in the pool of every task.
    seeds: How many pools are drawn.
    out: JSON file for every figure.
    """
    from freeret.evaluate.scene_scores import PRESETS, Setting, score_scenes
    from freeret.evaluate.scenes import FAILURES, TASKS, make_ground
    from freeret.recipe import Recipe
    from probes import Backbone
    from probes.files import write_json

    settings = dict(PRESETS)
    if recipe is not None:
        chosen = Recipe.load(recipe)
        settings["recipe"] = Setting(chosen.prompt, chosen.site, chosen.geometry)
    backbone = Backbone.load(model)
    grounds = [make_ground(seed, size) for seed in range(seeds)]
    scores = score_scenes(backbone, grounds, list(settings.values()), progress=True)
    measured = [score.tasks | score.failures for score in scores]
    print_table(
        f"{model}: {seeds} pools of {size} scenes, Precision@1 (chance {1 / size:.2f}) and hard "
        "negatives told apart (chance 0.50)",
        ["", *settings],
        [
            [name, *(str(values.get(name, "–")) for values in measured)]
            for name in (*TASKS, *FAILURES)
        ],
    )
    if out is not None:
        found = {name: score.to_json() for name, score in zip(settings, scores, strict=True)}
        about = {"size": size, "seeds": seeds, "fingerprint": backbone.fingerprint()}
        write_json(out, {**about, "settings": found})
        console.print(f"Figures are in {out}", markup=False, soft_wrap=True)
