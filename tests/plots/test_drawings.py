"""Each drawing shows the numbers that it was given, where they belong."""

import dataclasses
import sys
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle

from probes import plots
from probes.errors import BadSetting
from probes.geometry import GeometryKind
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.framing import FrameBias
from probes.measure.synonyms import SynonymSimilarity
from probes.microscope.writes import Write, Writes
from probes.model.sites import all_sites, late_sites
from probes.stats import Interval
from tests.plots.drawn import (
    BY_LAYER,
    SIMILARITIES,
    assert_apart,
    assert_line,
    bars,
    curves,
    interval,
    rendered,
)

BIASES = [
    FrameBias(name, skew, 0.0, interval(0.6), interval(0.6), interval(auc), 0.5, True)
    for name, skew, auc in [("mcq", 0.4, 0.9), ("yes_no", 0.1, 0.51), ("true_false", 0.7, 0.6)]
]


MEANS: list[tuple[str, GeometryKind, tuple[float, float, float]]] = [
    ("e5v", "none", (0.3, 0.5, 0.4)),
    ("e5v", "whiten", (0.6, 0.5, 0.4)),
    ("control", "centre", (0.3, 0.9, 0.8)),
    ("prompteol", "none", (0.3, 0.4, 0.8)),
]


SETTINGS = [
    DiagnosticScore(prompt, site, kind, interval(0.9), interval(mean), interval(0.9))
    for prompt, kind, means in MEANS
    for site, mean in zip(("attn[-1]", "mlp[-1]", "norm"), means, strict=True)
]


def written(layers: int = 3, word: str = " word") -> Writes:
    """Writes of a backbone whose sublayers add 0, 1, 2… to the logit."""
    sites = all_sites(layers)[:-1]
    parts = [Write(str(s), torch.zeros(2).double(), 1.0 * i, 0.0, 0.0) for i, s in enumerate(sites)]
    return Writes(word, parts, {}, 0.5, 21.5, torch.zeros(2).double())


EVERYTHING: list[tuple[Callable[..., Axes], object]] = [
    *((draw, curves()) for draw in BY_LAYER),
    (plots.draw_synonyms, SIMILARITIES),
    (plots.draw_separation, SIMILARITIES),
    (plots.draw_spread, SIMILARITIES),
    (plots.draw_framing, BIASES),
    (plots.draw_diagnostic, SETTINGS),
    (plots.draw_writes, written()),
]


each_drawing = pytest.mark.parametrize(
    ("draw", "data"), EVERYTHING, ids=[draw.__name__ for draw, _ in EVERYTHING]
)


@pytest.mark.parametrize("sites", [*map(all_sites, (1, 18, 30, 80)), late_sites()], ids=len)
def test_ticks_are_labelled_with_their_sites(sites: list) -> None:
    names = [str(site) for site in sites]
    ax = plots.draw_synonyms([SynonymSimilarity(name, *[interval(0.5)] * 3) for name in names])
    rendered(ax.figure)
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == [names[int(at)] for at in ax.get_xticks()]
    assert {names[0], names[-1]} <= {label.get_text() for label in labels}
    assert len(labels) >= min(len(names), 4)
    assert_apart(labels)


def test_synonyms_controls_and_separation_are_drawn_from_their_own_fields() -> None:
    def column(name: str) -> Interval:
        return Interval(*np.array([getattr(s, name) for s in SIMILARITIES]).T)

    order = np.arange(len(SIMILARITIES))
    ax = plots.draw_synonyms(SIMILARITIES)
    assert [line.get_label() for line in ax.get_lines()] == ["synonyms", "controls"]
    assert_line(ax, 0, order, column("synonyms"))
    assert_line(ax, 1, order, column("controls"))
    assert_line(plots.draw_separation(SIMILARITIES), 0, order, column("separation"))


def test_frames_stand_at_their_skew_and_auc_and_are_hollow_at_chance() -> None:
    drawn = bars(plots.draw_framing(BIASES))
    assert list(drawn) == ["mcq", "yes_no", "true_false"]
    for bias in BIASES:
        point, _, (stem,) = drawn[bias.frame]
        np.testing.assert_array_equal(point.get_xydata(), [[bias.skew, bias.auc.mean]])
        ends = [[bias.skew, bias.auc.low], [bias.skew, bias.auc.high]]
        np.testing.assert_allclose(stem.get_segments()[0], ends)
        assert (to_rgb(point.get_markerfacecolor()) == (1, 1, 1)) == (bias.frame == "yes_no")


def test_writes_stand_at_their_layers() -> None:
    ax = plots.draw_writes(written())
    found: dict[str, list[tuple[float, float]]] = {
        str(bars.get_label()): [
            (bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in bars
        ]
        for bars in ax.containers
        if isinstance(bars, BarContainer)
    }
    assert found == {
        "embedding": [(pytest.approx(-1), 0)],
        "attention": [(pytest.approx(i - 0.2), 2 * i + 1) for i in range(3)],
        "MLP": [(pytest.approx(i + 0.2), 2 * i + 2) for i in range(3)],
    }
    assert ax.get_title("right") == "“word”, logit 21.5"
    assert plots.draw_writes(written(word="\n"), note=True).get_title("right")[1:6] == "white"
    rendered(plots.draw_writes(written(word=" $x_$")).figure)
    assert plots.draw_writes(written(), legend=False, note=False).get_legend() is None


@pytest.mark.parametrize("layers", [1, 18, 30, 80])
def test_layers_of_writes_never_run_into_each_other(layers: int) -> None:
    ax = plots.draw_writes(written(layers))
    rendered(ax.figure)
    assert_apart(ax.get_xticklabels())
    assert 0 in ax.get_xticks()


def test_the_heatmap_has_every_extraction_and_frames_the_best() -> None:
    ax = plots.draw_diagnostic(SETTINGS)
    rendered(ax.figure)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "e5v, none", "e5v, whiten", "control, centre", "prompteol, none",
    ]  # fmt: skip
    assert [label.get_text() for label in ax.get_xticklabels()] == ["attn[-1]", "mlp[-1]", "norm"]
    [cells] = (mesh for mesh in ax.collections if isinstance(mesh, QuadMesh))
    np.testing.assert_array_equal(cells.get_array(), [means for _, _, means in MEANS])
    assert [text.get_text() for text in ax.texts[:3]] == ["0.30", "0.50", "0.40"]
    [best] = ax.patches
    assert isinstance(best, Rectangle)
    assert best.get_xy() == (1, 2), "control, centre at mlp[-1]"


@each_drawing
def test_no_legend_covers_data(draw: Callable[..., Axes], data: object) -> None:
    figure = rendered(draw(data).figure)
    ax, *bars = figure.axes
    assert not any(bar.bbox.overlaps(ax.bbox) for bar in bars), "the colour bar of the heatmap"
    for legend in (child for child in ax.get_children() if isinstance(child, Legend)):
        box = legend.get_window_extent()
        assert not box.overlaps(ax.bbox)
        assert not any(box.overlaps(text.get_window_extent()) for text in ax.texts)
        assert figure.bbox.containsx(box.x1), "the legend is cut off"


@each_drawing
def test_drawing_goes_into_the_given_axes_alone(draw: Callable[..., Axes], data: object) -> None:
    left, right = Figure().subplots(1, 2)
    before = dict(matplotlib.rcParams)
    assert draw(data, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    assert right.figure.axes[:2] == [left, right]
    assert draw(data).figure is not draw(data).figure
    assert dict(matplotlib.rcParams) == before


def test_pyplot_holds_no_figure() -> None:
    for draw, data in EVERYTHING:
        draw(data)
    plots.curves_figure({"One": curves()})
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_intervals_stand_in_the_order_given_beside_the_reference() -> None:
    intervals = {"first": Interval(0.5, 0.4, 0.7), "second": Interval(0.3, 0.2, 0.35)}
    ax = plots.draw_intervals(intervals, reference="second")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["first", "second"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1], "the first is on top"
    assert ax.lines[0].get_xdata()[0] == 0.3
    [low, high] = sorted(point[0] for point in ax.collections[0].get_segments()[0])
    assert (low, high) == pytest.approx((0.4, 0.7))


@each_drawing
def test_a_drawing_without_legend_and_note_leaves_room_for_a_title(
    draw: Callable[..., Axes], data: object
) -> None:
    """A user can draw into the panels of their own figure, with their own titles."""
    left, right = Figure(layout="constrained").subplots(1, 2)
    draw(data, left, legend=False, note=False)
    left.set_title("My title", loc="right")
    assert left.get_legend() is None
    assert left.get_title("left") == left.get_title("center") == ""
    assert left.figure.axes == [left, right], "no colour bar"
    full = draw(data)
    assert full.get_legend() or len(full.figure.axes) > 1 or draw is plots.draw_separation


def test_a_single_result_is_drawn_and_another_type_is_refused() -> None:
    assert len(plots.curves_figure(curves()).axes) == 2
    assert list(bars(plots.draw_framing(BIASES[0]))) == ["mcq"]
    assert plots.draw_synonyms(SIMILARITIES[0]).has_data()
    assert plots.draw_diagnostic(SETTINGS[0]).has_data()
    wrong = {"a": 1}
    for draw, _ in EVERYTHING:
        with pytest.raises(BadSetting, match=r"this draws .*, not dict"):
            draw(wrong)
    with pytest.raises(BadSetting, match=r"curves, such as .*, not FrameBias"):
        plots.curves_figure(BIASES[0])  # type: ignore[arg-type]


def test_spreads_are_bands_around_the_medians() -> None:
    ax = plots.draw_spread(SIMILARITIES)
    synonyms, controls = ax.get_lines()
    assert list(synonyms.get_ydata()) == [s.synonym_spread.p50 for s in SIMILARITIES]  # pyright: ignore
    assert list(controls.get_ydata()) == [s.control_spread.p50 for s in SIMILARITIES]  # pyright: ignore
    wide, narrow, *_ = (np.asarray(band.get_paths()[0].vertices)[:, 1] for band in ax.collections)
    assert (wide.min(), wide.max()) == (0.6, 0.99)
    assert (narrow.min(), narrow.max()) == (0.7, 0.95)
    bare = [dataclasses.replace(s, synonym_spread=None) for s in SIMILARITIES]
    with pytest.raises(BadSetting, match="probe again"):
        plots.draw_spread(bare)
