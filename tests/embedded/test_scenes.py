"""Scenes: captions that are true of every rendering and false of the hard negatives."""

from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise
from random import Random
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from probes.scenes.generator import (
    BACKGROUNDS,
    CHANGES,
    COLOURS,
    COMBINATIONS,
    HELD_OUT,
    NUMBERS,
    SEEN,
    SHAPES,
    Clip,
    Relation,
    Scene,
    Thing,
    distinct_scenes,
    random_clip,
    random_scene,
)

seeds = st.integers(0, 2**32)
RED_CIRCLE, BLUE_SQUARE = Thing("red", "circle", "small"), Thing("blue", "square", "large")


def foreground(picture, background: str) -> np.ndarray:
    """Mask [H, W] of what is not background; antialiased edges may count as either."""
    pixels = np.asarray(picture).astype(int)
    return np.abs(pixels - pixels[0, 0]).sum(-1) > 60


def words(caption: str) -> Counter:
    return Counter("a" if word == "an" else word for word in caption.replace(",", "").split())


@given(seeds)
def test_a_seed_determines_the_scene(seed):
    scenes = [random_scene(Random(seed)) for _ in range(2)]
    assert scenes[0] == scenes[1]
    drawn = [scenes[0].draw(32, Random(seed)).tobytes() for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert scenes[0].draw(32).tobytes() == scenes[0].draw(32).tobytes()
    clips = [random_clip(Random(seed)) for _ in range(2)]
    assert clips[0] == clips[1]


@given(seeds)
def test_another_rendering_is_another_picture(seed):
    rng = Random(seed)
    scene = random_scene(rng)
    assert scene.draw(64, rng).tobytes() != scene.draw(64, rng).tobytes()


@given(seeds)
def test_held_out_combinations_stay_out(seed):
    rng = Random(seed)
    for pool in (SEEN, HELD_OUT):
        assert all((t.colour, t.shape) in pool for t in random_scene(rng, pool).things)
        clip = random_clip(rng, pool)
        assert all((t.colour, t.shape) in pool for t in clip.scene.things)


def test_held_out_combinations_are_balanced():
    assert not set(HELD_OUT) & set(SEEN)
    assert set(HELD_OUT) | set(SEEN) == set(COMBINATIONS)
    assert set(Counter(colour for colour, _ in HELD_OUT).values()) == {2}
    assert set(Counter(shape for _, shape in HELD_OUT).values()) == {2}
    assert {c for c, _ in HELD_OUT} == set(COLOURS)
    assert {s for _, s in HELD_OUT} == set(SHAPES)


def test_a_clip_never_turns_into_a_held_out_combination():
    clips = [random_clip(Random(seed), SEEN) for seed in range(300)]
    ends = [(clip.colour, clip.scene.things[0].shape) for clip in clips if clip.change == "turns"]
    assert ends
    assert set(ends) <= set(SEEN)


@given(seeds)
def test_every_caption_names_every_attribute(seed):
    scene = random_scene(Random(seed))
    captions = scene.captions()
    assert captions[0] == scene.caption()
    assert len(set(captions)) == len(captions)
    for caption in captions:
        assert scene.background in words(caption)
        for thing in scene.things:
            assert str(thing) in caption


def test_captions_are_english():
    pair = (RED_CIRCLE, BLUE_SQUARE)
    assert Scene(pair, "left of", "grey").captions() == [
        "a small red circle to the left of a large blue square on a grey background",
        "a large blue square to the right of a small red circle on a grey background",
        "on grey, a small red circle to the left of a large blue square",
    ]
    crosses = Scene((Thing("orange", "cross"),) * 2 + (RED_CIRCLE,))
    assert crosses.caption() == (
        "two large orange crosses and a small red circle on a white background"
    )
    ring = Scene((Thing("orange", "ring"),), None, "black")
    assert Clip(ring, "turns", "pink").caption() == (
        "an orange ring turns pink on a black background"
    )


@settings(deadline=None)
@given(seeds)
def test_the_relation_holds_in_every_rendering(seed):
    rng = Random(seed)
    scene = random_scene(rng)
    placed = scene.layout(rng)[::-1]
    assert [place.shape for place in placed] == [thing.shape for thing in scene.things]

    def apart(a, b) -> float:
        return float(np.hypot(a.x - b.x, a.y - b.y))

    for a, b in pairwise(placed):
        if scene.relation == "left of":
            assert b.x - a.x > 2 * abs(b.y - a.y)
        elif scene.relation == "above":
            assert b.y - a.y > 2 * abs(b.x - a.x)
        elif scene.relation == "inside":
            assert apart(a, b) + a.radius < b.radius
        elif scene.relation == "overlapping":
            assert abs(a.radius - b.radius) < apart(a, b) < 0.7 * (a.radius + b.radius)
    if scene.relation not in ("inside", "overlapping"):
        for a, b in combinations(placed, 2):
            assert apart(a, b) > 0.95 * (a.radius + b.radius)


@settings(deadline=None)
@given(seeds)
def test_scattered_things_can_be_counted(seed):
    rng = Random(seed)
    scene = random_scene(rng)
    seen = foreground(scene.draw(128, rng), scene.background)
    _, pieces = ndimage.label(seen, np.ones((3, 3)))  # a star is sharp: corners touch as well
    if scene.relation is None:
        assert pieces == len(scene.things)
        counted = sum(NUMBERS.index(w) for w in scene.caption().split() if w in NUMBERS)
        assert counted + words(scene.caption())["a"] - 1 == pieces
    elif scene.relation == "overlapping":
        assert pieces == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("background", BACKGROUNDS)
def test_colour_and_background_are_on_the_picture(shape, colour, background):
    picture = np.asarray(Scene((Thing(colour, shape),), None, background).draw(64)).reshape(-1, 3)
    shades = Counter(map(tuple, picture.tolist()))
    assert [shade for shade, _ in shades.most_common(2)] == [
        BACKGROUNDS[background],
        COLOURS[colour],
    ]


def test_shapes_differ_in_outline():
    masks = [
        foreground(Scene((Thing("red", shape),), None, "white").draw(64), "white")
        for shape in SHAPES
    ]
    for a, b in combinations(masks, 2):
        assert (a ^ b).sum() > 0.15 * (a | b).sum()


def test_size_is_on_the_picture():
    small, large = (
        foreground(Scene((Thing("red", "circle", size),)).draw(64), "white").sum()
        for size in ("small", "large")
    )
    assert large > 2 * small


def test_the_first_thing_lies_on_top():
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), "inside")
    assert tuple(np.asarray(scene.draw(64))[32, 32]) == COLOURS["red"]


@given(seeds)
def test_hard_negatives_are_false_and_close(seed):
    scene = random_scene(Random(seed))
    for why, negatives in scene.hard_negatives().items():
        for negative in negatives:
            assert not negative.means(scene)
            assert not set(negative.captions()) & set(scene.captions())
            if why == "counting":
                assert abs(len(negative.things) - len(scene.things)) == 1
                assert set(negative.things) <= set(scene.things)
            if why == "binding":
                assert words(negative.caption()) == words(scene.caption())
            if why == "relation" and negative.relation == scene.relation != "inside":
                assert words(negative.caption()) == words(scene.caption())


def test_each_ability_has_its_negatives():
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), "left of")
    negatives = scene.hard_negatives()
    assert Scene(
        (replace(RED_CIRCLE, colour="blue"), replace(BLUE_SQUARE, colour="red")), "left of"
    ) in negatives["binding"]  # fmt: skip
    assert Scene((BLUE_SQUARE, RED_CIRCLE), "left of") in negatives["relation"]
    assert "counting" not in negatives
    stars = Scene((Thing("pink", "star"),) * 2)
    assert [len(n.things) for n in stars.hard_negatives()["counting"]] == [1, 3]
    assert set(stars.hard_negatives()) == {"counting"}


def test_every_relation_has_hard_negatives():
    for relation in get_args(Relation):
        assert Scene((RED_CIRCLE, BLUE_SQUARE), relation).hard_negatives()["relation"]


def test_order_means_nothing_where_the_caption_is_symmetric():
    pair, swapped = (RED_CIRCLE, BLUE_SQUARE), (BLUE_SQUARE, RED_CIRCLE)
    assert Scene(pair, "overlapping").means(Scene(swapped, "overlapping"))
    assert Scene(pair).means(Scene(swapped))
    assert not Scene(pair, "above").means(Scene(swapped, "above"))


def test_scenes_of_a_pool_differ_in_meaning():
    pool = distinct_scenes(Random(0), 100, HELD_OUT)
    assert len(pool) == 100
    assert not any(a.means(b) for a, b in combinations(pool, 2))
    assert len({scene.caption() for scene in pool}) == 100


def test_recoloured_changes_one_colour_only():
    scene = Scene((RED_CIRCLE, BLUE_SQUARE), "above")
    assert scene.recoloured("green", 1).things == (RED_CIRCLE, replace(BLUE_SQUARE, colour="green"))
    assert scene.recoloured("green", 1).relation == "above"


def clip_of(change) -> Clip:
    things = (RED_CIRCLE, BLUE_SQUARE) if change == "swap" else (RED_CIRCLE,)
    scene = Scene(things, "left of" if change == "swap" else None)
    return Clip(scene, change, "green" if change == "turns" else None)


def middle(frame, mask) -> tuple[float, float]:
    rows, columns = np.nonzero(mask(np.asarray(frame).astype(int)))
    return float(columns.mean()), float(rows.mean())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("change", CHANGES)
def test_the_change_in_the_caption_happens(change, seed):
    frames = clip_of(change).frames(6, 64, Random(seed))
    assert len(frames) == 6
    red = lambda pixels: (pixels[..., 0] > 120) & (pixels[..., 1:] < 100).all(-1)  # noqa: E731
    blue = lambda pixels: (pixels[..., 2] > 150) & (pixels[..., :2] < 130).all(-1)  # noqa: E731
    areas = [foreground(frame, "white").sum() for frame in frames]
    if change.startswith("moves"):
        places = [middle(frame, red)[0] for frame in frames]
        assert places == sorted(places, reverse=change == "moves left")
        assert abs(places[-1] - places[0]) > 25
    elif change in ("grows", "shrinks"):
        assert areas == sorted(areas, reverse=change == "shrinks")
        assert max(areas) > 4 * min(areas)
    elif change == "turns":
        x, y = (round(place) for place in middle(frames[0], red))
        last = np.asarray(frames[-1])[y, x]
        assert tuple(last) == COLOURS["green"]
    else:
        for colour, side in ((red, 1), (blue, -1)):
            start, end = middle(frames[0], colour)[0], middle(frames[-1], colour)[0]
            assert side * (end - start) > 20


@pytest.mark.parametrize(
    ("change", "reverse"), [("moves right", "moves left"), ("grows", "shrinks")]
)
def test_a_reversed_clip_has_the_same_frames_backwards(change, reverse):
    forwards, backwards = (
        [frame.tobytes() for frame in clip_of(name).frames(5, 32)] for name in (change, reverse)
    )
    assert forwards == backwards[::-1]
