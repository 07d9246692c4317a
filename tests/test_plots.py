"""The figures show the numbers they were given, where they belong, and nothing hides them."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from probes import plots
from probes.errors import BadSetting
from probes.geometry import GeometryKind
from probes.measure.diagnostic.scores import DiagnosticScore
from probes.measure.framing import FrameBias
from probes.measure.lexicalization import Curves
from probes.measure.synonyms import SynonymSimilarity
from probes.microscope.writes import Write, Writes
from probes.model.sites import all_sites, late_sites
from probes.plots.figures import figure_of
from probes.stats import Interval, Spread, mean_interval


def curves(layers: int = 6, onset: str = "mlp[-1]", low: float = 0.3, seed: int = 0) -> Curves:
    """Curves of eight prompts; the step after `onset` has an alpha below all the others."""
    rng = np.random.default_rng(seed)

    def curve(width: int, start: float, end: float) -> Interval:
        return mean_interval(rng.uniform(start, end, (8, width)))

    alpha_mlp = rng.uniform(low, 1, (8, layers))
    if onset == "attn[-1]":
        alpha_mlp[:, -1] = low - 0.2
    norm = 0.95 if onset == "attn[-1]" else low - 0.2
    return Curves(
        alpha_attn=curve(layers, low, 1),
        alpha_mlp=mean_interval(alpha_mlp),
        alpha_norm=curve(1, norm - 0.02, norm + 0.02),
        beta_attn=curve(layers, -0.1, 0.3),
        beta_mlp=curve(layers, -0.1, 0.3),
        beta_norm=curve(1, 0.3, 0.5),
        norm_attn=curve(layers, 1, 900),
        norm_mlp=curve(layers, 1, 900),
        rank_attn=curve(layers, 1, 5000),
        rank_mlp=curve(layers, 1, 5000),
        probability_attn=curve(layers, 0, 0.1),
        probability_mlp=curve(layers, 0, 0.1),
        probability_norm=curve(1, 0.5, 0.6),
        words=["word"] * 8,
    )


def interval(mean: float) -> Interval:
    return Interval(mean, mean - 0.02, mean + 0.03)


SIMILARITIES = [
    SynonymSimilarity(
        str(s), interval(0.9 - i / 50), interval(0.8 - i / 30), interval(i / 10),
        Spread(0.6, 0.7, 0.9 - i / 50, 0.95, 0.99), Spread(0.2, 0.3, 0.8 - i / 30, 0.85, 0.9),
    )
    for i, s in enumerate(all_sites(6))
]  # fmt: skip
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


BY_LAYER = {
    plots.draw_alpha: ("alpha_attn", "alpha_mlp", "alpha_norm"),
    plots.draw_beta: ("beta_attn", "beta_mlp", "beta_norm"),
    plots.draw_rank: ("rank_attn", "rank_mlp"),
    plots.draw_probability: ("probability_attn", "probability_mlp", "probability_norm"),
    plots.draw_norms: ("norm_attn", "norm_mlp"),
}
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


def rendered(figure: Figure | SubFigure) -> Figure:
    figure = figure.get_figure(root=True)
    FigureCanvasAgg(figure).draw()
    return figure


def assert_line(ax: Axes, number: int, x: np.ndarray, expected: Interval) -> None:
    """The ax's line and band `number` are at the mean and the two ends of the interval."""
    line, band = ax.get_lines()[number], ax.collections[number]
    np.testing.assert_array_equal(line.get_xydata(), np.stack([x, expected.mean], 1))
    edge = {tuple(vertex) for vertex in np.asarray(band.get_paths()[0].vertices)}
    assert edge == {*zip(x, expected.low, strict=True), *zip(x, expected.high, strict=True)}


def bars(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {str(c.get_label()): c for c in ax.containers if isinstance(c, ErrorbarContainer)}


def assert_apart(texts: list[Text]) -> None:
    """No text runs into another; empty first and last lines are no text."""
    boxes = [text.get_window_extent() for text in texts]
    for box, text in zip(boxes, texts, strict=True):
        said = text.get_text()
        line = box.height / (said.count("\n") + 1)
        box.y1 -= line * (len(said) - len(said.lstrip("\n")))
        box.y0 += line * (len(said) - len(said.rstrip("\n")))
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


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


def test_rank_one_is_at_the_top() -> None:
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


@pytest.mark.parametrize("sites", [*map(all_sites, (1, 18, 30, 80)), late_sites()], ids=len)
def test_sites_are_named_where_they_are(sites: list) -> None:
    names = [str(site) for site in sites]
    ax = plots.draw_synonyms([SynonymSimilarity(name, *[interval(0.5)] * 3) for name in names])
    rendered(ax.figure)
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == [names[int(at)] for at in ax.get_xticks()]
    assert {names[0], names[-1]} <= {label.get_text() for label in labels}
    assert len(labels) >= min(len(names), 4)
    assert_apart(labels)


def test_synonyms_controls_and_separation_are_each_their_own() -> None:
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


def test_side_by_side_every_backbone_has_its_column() -> None:
    # The first one's alpha goes far lower than the last one's: shared limits must hold both.
    long = "Organisation/Some-Model-2.5-32B-Instruct"
    given = {long: curves(4, "attn[-1]", low=-0.4), "Two": curves(9, low=0.6)}
    figure = rendered(plots.curves_figure(given))
    above, below = figure.axes[:2], figure.axes[2:]
    assert [ax.get_title("left").strip() for ax in above] == [long, "Two"]
    titles = [t for t in above[0].get_children() if isinstance(t, Text) and t.get_text()]
    assert len(titles) == 2
    assert_apart(titles)
    for column, each in enumerate(given.values()):
        layers = np.arange(each.num_layers)
        assert_line(above[column], 1, layers, each.alpha_mlp)
        assert_line(below[column], 1, layers, each.beta_mlp)
        for ax in (above[column], below[column]):
            bottom, top = ax.get_ylim()
            heights = np.concatenate([line.get_ydata() for line in ax.get_lines()])
            assert bottom < heights.min() <= heights.max() < top
    assert [ax.get_legend() for ax in figure.axes] == [None] * 4
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "attention", "MLP", "final norm",
    ]  # fmt: skip
    assert len(plots.curves_figure({"Only": curves()}).axes) == 2


def test_the_kinds_of_prompt_stand_side_by_side_by_their_titles() -> None:
    given = {"word": curves(onset="attn[-1]"), "control": curves(seed=1), "text": curves(seed=2)}
    figure = rendered(plots.curves_figure(given, ("rank", "probability", "norms"), "A model"))
    assert figure.get_suptitle() == "A model"
    rows = [figure.axes[i : i + 3] for i in (0, 3, 6)]
    assert [ax.get_title("left").strip() for ax in rows[0]] == [
        "asked for a word (E5-V's prompt)", "control prompt", "running text",
    ]  # fmt: skip
    for row, part in zip(rows, ("rank", "probability", "norm"), strict=True):
        for ax, each in zip(row, given.values(), strict=True):
            assert_line(ax, 0, np.arange(6), getattr(each, f"{part}_attn"))
            assert_line(ax, 1, np.arange(6), getattr(each, f"{part}_mlp"))
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "attention", "MLP", "final norm",
    ]  # fmt: skip
    only = plots.curves_figure({"word": curves()}, ("norms",))
    assert [t.get_text() for t in only.legends[0].get_texts()] == ["attention", "MLP"]


def test_turns_have_a_row_for_each_backbone_and_a_column_for_each_kind() -> None:
    kinds = ("word", "control", "text")
    given = {
        name: {kind: curves(layers, seed=layers + i) for i, kind in enumerate(kinds)}
        for name, layers in (("One", 4), ("Two", 9))
    }
    figure = rendered(plots.turns_figure(given))
    rows = [figure.axes[:3], figure.axes[3:]]
    for (name, by_kind), row in zip(given.items(), rows, strict=True):
        assert row[0].get_ylabel().startswith(f"{name}\nα")
        for ax, each in zip(row, by_kind.values(), strict=True):
            assert_line(ax, 1, np.arange(each.num_layers), each.alpha_mlp)
            assert "'word' 100%" in ax.get_title("right")
            assert_apart([t for t in ax.get_children() if isinstance(t, Text) and t.get_text()])
    assert [ax.get_title("left").strip() for ax in rows[0]] == [
        "asked for a word (E5-V's prompt)", "control prompt", "running text",
    ]  # fmt: skip


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
    """As characters that the font has: a missing one would be a warning, and a box."""
    ax = plots.draw_alpha(dataclasses.replace(curves(), words=words))
    assert ax.get_title("right").splitlines()[0] == f"y* {shown}"
    rendered(ax.figure)


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


def test_equal_figures_are_equal_files(tmp_path: Path) -> None:
    first, second = (
        plots.save(plots.curves_figure({"One": curves()}), tmp_path / name / "qwen2.5")
        for name in ("a", "b")
    )
    assert [path.name for path in first] == ["qwen2.5.png", "qwen2.5.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted((tmp_path / "a").iterdir()) == first, "something else was left behind"
    svg = first[1].read_text(encoding="utf-8")
    assert "dc:date" not in svg
    assert "Matplotlib" not in svg
    with Image.open(first[0]) as picture:
        assert picture.size == (round(5.1 * 150), round(6.0 * 150))
        assert not picture.info.keys() & {"Software", "Creation Time"}


def test_another_figure_is_another_file(tmp_path: Path) -> None:
    one, other = (
        plots.save(plots.draw_alpha(curves(seed=seed)).figure, tmp_path / str(seed))
        for seed in (0, 1)
    )
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True))


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
    """Panels of a figure of one's own, with its own titles: nothing is written over them."""
    left, right = Figure(layout="constrained").subplots(1, 2)
    draw(data, left, legend=False, note=False)
    left.set_title("My title", loc="right")
    assert left.get_legend() is None
    assert left.get_title("left") == left.get_title("center") == ""
    assert left.figure.axes == [left, right], "no colour bar"
    full = draw(data)
    assert full.get_legend() or len(full.figure.axes) > 1 or draw is plots.draw_separation


def test_a_lone_result_is_drawn_and_anything_else_is_named() -> None:
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


def test_a_model_that_turns_nowhere_has_no_shaded_step() -> None:
    flat = Interval(*[np.full(6, 0.97)] * 3)
    still = dataclasses.replace(curves(), alpha_mlp=flat, alpha_norm=Interval(*[np.ones(1)] * 3))
    assert still.onset is None
    for ax in (plots.draw_alpha(still), plots.draw_beta(still)):
        assert not ax.patches
        assert "no turn: " in ax.get_title("right")


@pytest.mark.parametrize(
    ("name", "formats", "files"),
    [
        ("cf.pdf", ["pdf"], ["cf.pdf"]),
        ("cf.pdf", None, ["cf.pdf"]),
        ("cf.pdf", ["png", "svg"], ["cf.png", "cf.svg"]),
        ("qwen2.5", None, ["qwen2.5.png", "qwen2.5.svg"]),
    ],
)
def test_a_suffix_names_a_format(name: str, formats: Any, files: list[str], tmp_path: Path) -> None:
    written = plots.save(plots.draw_norms(curves()).figure, tmp_path / name, formats)
    assert [path.name for path in written] == files


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


# ------------------------------------------------------------------------- whole reports


REPORT = {"word": curves(), "control": curves(seed=1), "text": curves(seed=2)}


def test_three_models_fit_into_a_column_of_a_paper() -> None:
    results = {"one": REPORT, "two": REPORT, "qwen2.5-coder-0.5b": REPORT}
    figure = rendered(figure_of("curves", results, 3.3))
    assert figure.get_figwidth() == 3.3
    assert figure.get_figheight() <= 4.5
    assert len(figure.axes) == 9
    assert len({round(ax.get_position().x0, 3) for ax in figure.axes}) == 3, "side by side"
    assert len(figure.legends) == 1
    assert [ax.get_ylabel() for ax in figure.axes[::3]] == list(results)
    assert all(ax.get_ylim() == figure.axes[0].get_ylim() for ax in figure.axes)
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    boxes = [text.get_window_extent() for text in texts if text.get_window_extent().width]
    inside = figure.bbox.padded(1)
    assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)
    below = [ax.xaxis.label.get_window_extent() for ax in figure.axes[6:]]
    assert not any(figure.legends[0].get_window_extent().overlaps(box) for box in below)
    titles = {ax.get_title("left") for ax in figure.axes[:3]}
    assert_apart([text for text in texts if text.get_text() in titles])


def test_prompts_and_panels_can_be_chosen() -> None:
    results = {"one": REPORT, "two": REPORT}
    figure = figure_of("curves", results, 3.3, prompts=["text"], panels=["beta"])
    assert len(figure.axes) == 2
    assert_line(figure.axes[0], 1, np.arange(6), REPORT["text"].beta_mlp)
    assert len(figure_of("curves", results, prompts=["word", "text"]).axes) == 2 * 2 * 2


def test_a_figure_higher_than_a_page_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    figure_of("curves", {"one": REPORT}, 3.3)
    assert not caplog.records
    figure_of("curves", {str(n): REPORT for n in range(8)}, 3.3)
    assert "more than a page" in caplog.text


def test_panels_of_other_kinds_share_their_axes_and_label_them_once() -> None:
    results: dict[str, Any] = dict.fromkeys(("one", "two"), SIMILARITIES)
    left, right = figure_of("synonyms", results).axes
    assert left.get_ylabel()
    assert not right.get_ylabel()
    assert left.get_ylim() == right.get_ylim()


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
