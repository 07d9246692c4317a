"""Ablations: every choice measured, its regret, and figures of both."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from freeret.evaluate.ablation.file import Ablations, ablate_all, mean_regret, regrets, worst_regret
from freeret.evaluate.ablation.measure import Ablation, Ablator, Point
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import score_run
from freeret.evaluate.plots import draw_ablation, draw_regrets, draw_systems
from freeret.evaluate.stage2 import judge_run, rerank_run
from freeret.evaluate.systems.registry import (
    PromptedSystem,
)
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from probes import Backbone, Item
from probes.errors import BadFile, Mismatch
from probes.measure.diagnostic.hybrid import LEXICAL_WEIGHTS
from probes.model.sites import embedding_sites
from probes.prompts import NAMED
from probes.stats import Interval
from tests.evaluate.small import RECIPE, dataset, pairs, words

Tiny = Callable[[str], Backbone]


# With a hundred texts the project's own sentences are not needed.
ABLATED: list[Any] = [lambda: dataset(documents=100), lambda: pairs(100)]


ASKED = ["control, no task", "no prior"]


@pytest.fixture(scope="module")
def ablations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ablations, Path]:
    from tests.conftest import load_tiny

    file = tmp_path_factory.mktemp("ablate") / "ablation.json"
    ablator = Ablator(load_tiny("llama"), RECIPE, ASKED, [3, 5])
    found = ablate_all(ablator, ABLATED, file)
    return found, file


def test_every_part_is_in_the_table(ablations: tuple[Ablations, Path]) -> None:
    rows = ablations[0].datasets["small"].rows
    parts = {part: [r.label for r in rows if r.part == part] for part in {r.part for r in rows}}
    assert parts["site"] == embedding_sites(4), "this backbone has four layers"
    assert parts["prior"] == ASKED
    assert parts["choice"] == ["E5-V extraction", "FreeRet-embed", "recipe"]
    assert parts["geometry"][:3] == ["none", "centre", "whiten"]
    frames = parts["frame"]
    for name in ("mcq", "mcq_swapped", "yes_no", "true_false", "right_wrong", "mcq, calibrated",
                 "mcq, options last", "mcq, both orders", "recipe", "stage 1 alone"):  # fmt: skip
        assert f"{name}, top 3" in frames
        assert f"{name}, top 5" in frames
    assert not [r for r in ablations[0].datasets["pairs"].rows if r.part == "frame"]
    assert parts["lexical"] == ["recipe, 0", *(f"recipe, {weight:g}" for weight in LEXICAL_WEIGHTS)]
    assert "lexical" not in {row.part for row in ablations[0].datasets["pairs"].rows}
    prompts, hybrid = 3 + len(ASKED), len(LEXICAL_WEIGHTS)
    assert len(ablations[0].datasets["small"].grid) == prompts * 3 * (18 + hybrid)
    assert len(ablations[0].datasets["pairs"].grid) == prompts * 3 * 18


def test_the_grid_equals_a_run_at_each_site_alone(
    ablations: tuple[Ablations, Path], tiny: Tiny
) -> None:
    for name, data in {"small": ABLATED[0](), "pairs": ABLATED[1]()}.items():
        grid = {(p.prompt, p.site, p.geometry): p.value for p in ablations[0].datasets[name].grid}
        for prompt, site, kind in [("control", "attn[-1]", "none"), ("e5v", "norm", "whiten"),
                                   ("prompteol", "mlp[-2]", "centre")]:  # fmt: skip
            alone = PromptedSystem("alone", tiny("llama"), [prompt], site, kind)  # type: ignore[arg-type]
            expected = score_run(data, alone.run(data), data.metrics[0]).interval().mean
            assert grid[prompt, site, kind] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2.5-vl"])
def test_the_grid_holds_what_a_recipe_with_words_reaches(
    kind: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Of texts, and of pictures, which the lexical leg finds by the words that the model reads."""
    backbone, data = tiny(kind), apart(pictures=kind == "qwen2.5-vl")
    recipe = dataclasses.replace(RECIPE, frame=None, lexical=0.5)
    found = Ablator(backbone, recipe, []).measure(data, Scratch(tmp_path, "this"))
    grid = {(p.prompt, p.site, p.geometry, p.lexical): p.value for p in found.grid}
    for prompt, geometry, weight in [
        ("prompteol", "centre", 0.5), ("e5v", "whiten", 1.0), ("control", "none", 0.05),
        ("control", "none", 0.0),
    ]:  # fmt: skip
        as_this = dataclasses.replace(recipe, prompt=prompt, geometry=geometry, lexical=weight)
        alone = PromptedSystem.of("alone", backbone, as_this).run(data)
        expected = score_run(data, alone, data.metrics[0]).interval().mean
        assert grid[prompt, "attn[-1]", geometry, weight] == pytest.approx(expected, abs=1e-6)
    chosen = next(row for row in found.rows if (row.part, row.name) == ("choice", "recipe"))
    assert chosen.interval[0] == grid["prompteol", "attn[-1]", "centre", 0.5]
    assert chosen.interval[0] != grid["prompteol", "attn[-1]", "centre", 0.0]


def apart(*, pictures: bool) -> Dataset:
    """Queries whose answers share no word with them, so that words change their places."""
    documents = [Item(words(i), id=f"d{i}") for i in range(20)]
    if pictures:
        colours = [(13 * i % 256, 29 * i % 256, 71 * i % 256) for i in range(20)]
        drawn = [Image.new("RGB", (32, 32), colour) for colour in colours]
        documents = [Item(images=[picture], id=f"d{i}") for i, picture in enumerate(drawn)]
    return Dataset(
        name="apart",
        queries=[Item(words(3 * i + 1), id=f"q{i}") for i in range(8)],
        documents=documents,
        judgements={f"q{i}": {f"d{2 * i}": 1} for i in range(8)},
        metrics=("RR",),
    )


def test_a_row_is_compared_with_the_papers_choice(ablations: tuple[Ablations, Path]) -> None:
    rows = {(r.part, r.name): r for r in ablations[0].datasets["pairs"].rows}
    paper = rows["choice", "FreeRet-embed"]
    assert paper.difference == (0, 0, 0)
    assert rows["site", "attn[-1]"].interval == paper.interval
    e5v = rows["choice", "E5-V extraction"]
    assert e5v.difference[0] == pytest.approx(e5v.interval[0] - paper.interval[0])


def test_calibration_moves_the_threshold_and_not_the_order(
    ablations: tuple[Ablations, Path],
) -> None:
    rows = {r.label: r for r in ablations[0].datasets["small"].rows}
    plain, calibrated = rows["mcq, top 5"], rows["mcq, calibrated, top 5"]
    assert plain.interval == calibrated.interval
    assert plain.auc == calibrated.auc


def test_regret_is_best_minus_chosen(ablations: tuple[Ablations, Path]) -> None:
    found = {(r.dataset, r.part): r for r in regrets(ablations[0])}
    grid = ablations[0].datasets["pairs"].grid
    at = {p.site: p.value for p in grid if (p.prompt, p.geometry) == ("prompteol", "centre")}
    settings = {p: p.value for p in grid if p.site == "attn[-1]" and p.prompt in NAMED}
    site = found["pairs", "site"]
    assert (site.chosen, site.value) == ("attn[-1]", at["attn[-1]"])
    assert (site.best_value, site.worst_value) == (max(at.values()), min(at.values()))
    assert at[site.best] == site.best_value
    assert site.regret == site.best_value - site.value >= 0
    assert found["pairs", "setting"].best_value == max(settings.values())
    assert found["pairs", "setting"].worst_value == min(settings.values())
    prompts = [v for p, v in settings.items() if p.geometry == "centre"]
    geometries = [v for p, v in settings.items() if p.prompt == "prompteol"]
    assert found["pairs", "prompt"].best_value == max(prompts)
    assert found["pairs", "geometry"].worst_value == min(geometries)
    assert found["pairs", "lexical"].regret == 0, "pairs are compared by vectors alone"
    assert found["small", "frame"].chosen.startswith("recipe, top")
    sites = [r.regret for r in regrets(ablations[0]) if r.part == "site"]
    assert mean_regret(regrets(ablations[0]), "site") == pytest.approx(np.mean(sites))
    assert worst_regret(regrets(ablations[0]), "site") == max(sites)
    other = regrets(ablations[0], dataclasses.replace(RECIPE, site="norm"))
    assert next(r.value for r in other if (r.dataset, r.part) == ("pairs", "site")) == at["norm"]


def test_an_ablation_is_read_as_it_was_written_and_not_made_again(
    ablations: tuple[Ablations, Path], tiny: Tiny
) -> None:
    found, file = ablations
    assert Ablations.load(file) == found
    before = file.stat().st_mtime_ns
    again = ablate_all(Ablator(tiny("llama"), RECIPE, ASKED, [3, 5]), ABLATED, file)
    assert (again, file.stat().st_mtime_ns) == (found, before)
    with pytest.raises(Mismatch, match=r"ablation\.json"):
        ablate_all(Ablator(tiny("llama"), RECIPE, depths=[3, 5]), ABLATED, file)
    (file.parent / "cut.json").write_text(file.read_text()[:900])
    with pytest.raises(BadFile, match="JSON"):
        Ablations.load(file.parent / "cut.json")


def test_a_judge_that_is_no_frame_is_measured_beside_the_frames(tiny: Tiny, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPE, frame="likelihood", fusion=None, lexical=0.5)
    ablator = Ablator(tiny("llama"), recipe, [], [3])
    data = apart(pictures=False)
    rows = ablator.measure(data, Scratch(tmp_path, "this")).rows
    values = {row.label: row.interval[0] for row in rows if row.part == "frame"}
    first = PromptedSystem.of("recipe", tiny("llama"), recipe).run(data)
    judged = judge_run(data, first, Reranker(tiny("llama"), "likelihood"), 3)
    expected = score_run(data, rerank_run(first, judged, 3, None), data.metrics[0]).value
    assert values["recipe, top 3"] == values["likelihood, top 3"] == pytest.approx(expected)
    assert values["stage 1 alone, top 3"] == pytest.approx(score_run(data, first, "RR").value)


def test_only_the_prompts_asked_for(tiny: Tiny, tmp_path: Path) -> None:
    ablator = Ablator(tiny("llama"), RECIPE, prompts=[])
    found = ablator.measure(dataset(documents=100), Scratch(tmp_path, "this"))
    assert {point.prompt for point in found.grid} == {"control", "e5v", "prompteol"}


def test_regret_counts_the_words_of_the_recipe() -> None:
    """Chosen among the weights of the recipe's site, beside prompts and geometries there."""
    recipe = Recipe("topic", "attn[-1]", "whiten", lexical=0.5)
    points = [
        Point("topic", "attn[-1]", "whiten", 0.4),
        Point("topic", "attn[-1]", "whiten", 0.6, 0.5, (0.5, 0.7)),
        Point("topic", "attn[-1]", "whiten", 0.65, 1.0),
        Point("topic", "attn[-1]", "centre", 0.7, 0.5),
        Point("e5v", "attn[-1]", "whiten", 0.8, 0.5),
        Point("e5v", "attn[-1]", "none", 0.9, 0.1, (0.9, 0.9)),
        Point("control", "attn[-1]", "none", 0.6, 0.1, (0.2, 1.0)),
        Point("control", "attn[-1]", "none", 0.7, 0.2, (0.4, 1.0)),
        Point("no prior", "attn[-1]", "none", 0.95, 0.1),  # which no recipe can choose
        Point("topic", "norm", "whiten", 0.99),
    ]
    one = Ablation("digest", "P@1", 9, 9, "", [], points)
    made = Ablations({"model": "m", "layers": 4}, recipe, [], [], 0, {"one": one}, {})
    found = {r.part: (r.value, r.best_value) for r in regrets(made)}
    assert found == {
        "site": (0.4, 0.99), "setting": (0.6, 0.9), "prompt": (0.6, 0.8), "geometry": (0.6, 0.7),
        "lexical": (0.6, 0.65),
    }  # fmt: skip
    setting = next(r for r in regrets(made) if r.part == "setting")
    assert setting.best == "e5v, none, BM25 0.1"
    # Picked on the one half: 0.9 against 0.7; on the other: two, 0.2 and 0.4, against 0.5.
    assert setting.held_out == pytest.approx((0.2 - 0.2) / 2)


def test_pools_of_one_task_are_one_dataset_in_regrets() -> None:
    """Their values are averaged first: the best is that of the mean, not the mean of the best."""
    recipe = Recipe("topic", "attn[-1]", "centre")
    values = {"task 0": (0.5, 0.9, 0.4), "task 1": (0.7, 0.1, 0.9), "news 2019": (0.2, 0.3, 0.1),
              "news 2020": (0.2, 0.3, 0.1)}  # fmt: skip
    made = {
        name: Ablation("digest", "P@1", 9, 9, "", [], [
            Point(prompt, "attn[-1]", "centre", value, halves=(value - 0.1, value + 0.1))
            for prompt, value in zip(("topic", "e5v", "control"), row, strict=True)
        ], group="own" if name.startswith("news") else "task")
        for name, row in values.items()
    }  # fmt: skip
    made["task 1"].grid.append(Point("topic", "attn[-1]", "whiten", 1.0))  # not in every pool
    every = regrets(Ablations({"model": "m", "layers": 4}, recipe, [], [], 0, made, {}))
    found = {r.dataset: r for r in every if r.part == "setting"}
    assert found.keys() == {"task", "news 2019", "news 2020"}, "a year is no number of a pool"
    assert not [r for r in every if r.part == "site"], "one site has no other to be compared with"
    task = found["task"]
    assert (task.value, task.best_value, task.worst_value) == pytest.approx((0.6, 0.65, 0.5))
    assert task.held_out == pytest.approx(0.05)


def test_a_figure_has_a_panel_a_part(ablations: tuple[Ablations, Path]) -> None:
    shown = draw_ablation(ablations[0].datasets["small"], title="small")
    titles = [ax.get_title(loc="left") for ax in shown.axes]
    assert len(titles) == 7
    labels = [label.get_text() for label in shown.axes[1].get_yticklabels()]
    assert labels == embedding_sites(4)


def test_the_choice_is_drawn_between_the_worst_and_the_best(
    ablations: tuple[Ablations, Path],
) -> None:
    found = regrets(ablations[0])
    [ax] = draw_regrets({"tiny": found}, "setting").axes
    own = [r for r in found if r.part == "setting"]
    lines = [np.ravel(line.get_xdata()).tolist() for line in ax.lines]
    assert lines[0::2] == [[r.worst_value, r.best_value] for r in own]
    assert lines[1::2] == [[r.value] for r in own]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        f"{r.dataset}: {r.chosen}" for r in own
    ]


@pytest.mark.parametrize("suites", [1, 3, 5])
def test_a_figure_has_a_panel_a_suite(suites: int) -> None:
    systems = {"one": Interval(0.5, 0.4, 0.6), "two": Interval(0.3, 0.2, 0.4)}
    shown = draw_systems({f"suite {k}": systems for k in range(suites)})
    assert [ax.get_title(loc="left") for ax in shown.axes] == [f"suite {k}" for k in range(suites)]
    assert all(len(ax.get_yticklabels()) == 2 for ax in shown.axes)
