"""Figures of several panels: backbones and prompts side by side, on shared axes."""

from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from probes import plots
from probes.plots.figures import figure_of
from tests.plots.drawn import SIMILARITIES, assert_apart, assert_line, curves, rendered


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
