"""What the last MLP's write does: the write is changed, and what follows from it is measured.

    python figures/causal.py --model smollm2-135m
    python figures/causal.py                          # draws all that was measured

The paper (arXiv 2509.24621) reads embeddings before the last MLP, because that MLP turns the state
toward the next word. Here its write is skipped, scaled, and freed of its component along w_y*, the
row of the predicted word; as controls, of as much along a random direction, and the MLP before and
the last attention are changed alike. At the end of the prompt of E5-V are measured: whether the
predicted word stays, α of the last two steps, β at the norm, and how well sentences find their
paraphrases by the states of `mlp[-1]` and `norm`. A backbone that reads pictures is measured on
drawn scenes, and on photographs and drawings of everyday things, whose captions find their
pictures. Intervals are 95%. Writes figures/causal_<model>_<query set>.json and, of all that were
measured, figures/causal.png and .svg.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy import ndarray
from torch import Tensor

from probes import E5V, Backbone, record
from probes.data import pictures
from probes.files import read_json, write_json
from probes.geometry import unit
from probes.measure.diagnostic.sets import PICTURED, SetName, answer_ranks, query_set
from probes.measure.lexicalization import alpha_of, beta_of
from probes.microscope.turns import Turn, components
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch
from probes.model.interventions import Intervention, intervene, scale, skip
from probes.plots import COLOURS, MARKERS, save, styled
from probes.plots.style import Look
from probes.prompts import Source
from probes.stats import Interval, mean_interval

HERE = Path(__file__).parent
MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "smolsight")
END = ("attn[-1]", "mlp[-1]", "norm")
PAIRS: dict[SetName, int] = {"paraphrases": 60, "scenes": 60, "everyday": 63}
"""Queries of each set that are measured, the first ones, and as many documents."""
TITLES: dict[SetName, str] = {
    "paraphrases": "sentences",
    "scenes": "scenes",
    "everyday": "everyday pictures",
}
CONTROLS = {"MLP before": "mlp[-2]", "last attention": "attn[-1]"}

Change = Callable[[Tensor], Intervention]
"""An intervention for the rows w_y* of a batch, `[batch, hidden]`."""


def without_word(rows: Tensor) -> Intervention:
    """The write without its component along w_y*."""
    return lambda before, after: after - _along(after - before, rows)


def without_as_much(rows: Tensor) -> Intervention:
    """The write without a vector of that length in a random direction, the same for all."""
    direction = torch.randn(rows.shape[-1], generator=torch.Generator().manual_seed(0))

    def change(before: Tensor, after: Tensor) -> Tensor:
        size = _along(after - before, rows).norm(dim=-1, keepdim=True)
        return after - size * unit(direction).to(after)

    return change


def _along(write: Tensor, rows: Tensor) -> Tensor:
    """The component of writes `[batch, …, hidden]` along a row for each of the batch."""
    toward = unit(rows).to(write).view(len(rows), *[1] * (write.ndim - 2), -1)
    return (write * toward).sum(-1, keepdim=True) * toward


CHANGES: dict[str, Change] = {
    "skipped": lambda _: skip,
    "× ¼": lambda _: scale(0.25),
    "× ½": lambda _: scale(0.5),
    "× 2": lambda _: scale(2.0),
    "less its word": without_word,
    "less as much at random": without_as_much,
}
OF_CONTROLS = ("skipped", "less its word")


class Ends(NamedTuple):
    """What a backbone ends with, for each of some prompts."""

    states: Float[Tensor, "prompts 3 hidden"]
    """At END, float32 on the CPU."""
    words: Tensor
    """The predicted words, `[prompts]`."""
    probability: Tensor
    """That of the word which is predicted without a change, `[prompts]`."""


def ends_of(backbone: Backbone, states: Tensor, words: Tensor | None) -> Ends:
    logits = backbone.lens(states[:, -1], "norm").float().cpu()
    predicted = logits.argmax(-1)
    asked = predicted if words is None else words
    return Ends(states, predicted, logits.softmax(-1).gather(1, asked[:, None])[:, 0])


def measure_ends(
    backbone: Backbone, sources: Sequence[Source]
) -> tuple[dict[str, Ends], dict[str, Turn]]:
    """The ends of all prompts by condition, and the turns of the last three sublayers."""

    def at_the_end(batch: Batch) -> Tensor:
        states = record(backbone, batch, [*before, *END])
        return torch.stack([states[site].float().cpu() for site in (*before, *END)], dim=1)

    def forward(batch: Batch) -> list[dict[str, Tensor]]:
        found = {"unchanged": at_the_end(batch)}
        words = backbone.lens(found["unchanged"][:, -1], "norm").argmax(-1)
        rows = backbone.word_rows(words)
        for control, site in CONTROLS.items():
            for name in OF_CONTROLS:
                with intervene(backbone, {site: CHANGES[name](rows)}):
                    found[f"{control} {name}"] = at_the_end(batch)
        return [dict(zip(found, each, strict=True)) for each in zip(*found.values(), strict=True)]

    before = ("attn[-2]", "mlp[-2]")
    rows = backbone.rows(sources)
    by_row = run_batches(backbone, rows, forward, share_prefix=False, progress="end")
    stream = {name: torch.stack([row[name] for row in by_row]) for name in by_row[0]}
    plain = ends_of(backbone, stream["unchanged"][:, 2:], None)
    word_rows = backbone.word_rows(plain.words).cpu()
    ends = {"unchanged": plain}
    # Nothing but the final norm follows the last MLP, so its changes need no other forward.
    for name, change in CHANGES.items():
        mlp = change(word_rows)(plain.states[:, 0], plain.states[:, 1])
        ends[f"last MLP {name}"] = ends_of(backbone, ended(backbone, plain, mlp), plain.words)
    shared = (plain.states[:, 1] - plain.states[:, 0]).mean(0)
    mlp = plain.states[:, 1] - shared
    ends["last MLP less what all share"] = ends_of(
        backbone, ended(backbone, plain, mlp), plain.words
    )
    for name, states in stream.items():
        if name != "unchanged":
            ends[name] = ends_of(backbone, states[:, 2:], plain.words)
    places = dict(zip((*before, *END), stream["unchanged"].double().unbind(1), strict=True))
    decoded = [backbone.tokenizer.decode([int(word)]) for word in plain.words]
    turns = {
        after: Turn(
            after,
            decoded,
            *components(places[first], places[after], word_rows.double()).numpy().T,
        )
        for first, after in zip((*before, "attn[-1]"), (*before[1:], *END[:2]), strict=True)
    }
    return ends, turns


def ended(backbone: Backbone, plain: Ends, mlp: Tensor) -> Float[Tensor, "prompts 3 hidden"]:
    """The states at END with another one at mlp[-1]."""
    norm = backbone.model.get_submodule(backbone.anatomy.norm)
    with torch.no_grad():
        normed = norm(mlp.to(backbone.device, backbone.dtype)).float().cpu()
    return torch.stack([plain.states[:, 0], mlp, normed], dim=1)


def effects(
    found: Ends, plain: Ends, rows: Tensor, queries: int
) -> dict[str, Float[ndarray, " _"]]:
    """Each quantity by prompt, or by query where it is one of retrieval; the first prompts are
    queries, and the others their answers in the same order."""
    attn, mlp, norm = found.states.double().unbind(1)
    values = {
        "word kept": (found.words == plain.words).double(),
        "p(word)": found.probability.double(),
        "α of the last MLP": alpha_of(attn, mlp),
        "α of the norm": alpha_of(mlp, norm),
        "β at mlp[-1]": beta_of(mlp, rows),
        "β at norm": beta_of(norm, rows),
    }
    for site, states in (("mlp[-1]", mlp), ("norm", norm)):
        for geometry, mean in (("raw", 0.0), ("centred", 1.0)):
            asked, held = states[:queries], states[queries:]
            scores = unit(asked - mean * asked.mean(0)) @ unit(held - mean * held.mean(0)).T
            ranks = answer_ranks(scores.numpy(), np.arange(queries))
            values[f"MRR at {site}, {geometry}"] = torch.from_numpy(1 / ranks)
    return {name: value.numpy() for name, value in values.items()}


def measure(backbone: Backbone, name: SetName) -> dict[str, Any]:
    """What figures/causal_<model>_<query set>.json holds."""
    chosen, pairs = query_set(name), PAIRS[name]
    queries, documents = chosen.queries[:pairs], chosen.documents[:pairs]
    ends, turns = measure_ends(backbone, [E5V.apply(item) for item in (*queries, *documents)])
    plain = ends["unchanged"]
    word_rows = backbone.word_rows(plain.words).cpu()
    values = {key: effects(end, plain, word_rows, pairs) for key, end in ends.items()}
    kinds = [row["kind"] for row in pictures()] if name == "everyday" else []
    return {
        "fingerprint": backbone.fingerprint(),
        "pairs": pairs,
        "turns": {
            site: {key: _rounded(value) for key, value in split.intervals().items()}
            for site, split in turns.items()
        },
        "effects": summary(values, np.arange(pairs)),
        "kinds": {
            kind: summary(values, np.flatnonzero(np.array(kinds) == kind))
            for kind in dict.fromkeys(kinds)
        },
    }


def summary(
    values: Mapping[str, Mapping[str, ndarray]], queries: ndarray
) -> dict[str, dict[str, list[float]]]:
    """Intervals of each quantity by condition, over some of the queries and their answers; every
    answer is ranked among all."""
    found: dict[str, dict[str, list[float]]] = {}
    for name, quantities in values.items():
        of_prompts = {k: v.reshape(2, -1) for k, v in quantities.items() if not k.startswith("MRR")}
        of_queries = {k: v for k, v in quantities.items() if k.startswith("MRR")}
        gains = {f"gain in {k}": v - values["unchanged"][k] for k, v in of_queries.items()}
        found[name] = {
            key: _rounded(mean_interval(value[..., queries].ravel()))
            for key, value in {**of_prompts, **of_queries, **gains}.items()
        }
    return found


def _rounded(interval: Interval) -> list[float]:
    return [float(f"{float(value):.4g}") for value in interval]


PANELS: dict[str, tuple[str, ...]] = {
    "predicted word kept": ("word kept",),
    "α": ("α of the last MLP", "α of the norm"),
    "β": ("β at mlp[-1]", "β at norm"),
    "gain in MRR": ("gain in MRR at mlp[-1], raw", "gain in MRR at norm, raw"),
    "gain, centred": ("gain in MRR at mlp[-1], centred", "gain in MRR at norm, centred"),
}
LABELS = ("last MLP, mlp[-1]", "final norm, norm")


@styled()
def draw(measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A row of panels for each backbone and query set, by its title."""
    figure = Figure(figsize=(14, 0.6 + 3.4 * len(measured)), layout="constrained")
    axes = figure.subplots(len(measured), len(PANELS), squeeze=False, sharex="col")
    for ax, title in zip(axes[0], PANELS, strict=True):
        ax.set_title(title)
    for (first, *others), (title, data) in zip(axes, measured.items(), strict=True):
        first.set_ylabel(title, fontweight="bold")
        for ax, keys in zip((first, *others), PANELS.values(), strict=True):
            _conditions(ax, data["effects"], keys, named=ax is first)
    figure.legend(*axes[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _conditions(ax: Axes, found: Mapping[str, Any], keys: Sequence[str], *, named: bool) -> None:
    """Quantities by condition, the first on top; a line goes through them without a change."""
    names = list(found)
    for i, key in enumerate(keys):
        mean, low, high = np.array([found[name][key] for name in names]).T
        at = np.arange(len(names)) + 0.3 * (i - (len(keys) - 1) / 2)
        look: Look = {"color": COLOURS[i + 1], "marker": MARKERS[i], "linestyle": "none"}
        ax.axvline(mean[0], color=COLOURS[i + 1], linewidth=0.8, alpha=0.5)
        ax.errorbar(mean, at, xerr=[mean - low, high - mean], label=LABELS[i], **look)
    ax.set_yticks(range(len(names)), names if named else [""] * len(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="x")


def main(*, model: str | None = None) -> None:
    """Measure a model, or draw what was measured.

    Args:
        model: One of the embedded backbones; none draws only.
    """
    if model is not None:
        backbone = Backbone.load(model)
        sees = "image" in backbone.modalities
        names: tuple[SetName, ...] = PICTURED if sees else ("paraphrases",)
        for name in names:
            write_json(_file(model, name), measure(backbone, name))
    measured = {}
    for name in MODELS:
        for set_name, title in TITLES.items():
            if (file := _file(name, set_name)).exists():
                data = read_json(file)
                measured[f"{name}\n{data['pairs']} {title}"] = data
    save(draw(measured), HERE / "causal")


def _file(model: str, name: SetName) -> Path:
    return HERE / f"causal_{model}_{name}.json"


if __name__ == "__main__":
    cyclopts.run(main)
