"""Scene tasks: every query has its answer in the pool, and scores say what they claim to."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import suite
from freeret.evaluate.loaders.mixed import load_mixed
from freeret.evaluate.loaders.scenes import FAILURES, TASKS, Ground, make_ground
from freeret.evaluate.metrics import score_run
from freeret.evaluate.results.file import Result
from freeret.evaluate.systems.registry import PromptedSystem
from freeret.evaluate.systems.vectors import rank
from freeret.recipe import Recipe
from probes import Item
from probes.errors import BadItem, BadSetting
from probes.measure.reference import no_reference
from probes.scenes.generator import (
    COLOURS,
    COMBINATIONS,
    HELD_OUT,
    SHAPES,
    Failure,
    distinct_scenes,
)
from tests.commands import run

SIZE = 24


@pytest.fixture(scope="module")
def ground() -> Ground:
    return make_ground(0, SIZE)


def pixels(item: Item) -> bytes:
    return b"".join(part.value.tobytes() for part in item.media)


def named(caption: str) -> set[tuple[str, str]]:
    """The combinations of colour and shape that a caption of single things names."""
    words = caption.replace(",", "").replace("crosses", "cross").split()
    pairs = pairwise(word if word == "cross" else word.removesuffix("s") for word in words)
    return {(c, s) for c, s in pairs if c in COLOURS and s in SHAPES}


def test_every_task_has_one_answer_to_each_query_and_a_full_pool(ground: Ground) -> None:
    for dataset in (ground.dataset(task) for task in TASKS):
        documents = {item.id for item in dataset.documents}
        assert len(documents) == SIZE == len(dataset.documents)
        answers = [tuple(dataset.judgements[query.id or ""]) for query in dataset.queries]
        assert len(set(answers)) == len(answers) == len(dataset.queries)
        assert {answer for (answer,) in answers} <= documents


def test_items_are_of_the_kinds_that_the_tasks_name(ground: Ground) -> None:
    kinds = {
        "text→image": ("text", "image"), "image→text": ("image", "text"),
        "image→image": ("image", "image"), "composed→image": ("image+text", "image"),
        "text→video": ("text", "image"), "video→text": ("image", "text"),
        "document→image": ("image+text", "image"),
    }  # fmt: skip
    for dataset in (ground.dataset(task) for task in TASKS):
        found = ({i.signature for i in dataset.queries}, {i.signature for i in dataset.documents})
        assert found == tuple({kind} for kind in kinds[dataset.name])
    assert all(len(item.media) > 1 for item in ground.items["clips"])


def test_no_two_documents_of_a_pool_are_the_same(ground: Ground) -> None:
    for searched in {searched for _, searched in TASKS.values()}:
        items = ground.items[searched]
        shown = {(item.text, pixels(item)) for item in items}
        assert len(shown) == len(items), searched


def test_only_held_out_combinations_are_shown(ground: Ground) -> None:
    texts = [*ground.items["captions"], *ground.items["documents"]]
    assert set().union(*(named(item.text) for item in texts)) <= set(HELD_OUT)
    others = distinct_scenes(Random(0), SIZE, COMBINATIONS)
    assert not set().union(*(named(scene.caption()) for scene in others)) <= set(HELD_OUT)


def test_another_rendering_is_another_picture(ground: Ground) -> None:
    pairs = zip(ground.items["pictures"], ground.items["renderings"], strict=True)
    assert all(pixels(a) != pixels(b) for a, b in pairs)


def test_the_pool_of_changes_holds_what_was_there_before(ground: Ground) -> None:
    asked, pool = ground.items["changes"], ground.items["changed"]
    assert len(asked) == SIZE // 2
    for query, before in zip(asked, pool[SIZE // 2 :], strict=True):
        old, new = (np.asarray(i.media[0].value, dtype=float) for i in (query, before))
        # Same background and colours, things only moved: histograms nearly agree.
        assert abs(old.mean((0, 1)) - new.mean((0, 1))).max() < 25
        assert query.text.startswith("the same, but ")


def test_hard_negatives_say_something_else_of_their_scene(ground: Ground) -> None:
    assert set(ground.hard) == set(FAILURES)
    for failure, scenes in ground.hard.items():
        wrong = ground.items[f"{failure} captions"]
        assert len(wrong) == len(ground.items[f"{failure} pictures"]) == len(scenes) > 0
        for scene, negative in zip(scenes, wrong, strict=True):
            assert negative.text != ground.items["captions"][scene].text


def test_a_ground_depends_on_its_seed_alone(ground: Ground) -> None:
    def content(g: Ground) -> list:
        return [(name, i.text, pixels(i)) for name, items in g.items.items() for i in items]

    assert content(make_ground(0, SIZE)) == content(ground)
    assert content(make_ground(1, SIZE)) != content(ground)


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_pool_that_cannot_be_made_is_a_clear_error(size: int) -> None:
    with pytest.raises(BadSetting, match="choose 2 to"):
        make_ground(0, size)


def test_two_scenes_are_a_ground() -> None:
    assert {len(d.documents) for d in map(make_ground(3, 2).dataset, TASKS)} == {2}


def oracle(ground: Ground, blind: Failure | None = None) -> dict[str, torch.Tensor]:
    """Vectors by id that know the right answer: an axis per scene, and other axes for hard
    negatives. Pictures are a little off, so that the negatives of a failure to which the oracle is
    blind, which repeat the query's vector, are always nearer."""
    axes = torch.eye(2 * SIZE)
    vectors = {}
    for name, items in ground.items.items():
        places, off = list(range(len(items))), name == "pictures"
        for failure, scenes in ground.hard.items():
            if name.startswith(failure):
                places = [i if failure == blind else i + SIZE for i in scenes]
                off = name.endswith("captions")
        rows = axes[places] + 0.05 * off
        vectors |= {f"{item.id}": row for item, row in zip(items, rows, strict=True)}
    return vectors


def precision(dataset: Dataset, vectors: dict[str, torch.Tensor]) -> float:
    queries, documents = (
        torch.stack([vectors[item.id or ""] for item in items])
        for items in (dataset.queries, dataset.documents)
    )
    run = rank(dataset, queries, documents, "none", no_reference)
    return score_run(dataset, run, "P@1").value


def test_a_perfect_embedding_scores_one_and_a_constant_one_nothing(ground: Ground) -> None:
    perfect = oracle(ground)
    assert {precision(ground.dataset(name), perfect) for name in (*TASKS, *FAILURES)} == {1.0}
    constant = {id: torch.ones_like(vector) for id, vector in perfect.items()}
    assert all(precision(ground.dataset(task), constant) <= 2 / SIZE for task in TASKS)


@pytest.mark.parametrize("blind", FAILURES)
def test_each_failure_has_a_dataset_of_two_candidates(ground: Ground, blind: Failure) -> None:
    """Both directions count."""
    vectors = oracle(ground, blind)
    for failure in FAILURES:
        dataset = ground.dataset(failure)
        assert dataset.candidates is not None
        assert {len(set(ids)) for ids in dataset.candidates.values()} == {2}
        assert {query.signature for query in dataset.queries} == {"text", "image"}
        assert len(dataset.queries) == 2 * len(ground.hard[failure])
        assert precision(dataset, vectors) == (0.0 if failure == blind else 1.0)


def test_composed_queries_are_asked_for_the_change(ground: Ground) -> None:
    tasks = {task: ground.dataset(task).task for task in TASKS}
    assert tasks.pop("composed→image") == "composed change"
    assert set(tasks.values()) == {"caption"}


def test_a_suite_of_pools(ground: Ground) -> None:
    loaders = suite(f"scenes:2x{SIZE}")
    assert len(loaders) == 2 * (len(TASKS) + len(FAILURES))
    first, last = loaders[0](), loaders[-1]()
    assert (first.name, first.group, len(first.documents)) == ("text→image 0", "text→image", SIZE)
    assert (last.name, last.group) == (f"{FAILURES[-1]} 1", f"hard negatives: {FAILURES[-1]}")
    with pytest.raises(BadSetting, match="give a number of pools"):
        suite("scenes:2xmany")


def test_a_backbone_without_eyes_is_a_clear_error(tiny, ground: Ground) -> None:
    system = PromptedSystem.of("paper", tiny("llama"), Recipe.paper())
    with pytest.raises(BadItem, match="picture 0"):
        system.run(ground.dataset("image→text"))


def test_the_command_is_an_evaluation(
    tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny("llava")
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.processor.save_pretrained(tmp_path / "model")
    sizes = ["--size", SIZE, "--seeds", 1]
    assert run("scenes", tmp_path / "model", *sizes, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*TASKS, "binding", "paper", "e5v"))
    result = Result.load(tmp_path / "out" / "e5v.json")
    assert {name.removesuffix(" 0") for name in result.datasets} >= set(TASKS)
    assert result.datasets["text→image 0"].documents == SIZE


@pytest.mark.parametrize("task", ["text→mixed", "image→mixed"])
def test_a_mixed_pool_holds_every_scene_once_in_one_of_three_forms(task: str) -> None:
    dataset = load_mixed(0, task, SIZE)
    answers = [answer for grades in dataset.judgements.values() for answer in grades]
    assert sorted(answers) == sorted(str(document.id) for document in dataset.documents)
    signatures = Counter(document.signature for document in dataset.documents)
    assert signatures == {"text": 8, "image": 8, "image+text": 8}
    texts = {document.text for document in dataset.documents}
    drawn = {pixels(document) for document in dataset.documents}
    for query in dataset.queries:
        assert query.signature == task.removesuffix("→mixed")
        assert query.text not in texts or not query.text
        assert pixels(query) not in drawn or not query.media


def test_a_mixed_pool_measures_the_share_of_each_form() -> None:
    dataset = load_mixed(1, "text→mixed", SIZE)
    ranked = sorted(dataset.documents, key=lambda document: document.signature != "image")
    run = {str(q.id): {str(d.id): -float(i) for i, d in enumerate(ranked)} for q in dataset.queries}
    shares = {name: score_run(dataset, run, name).value for name in dataset.metrics[1:]}
    assert shares["Share(image)@10"] == pytest.approx(0.8)
    assert sum(shares.values()) == pytest.approx(1)
    assert [d().name for d in suite(f"scenes-mixed:1x{SIZE}")] == ["text→mixed 0", "image→mixed 0"]
    with pytest.raises(BadSetting, match="such as scenes-mixed:3"):
        suite("scenes-mixed:2xmany")
