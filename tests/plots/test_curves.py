"""Curves by layer: lines, bands, the shaded step, and labels that can be read."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from probes import plots
from probes.stats import Interval
from tests.plots.drawn import BY_LAYER, assert_apart, assert_line, bars, curves, rendered


@pytest.mark.parametrize("draw", BY_LAYER, ids=lambda draw: draw.__name__)
def test_lines_are_the_means_by_layer_and_bands_their_intervals(draw: Callable) -> None:
    given = curves()
    ax = draw(given)
    attention, mlp, *norm = (getattr(given, name) for name in BY_LAYER[draw])
    layers = np.arange(6)
    assert [line.get_label() for line in ax.get_lines()[:2]] == ["attention", "MLP"]
    assert_line(ax, 0, layers, attention)
    assert_line(ax, 1, layers, mlp)
    assert len(bars(ax)) == len(norm)
    for step in norm:
        point, _, (stem,) = bars(ax)["final norm"]
        np.testing.assert_array_equal(point.get_xydata(), [[6, step.mean[0]]])
        ends = [[6, step.low[0]], [6, step.high[0]]]
        np.testing.assert_allclose(stem.get_segments()[0], ends)


def test_the_rank_axis_is_inverted() -> None:
    bottom, top = plots.draw_rank(curves()).get_ylim()
    assert bottom > top
    ax = plots.draw_rank(curves())
    assert plots.draw_rank(curves(seed=1), ax=ax).yaxis.get_inverted(), "a second one turned it"


@pytest.mark.parametrize(
    ("onset", "at", "alpha", "beta"),
    [
        ("attn[-1]", 5, "alpha_mlp", ("beta_attn", "beta_mlp")),
        ("mlp[-1]", 6, "alpha_norm", ("beta_mlp", "beta_norm")),
    ],
)
def test_the_shaded_step_is_the_one_after_the_onset(
    onset: str, at: int, alpha: str, beta: tuple[str, str]
) -> None:
    given = curves(onset=onset)
    assert given.onset == onset
    above, below = plots.draw_alpha(given), plots.draw_beta(given)
    for ax in (above, below):
        (shade,) = ax.patches
        assert shade.get_window_extent().transformed(ax.transData.inverted()).intervalx == (
            pytest.approx((at - 0.5, at + 0.5))
        )
    assert above.get_title("right").endswith(f"α = {getattr(given, alpha).mean[-1]:.2f}")
    step = "mlp[5]" if onset == "attn[-1]" else "norm"
    for ax in (above, below):
        assert f"turn at {step}: " in ax.get_title("right"), "not the site's own name"
    before, after = (getattr(given, name).mean[-1] for name in beta)
    assert below.get_title("right").endswith(f"β {before:.2f} → {after:.2f}")


@pytest.mark.parametrize("layers", [1, 2, 12, 18, 24, 28, 30, 32, 36, 61, 80, 126])
def test_layer_numbers_never_run_into_each_other(layers: int) -> None:
    ax = plots.draw_alpha(curves(layers))
    rendered(ax.figure)
    labels = dict(zip(ax.get_xticks(), [t.get_text() for t in ax.get_xticklabels()], strict=True))
    assert labels.pop(layers) == "norm"
    assert 0 in labels
    assert len(labels) >= min(layers, 4)
    lone = plots.draw_rank(curves(layers))
    assert {0, layers - 1} <= set(lone.get_xticks()), "the last layer, where no norm stands"
    rendered(lone.figure)
    assert_apart(lone.get_xticklabels())
    assert all(text == str(int(at)) for at, text in labels.items())
    assert_apart(ax.get_xticklabels())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["The"] * 6 + ["A"] * 3 + ["I", " he"] * 2 + ["x"] * 3, "'The' 38%, 'A' 19%, 'x' 19%"),
        (["\n"] * 2 + ["\x1b[31m"], r"'\n' 67%, '\x1b[31m' 33%"),
        (["$x$", "100%", "_{y}"], "'$x$' 33%, '100%' 33%, '_{y}' 33%"),
        (["日本", "naïve", "🙂"], r"'\u65e5\u672c' 33%, 'naïve' 33%, '\U0001f642' 33%"),
        (["<|endoftext|>"], "'<|endoftext…' 100%"),
        (["\ufffd"], "part of a character 100%"),
        ([""], "'' 100%"),
    ],
)
def test_the_most_frequent_words_are_printed(words: list[str], shown: str) -> None:
    """Characters that the font lacks are escaped: each would be a warning and an empty box."""
    ax = plots.draw_alpha(dataclasses.replace(curves(), words=words))
    assert ax.get_title("right").splitlines()[0] == f"y* {shown}"
    rendered(ax.figure)


def test_a_model_that_turns_nowhere_has_no_shaded_step() -> None:
    flat = Interval(*[np.full(6, 0.97)] * 3)
    still = dataclasses.replace(curves(), alpha_mlp=flat, alpha_norm=Interval(*[np.ones(1)] * 3))
    assert still.onset is None
    for ax in (plots.draw_alpha(still), plots.draw_beta(still)):
        assert not ax.patches
        assert "no turn: " in ax.get_title("right")


def test_lengths_are_plain_numbers_and_a_range_within_a_decade_has_ticks() -> None:
    far = Interval(*[np.geomspace(2, 12_000, 6)] * 3)
    ax = plots.draw_norms(dataclasses.replace(curves(), norm_attn=far, norm_mlp=far))
    rendered(ax.figure)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert {"10", "1,000", "10,000"} <= set(labels)
    assert not any("e" in label for label in labels)
    near = Interval(*[np.linspace(200, 700, 6)] * 3)
    close = plots.draw_norms(dataclasses.replace(curves(), norm_attn=near, norm_mlp=near))
    rendered(close.figure)
    low, high = close.get_ylim()
    assert sum(low <= tick <= high for tick in close.get_yticks()) >= 2
