"""The figure of a lens table shows its words and numbers where they belong."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import QuadMesh

from probes import lens, plots
from probes.errors import BadSetting
from probes.model.backbone import Backbone
from probes.plots.microscope import LETTERS
from probes.plots.style import writable

Tiny = Callable[[str], Backbone]
PROMPT = "one word of $the image: 日本$ and\nothers"


@pytest.mark.parametrize("colour", ["probability", "entropy", "alpha", "beta"])
def test_words_and_colours_are_those_of_the_last_positions(colour: str, tiny: Tiny) -> None:
    table = lens(tiny("llama"), PROMPT)
    ax = plots.draw_lens(table, colour=colour, positions=4)  # type: ignore[arg-type]
    FigureCanvasAgg(ax.get_figure(root=True)).draw()  # a dollar sign is no formula
    words = [text.get_text() for text in ax.texts]
    shown = table.words[colour == "alpha" :, -4:, 0]  # there is no α at the embedding
    assert words == [writable(word, LETTERS) for word in shown.ravel()]
    [mesh] = [c for c in ax.collections if isinstance(c, QuadMesh)]
    values = table.probability[..., 0] if colour == "probability" else getattr(table, colour)
    np.testing.assert_allclose(
        np.ma.filled(np.ma.asarray(mesh.get_array()), np.nan), values[:, -4:]
    )
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == [writable(token, LETTERS) for token in table.tokens[-4:]]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(map(str, table.sites))
    first = table.length - 4
    assert ax.get_title(loc="left") == f"tokens {first}–{table.length - 1} of {table.length}"


def test_a_short_prompt_is_shown_whole(tiny: Tiny) -> None:
    table = lens(tiny("llama"), "Yes the word", sites="norm")
    ax = plots.draw_lens(table, legend=False)
    assert ax.get_title(loc="left") == ""
    assert len(ax.texts) == table.length
    assert ax.figure.axes == [ax]


def test_a_colour_must_exist(tiny: Tiny, unchecked: None) -> None:
    table = lens(tiny("llama"), "Yes", sites="norm")
    with pytest.raises(BadSetting, match="colour must be one of"):
        plots.draw_lens(table, colour="rank")  # type: ignore[arg-type]
