"""The page of a probe report: a summary for newcomers, then each figure and how to read it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from freeret.pages.render import render
from freeret.pages.sections import Section, chart
from freeret.recipe import Recipe
from probes import ProbeReport, plots
from probes.display import svg_uri
from probes.measure.diagnostic.scores import best_first, select_extraction
from probes.measure.fusion import CANDIDATES
from probes.measure.injection import Injection
from probes.measure.lexicalization import PROMPT_KINDS
from probes.measure.parts import Panel
from probes.measure.reranking import QUERIES

UNDER = {
    "word": "under E5-V's prompt",
    "control": "under the paper's control prompt",
    "text": "on running text",
}
"""Kind of prompt -> part of a sentence."""
PROMPTS = (
    "“Asked for a word” is E5-V's prompt, which asks for a summary in one word; “control prompt” "
    "is the paper's; “running text” is the bare sentence without its last word."
)
PARTIAL = "Only some parts were measured, and a recipe needs all of them."
LISTED = 8
"""Number of the best extractions that the page lists."""


def report_page(report: ProbeReport, recipe: Recipe | None) -> str:
    """A probe report as one self-contained HTML page.

    Args:
        report: The report; empty parts are left out.
        recipe: The recipe that follows from it; None where it lacks parts that a recipe needs.
    """
    return render(
        "pages/report.html",
        title=f"Probe report of {_name(report)}",
        lead=lead(report, recipe) if recipe else PARTIAL,
        recipe=recipe,
        sections=list(_sections(report)),
        timings=[[part, f"{seconds:,.1f}"] for part, seconds in report.timings.items()],
        fingerprint=json.dumps(report.fingerprint, indent=1, ensure_ascii=False),
    )


def lead(report: ProbeReport, recipe: Recipe) -> str:
    """Summarise the report for readers who are new to it."""
    turns: dict[str, list[str]] = {}
    for kind, curves in report.curves.items():
        step = curves.turn if curves.onset else "neither of its last two steps"
        turns.setdefault(step, []).append(UNDER[kind])
    where = ", and ".join(f"in {turn} {_listed(kinds)}" for turn, kinds in turns.items())
    best = select_extraction(report.diagnostic)
    reranked = (
        "It also judges pairs well enough to improve the order of the first hits."
        if recipe.frame
        else "Its judgements of pairs do not improve that order, so hits are not reranked."
    )
    return (
        f"A language model carries the meaning of a text through its layers and turns it into the "
        f"next word near the end. {_name(report)} does so {where}. FreeRet reads it at "
        f"{recipe.site}: there a sentence finds its paraphrase among 200 sentences with a mean "
        f"reciprocal rank of {best.reciprocal_rank.mean:.2f}, where 1 is always first. {reranked}"
    )


def _sections(report: ProbeReport) -> Iterator[Section]:
    if report.curves:
        yield from _curves(report)
    if report.synonyms:
        charts = [
            chart("Mean cosine of synonyms and controls", plots.draw_synonyms, report.synonyms),
            chart("Separation of the two", plots.draw_separation, report.synonyms),
        ]
        if report.synonyms[0].synonym_spread is not None:
            title = "Distributions: median, and the middle 50% and 90%"
            charts.append(chart(title, plots.draw_spread, report.synonyms))
        yield Section(
            "Is a high cosine a sign of meaning?",
            "The first chart shows the mean cosine of synonyms and, as controls, of other pairs of "
            "the same words: where both are high, any two texts look alike. The second shows d′, "
            "the distance between the two in standard deviations: the higher it is, the better the "
            "cosine separates meanings.",
            charts,
        )
    if report.framing:
        yield Section(
            "Which question tells matches from near-misses?",
            "Each point is a frame: one wording of the question whether two texts match, with its "
            "two possible answers. Under a frame to the right of 0.5 the model prefers the answer "
            "“match” before it has seen any content. The higher the point, the better the answers "
            "tell matches from near-misses (0.5 is chance).",
            [chart("Skew and AUC of each frame", plots.draw_framing, report.framing)],
            ["frame", "p(match) without content", "accuracy", "AUC"],
            [[f.frame, f"{f.skew:.2f}", str(f.accuracy), str(f.auc)] for f in report.framing],
        )
    if report.heads.heads:
        yield Section(
            "Which attention heads know relevance?",
            "While the model reads a query after a candidate, some heads look back at a candidate "
            "that is related to it. The table lists the heads that do so for most sentences, and "
            f"the judge, {report.heads.judge}, on sentences that it was not chosen on. No head has "
            "to prefer a match to a near-miss, which repeats the words of the query.",
            columns=["layer", "head", "paraphrase above unrelated", "match above near-miss"],
            rows=[
                [
                    "judge",
                    "",
                    *map(str, (report.heads.beats_unrelated, report.heads.beats_near_miss)),
                ],
                *(
                    [str(h.layer), str(h.head), str(h.beats_unrelated), str(h.beats_near_miss)]
                    for h in sorted(
                        report.heads.heads,
                        key=lambda h: (-h.beats_unrelated.mean, -h.beats_near_miss.mean),
                    )[:LISTED]
                ),
            ],
        )
    if report.diagnostic:
        best = best_first(report.diagnostic)[:LISTED]
        measures = {
            "paraphrases": "reciprocal_rank",
            "passages": "passages",
            "hybrid": "hybrid",
            "scenes": "pictures",
        }
        measured = {n: f for n, f in measures.items() if getattr(best[0], f) is not None}
        yield Section(
            "Which prompt, task, site and geometry retrieve best?",
            "Each cell is the mean reciprocal rank of the paraphrase among all 200 sentences, by "
            "prompt and geometry (rows) and site (columns); the highest is framed. The better half "
            "of the prompts also reads 120 passages, each with a question and a request. The table "
            "lists the best extractions by all query sets: hybrid is the mean over paraphrases and "
            "passages with words beside vectors, and scenes are captions of drawn pictures.",
            [chart("Reciprocal rank by extraction", plots.draw_diagnostic, report.diagnostic)],
            ["prompt", "site", "geometry", *measured],
            [
                [s.wording, s.site, s.geometry, *(str(getattr(s, f)) for f in measured.values())]
                for s in best
            ],
        )
    if report.hybrid:
        yield Section(
            "Do words help vectors?",
            "Hybrid search adds the BM25 score, times a weight, to the standardised cosine. "
            "Paraphrases avoid the words of their sentence, passages share words with their "
            "questions. The gains are paired changes of the mean reciprocal rank, with intervals "
            "corrected for the number of weights.",
            columns=["query set", "weight", "reciprocal rank", "over vectors", "over words"],
            rows=[
                [h.queries, f"{h.weight:g}", str(h.reciprocal_rank), str(h.over_vectors),
                 str(h.over_words)]
                for h in report.hybrid
            ],
        )  # fmt: skip
    if report.reranking:
        yield Section(
            "Does reranking help?",
            f"For {QUERIES} queries of a set, the model judges the first {CANDIDATES} hits of "
            "stage 1: with the best frame and with the best attention head, unless they are at "
            "chance, and by how much likelier query and hit make each other. Near-misses are among "
            "the paraphrases, so that the ranks are not those above; an answer that is not among "
            "these hits keeps its rank. "
            "The gain is the change against stage 1, with an interval corrected for the number of "
            "weights and judges; if it includes 0, the gain is within noise. The weight says how "
            "much the judgement counts beside stage 1.",
            columns=["judge", "query set", "weight", "reciprocal rank", "gain"],
            rows=[
                [f.frame, f.queries, "alone" if f.weight is None else f"{f.weight:g}",
                 str(f.reciprocal_rank), str(f.gain)]
                for f in report.reranking
            ],
        )  # fmt: skip
    if report.injection:
        attacks = list(dict.fromkeys(i.attack for i in report.injection))
        effects = {(i.frame, i.attack): i for i in report.injection}
        yield Section(
            "Can a candidate inject its own judgement?",
            "The shift of the judgement, in log-odds, when a sentence is appended to a candidate, "
            "and the share of near-misses that it turns into matches. A forged turn or option "
            "should shift it no further than a harmless sentence.",
            columns=["frame", *attacks],
            rows=[
                [frame, *(_effect(effects.get((frame, attack))) for attack in attacks)]
                for frame in dict.fromkeys(i.frame for i in report.injection)
            ],
        )


def _curves(report: ProbeReport) -> Iterator[Section]:
    panels: dict[str, tuple[str, tuple[Panel, ...]]] = {
        "Where does the state turn, and where does it become the word?": (
            f"One chart per kind of prompt. {PROMPTS} α is the cosine of the state before and "
            "after a sublayer: where it falls, the state turns. β is the cosine of the state and "
            "y*, the next word that the model predicts: where it rises, the state becomes that "
            "word. The sharper of the last two turns is shaded if its α is below 0.9. Bands are "
            "95% intervals.",
            ("alpha", "beta"),
        ),
        "When is the word decided?": (
            "The logit lens: the rank (1 is first) and the probability that y* would have among "
            "all words if the model ended at this layer.",
            ("rank", "probability"),
        ),
        "How long is the state?": (
            "The norm of the state by layer. A state that is far longer than the outputs of its "
            "sublayers hardly turns.",
            ("norms",),
        ),
    }
    for title, (reading, parts) in panels.items():
        charts = []
        for kind, curves in report.curves.items():
            figure = plots.curves_figure({kind: curves}, parts)
            charts.append((f"{_name(report)}, {PROMPT_KINDS[kind]}", svg_uri(figure)))
        yield Section(title, reading, charts)


def _effect(injection: Injection | None) -> str:
    return f"{injection.shift.mean:+.2f}, {injection.flipped:.0%}" if injection else ""


def _name(report: ProbeReport) -> str:
    return Path(report.fingerprint["model"]).name


def _listed(phrases: Sequence[str]) -> str:
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if phrases[1:] else phrases)
