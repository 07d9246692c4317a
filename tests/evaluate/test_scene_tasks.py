"""Scene tasks: every query has its answer in the pool, and scores say what they claim to."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from freeret import Embedder
from freeret.evaluate.loaders.scenes import FAILURES, TASKS, Ground, make_ground
from freeret.evaluate.scene_scores import (
    PRESETS,
    Setting,
    discernment,
    embed_ground,
    precisions,
    score_scenes,
)
from probes import ControlPrompt, Item
from probes.errors import BadItem, BadSetting
from probes.measure.reference import no_reference
from probes.prompts import Side
from probes.scenes.generator import COLOURS, COMBINATIONS, HELD_OUT, SHAPES
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
    for dataset in ground.datasets():
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
    for dataset in ground.datasets():
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
    seen = make_ground(0, SIZE, COMBINATIONS)
    assert not set().union(*(named(item.text) for item in seen.items["captions"])) <= set(HELD_OUT)


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


def test_a_part_of_a_ground_scores_as_in_the_whole(ground: Ground) -> None:
    part = ground.only("image→text", "document→image")
    vectors = {n: torch.rand(len(v), 8) for n, v in ground.items.items()}
    whole, alone = (precisions(g, vectors, "centre", UNKNOWN) for g in (ground, part))
    assert set(alone) == {"text→image", "image→text", "document→image"}
    assert all(np.array_equal(values, whole[task]) for task, values in alone.items())
    assert discernment(part, vectors, "centre", UNKNOWN) == {}


UNKNOWN = {"caption": no_reference, "composed change": no_reference}


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_a_pool_that_cannot_be_made_is_a_clear_error(size: int) -> None:
    with pytest.raises(BadSetting, match="choose 2 to"):
        make_ground(0, size)


def test_two_scenes_are_a_ground() -> None:
    assert {len(d.documents) for d in make_ground(3, 2).datasets()} == {2}


def oracle(ground: Ground) -> dict[str, torch.Tensor]:
    """Vectors that know the right answer: one axis a pair, and wrong axes for negatives."""
    axes = torch.eye(2 * SIZE)
    vectors = {name: axes[: len(items)] for name, items in ground.items.items()}
    for failure, scenes in ground.hard.items():
        for side in ("captions", "pictures"):
            vectors[f"{failure} {side}"] = axes[[i + SIZE for i in scenes]]
    return vectors


def test_a_perfect_backbone_scores_one_and_a_constant_one_nothing(ground: Ground) -> None:
    perfect = oracle(ground)
    assert {v.mean() for v in precisions(ground, perfect, "none", UNKNOWN).values()} == {1.0}
    assert {v.mean() for v in discernment(ground, perfect, "none", UNKNOWN).values()} == {1.0}
    constant = {name: torch.ones_like(v) for name, v in perfect.items()}
    assert all(v.mean() <= 2 / SIZE for v in precisions(ground, constant, "none", UNKNOWN).values())
    assert {v.mean() for v in discernment(ground, constant, "none", UNKNOWN).values()} == {0.0}


def test_each_failure_is_its_own_column(ground: Ground) -> None:
    blind = oracle(ground)
    for side in ("captions", "pictures"):
        blind[f"binding {side}"] = blind[side][ground.hard["binding"]]
    found = {
        failure: v.mean() for failure, v in discernment(ground, blind, "none", UNKNOWN).items()
    }
    assert found == {"binding": 0.0, "relation": 1.0, "counting": 1.0}
    assert len(discernment(ground, blind, "none", UNKNOWN)["binding"]) == 2 * len(
        ground.hard["binding"]
    )


def test_means_of_each_modality_take_the_gap_away(ground: Ground) -> None:
    """Those of queries come from the reference: no query sees another."""
    gap, vectors = 5 * torch.ones(2 * SIZE), oracle(ground)
    apart = {
        # A few pictures that lie near all texts win every search until the gap is gone.
        name: v + gap * (-1 if items[0].signature == "text" else 1)
        for (name, items), v in zip(ground.items.items(), vectors.values(), strict=True)
    }
    apart["pictures"][0] -= 2 * gap
    assert precisions(ground, apart, "none", UNKNOWN)["text→image"].mean() < 0.1
    apart["pictures"][0] += 2 * gap

    def reference(side: Side, signature: str) -> torch.Tensor:
        return (-gap if signature == "text" else gap) + torch.eye(2 * SIZE)

    known = {"caption": reference, "composed change": reference}
    assert precisions(ground, apart, "centre", known)["text→image"].mean() == 1.0
    asked = ground.only("text→image")
    alone = {name: v.clone() for name, v in apart.items()}
    alone["captions"][1:] = torch.rand(len(alone["captions"]) - 1, 2 * SIZE)
    first = precisions(asked, alone, "centre", known)["text→image"][0]
    assert first == 1.0, "whatever the other queries are"


def test_scores_of_several_settings_come_in_order(tiny, ground: Ground) -> None:
    backbone = tiny("llava")
    settings = [*PRESETS.values(), Setting("e5v", "mlp[-1]", "centre"), PRESETS["E5-V"]]
    scores = score_scenes(backbone, [ground, make_ground(1, SIZE)], settings)
    assert [score.setting for score in scores] == settings
    assert scores[0] == scores[-1]
    states = embed_ground(backbone, ground, "e5v", ["norm"])
    alone = precisions(ground, {n: s[:, 0] for n, s in states.items()}, "none", UNKNOWN)
    other = embed_ground(backbone, make_ground(1, SIZE), "e5v", ["norm"])
    at_norm = {n: s[:, 0] for n, s in other.items()}
    second = precisions(make_ground(1, SIZE), at_norm, "none", UNKNOWN)
    for task in TASKS:
        mean = np.concatenate([alone[task], second[task]]).mean()
        assert scores[0].tasks[task].mean == pytest.approx(mean)


def test_composed_queries_are_asked_for_the_change(tiny, ground: Ground) -> None:
    backbone = tiny("llava")
    states = embed_ground(backbone, ground, "control", ["attn[-1]"])
    for name, task in (("changes", "composed change"), ("captions", "caption")):
        embedder = Embedder(backbone, "attn[-1]", ControlPrompt(task=task))
        assert torch.equal(states[name][:, 0], embedder.encode_query(ground.items[name]))


def test_a_backbone_without_eyes_is_a_clear_error(tiny, ground: Ground) -> None:
    with pytest.raises(BadItem, match="picture 0"):
        embed_ground(tiny("llama"), ground, "e5v", ["norm"])


def test_the_command_prints_a_table_and_writes_every_figure(
    tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = tiny("llava")
    backbone.model.save_pretrained(tmp_path / "model")
    backbone.processor.save_pretrained(tmp_path / "model")
    out = tmp_path / "scenes.json"
    sizes = ["--size", 8, "--seeds", 1]
    assert run("scenes", tmp_path / "model", *sizes, "--out", out) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*TASKS, "binding", "centred"))
    found = json.loads(out.read_text())
    assert set(found["settings"]) == set(PRESETS)
    for setting in found["settings"].values():
        assert all(0 <= low <= mean <= high <= 1 for mean, low, high in (setting[t] for t in TASKS))
    assert found["fingerprint"]["architecture"] == "LlavaForConditionalGeneration"
