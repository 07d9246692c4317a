"""The page of a probe report: a sentence for newcomers, then each figure and how to read it."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from freeret.pages.render import render
from freeret.recipe import Recipe
from probes import ProbeReport, plots
from probes.display import svg_uri
from probes.measure.injection import Injection
from probes.measure.lexicalization import PROMPT_KINDS
from probes.measure.paraphrases import best_score

WHEN = {
    "word": "when it is asked for a word",
    "control": "under the paper's control prompt",
    "text": "on running text",
}
"""Kinds of prompt as parts of a sentence."""
SMALL = (5.2, 3.6)
"""Inches of a chart that can be read at the width of a phone."""
SETTINGS = 8
"""Best settings that the page lists."""


@dataclass(frozen=True)
class Section:
    """Charts (their alternative texts and data URIs), a table, and a sentence on reading them."""

    title: str
    reading: str
    charts: Sequence[tuple[str, str]] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def report_page(report: ProbeReport, recipe: Recipe) -> str:
    """A probe report as one self-contained HTML page.

    Args:
        report: What was measured; parts without figures are left out.
        recipe: What follows from it.

    Returns:
        The page.
    """
    return render(
        "pages/report.html",
        title=f"Probe report of {_name(report)}",
        lead=lead(report, recipe),
        recipe=recipe,
        sections=list(_sections(report)),
        timings=[[part, f"{seconds:,.1f}"] for part, seconds in report.timings.items()],
        fingerprint=json.dumps(report.fingerprint, indent=1, ensure_ascii=False),
    )


def lead(report: ProbeReport, recipe: Recipe) -> str:
    """What the report says, for those who have read nothing else."""
    turns: dict[str, list[str]] = {}
    for kind, curves in report.curves.items():
        turns.setdefault(curves.turn, []).append(WHEN[kind])
    where = ", and ".join(f"in {turn} {_listed(kinds)}" for turn, kinds in turns.items())
    setting = best_score(report.diagnostic)
    reranked = (
        "It also judges pairs well enough to improve the order of the first hits."
        if recipe.frame
        else "Its judgements of pairs do not improve that order, so hits are not reranked."
    )
    return (
        f"A language model carries the meaning of a text through its layers and turns it into the "
        f"next word near the end. {_name(report)} does so {where}. FreeRet reads it at "
        f"{recipe.site}: there a sentence finds its paraphrase among 200 with a mean reciprocal "
        f"rank of {setting.reciprocal_rank.mean:.2f}, where 1 is always first. {reranked}"
    )


def _sections(report: ProbeReport) -> Iterator[Section]:
    yield from _curves(report)
    if report.synonyms:
        yield Section(
            "Is a high cosine a sign of meaning?",
            "The first chart shows the mean cosine of synonyms, and of other pairs of the same "
            "words as controls: where both are high, any two texts look alike. The second shows d′,"
            " the distance between the two in standard deviations: the higher it is, the more of "
            "the cosine is meaning.",
            [
                _chart(
                    "Mean cosine of synonyms and controls", plots.draw_synonyms, report.synonyms
                ),
                _chart("Separation of the two", plots.draw_separation, report.synonyms),
            ],
        )
    if report.framing:
        yield Section(
            "How should it be asked whether two texts match?",
            "Each point is a way of asking. One to the right of 0.5 prefers the label of a match "
            "before it has seen any content; the higher a point, the better it tells matches from "
            "near-misses (0.5 is chance).",
            [_chart("Skew and AUC of each frame", plots.draw_framing, report.framing)],
            ["frame", "p(match) without content", "accuracy", "AUC"],
            [[f.frame, f"{f.skew:.2f}", str(f.accuracy), str(f.auc)] for f in report.framing],
        )
    if report.diagnostic:
        best = sorted(report.diagnostic, key=lambda s: -s.quality)[:SETTINGS]
        sees = best[0].pictures is not None
        yield Section(
            "Which prompt, site and geometry find the paraphrase?",
            "Each point is the best site of a prompt in a geometry: the further to the right, the "
            "closer to the top of 200 sentences a paraphrase stands. The table lists the best "
            f"settings{', which count captions of pictures too' if sees else ''}.",
            [_chart("Reciprocal rank by prompt", plots.draw_diagnostic, report.diagnostic)],
            ["prompt", "site", "geometry", "reciprocal rank", *(["pictures"] if sees else [])],
            [
                [s.prompt, s.site, s.geometry, str(s.reciprocal_rank)]
                + ([str(s.pictures)] if sees else [])
                for s in best
            ],
        )
    if report.reranking:
        yield Section(
            "Does judging the first hits again help?",
            "The gain is the change of the reciprocal rank when the model judges the first hits "
            "again. A gain whose interval includes 0 is none. The weight says how much its "
            "judgement counts beside the first stage.",
            columns=["frame", "weight", "reciprocal rank", "gain"],
            rows=[
                [f.frame, "alone" if f.weight is None else f"{f.weight:g}",
                 str(f.reciprocal_rank), str(f.gain)]
                for f in report.reranking
            ],
        )  # fmt: skip
    if report.injection:
        attacks = list(dict.fromkeys(i.attack for i in report.injection))
        found = {(i.frame, i.attack): i for i in report.injection}
        yield Section(
            "Can a text speak for itself?",
            "How far a sentence appended to a candidate moves its judgement, in log-odds, and the "
            "share of near-misses that it turns into matches. A forged turn or option should do no "
            "more than a harmless sentence.",
            columns=["frame", *attacks],
            rows=[
                [frame, *(_injected(found.get((frame, attack))) for attack in attacks)]
                for frame in dict.fromkeys(i.frame for i in report.injection)
            ],
        )


def _curves(report: ProbeReport) -> Iterator[Section]:
    panels: dict[str, tuple[str, tuple[plots.Part, ...]]] = {
        "Where does the state turn, and where does it become the word?": (
            "One chart for each kind of prompt. α is the cosine of the state before and after a "
            "sublayer: where it falls, the state turns. β is the cosine of the state and the word "
            "that is about to be said, y*: where it rises, the state becomes that word. The "
            "sharper turn of the last two steps is shaded; bands are 95% intervals.",
            ("alpha", "beta"),
        ),
        "When is the word decided?": (
            "If the model ended at a layer, which rank would the word have among all words (1 is "
            "first), and which probability?",
            ("rank", "probability"),
        ),
        "How long is the state?": (
            "The length of the state by layer. A state that is far longer than its sublayers' "
            "outputs hardly turns.",
            ("norms",),
        ),
    }
    for title, (reading, parts) in panels.items():
        charts = []
        for kind, curves in report.curves.items():
            figure = plots.curves_figure({kind: curves}, parts)
            charts.append((f"{title} {PROMPT_KINDS[kind]}", svg_uri(figure)))
        yield Section(title, reading, charts)


def _chart(alt: str, draw: Callable[[Any, Axes | None], Axes], data: Any) -> tuple[str, str]:
    with rc_context(plots.STYLE):
        figure = Figure(figsize=SMALL, layout="constrained")
        draw(data, figure.subplots())
    return alt, svg_uri(figure)


def _injected(injection: Injection | None) -> str:
    return f"{injection.shift.mean:+.2f}, {injection.flipped:.0%}" if injection else ""


def _name(report: ProbeReport) -> str:
    return Path(report.fingerprint["model"]).name


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
