"""A lens table as HTML: hover over a cell, or move the focus to it, for its top words."""

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from probes.display import TEMPLATES

if TYPE_CHECKING:
    from probes.microscope.lens import LensTable

STRONGEST = 70
"""Percent of the accent colour in the cell of the highest value."""


def lens_html(table: "LensTable", positions: Sequence[int], *, page: bool = False) -> str:
    """Some positions of a table, for a notebook or as a page of its own. In a notebook it holds no
    script, so that it also works where a saved notebook is not trusted to run any."""
    template = files("probes.microscope").joinpath("lens.html").read_text("utf-8")
    columns = table.columns(positions)
    shades = {
        "p": table.probability[..., 0],
        "e": table.entropy / max(float(table.entropy.max()), 1e-12),
        "b": table.beta.clip(0, 1),
        "a": np.nan_to_num(table.alpha.clip(0, 1)),
    }
    rows = []
    for i, site in enumerate(table.sites):
        cells = []
        for j in columns:
            style = ";".join(
                f"--{name}:{STRONGEST * value[i, j]:.0f}%" for name, value in shades.items()
            )
            cells.append((style, table.words[i, j, 0], _details(table, i, j)))
        rows.append((str(site), cells))
    return TEMPLATES.from_string(template).render(
        table=table,
        page=page,
        rows=rows,
        heads=[(table.positions[j], table.tokens[j], table.predicted[j]) for j in columns],
    )


def _details(table: "LensTable", i: int, j: int) -> str:
    """The top words with their probabilities, then entropy, α and β, one line each."""
    top = zip(table.words[i, j], table.probability[i, j].tolist(), strict=True)
    alpha = "" if np.isnan(table.alpha[i, j]) else f"α {table.alpha[i, j]:.2f}  "
    return "\n".join(
        [
            *(f"{_share(p)} {word}" for word, p in top),
            f"entropy {table.entropy[i, j]:.2f} nats",
            f"{alpha}β {table.beta[i, j]:.2f}",
        ]
    )


def _share(p: float) -> str:
    return f"{p:.3f}".removeprefix("0") if p >= 0.0005 else "<.001"
