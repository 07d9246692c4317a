"""Made-up measurements to draw, and what can be read from a drawing."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure, SubFigure
from matplotlib.text import Text

from probes import plots
from probes.measure.lexicalization import Curves
from probes.measure.synonyms import SynonymSimilarity
from probes.model.sites import all_sites
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

BY_LAYER = {
    plots.draw_alpha: ("alpha_attn", "alpha_mlp", "alpha_norm"),
    plots.draw_beta: ("beta_attn", "beta_mlp", "beta_norm"),
    plots.draw_rank: ("rank_attn", "rank_mlp"),
    plots.draw_probability: ("probability_attn", "probability_mlp", "probability_norm"),
    plots.draw_norms: ("norm_attn", "norm_mlp"),
}


def rendered(figure: Figure | SubFigure) -> Figure:
    figure = figure.get_figure(root=True)
    FigureCanvasAgg(figure).draw()
    return figure


def assert_line(ax: Axes, number: int, x: np.ndarray, expected: Interval) -> None:
    """Assert that line and band `number` are at the mean and the ends of the interval."""
    line, band = ax.get_lines()[number], ax.collections[number]
    np.testing.assert_array_equal(line.get_xydata(), np.stack([x, expected.mean], 1))
    edge = {tuple(vertex) for vertex in np.asarray(band.get_paths()[0].vertices)}
    assert edge == {*zip(x, expected.low, strict=True), *zip(x, expected.high, strict=True)}


def bars(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {str(c.get_label()): c for c in ax.containers if isinstance(c, ErrorbarContainer)}


def assert_apart(texts: list[Text]) -> None:
    """Assert that texts do not overlap; empty first and last lines do not count."""
    boxes = [text.get_window_extent() for text in texts]
    for box, text in zip(boxes, texts, strict=True):
        said = text.get_text()
        line = box.height / (said.count("\n") + 1)
        box.y1 -= line * (len(said) - len(said.lstrip("\n")))
        box.y0 += line * (len(said) - len(said.rstrip("\n")))
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
