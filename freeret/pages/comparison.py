"""The page that compares probe reports: a table, charts of all of them, their recipes."""

from collections.abc import Iterator

from freeret.pages.render import render
from freeret.pages.sections import Section, chart
from freeret.recipe import Recipe
from probes import Comparison, plots
from probes.measure.parts import PROMPT_KINDS


def comparison_page(comparison: Comparison) -> str:
    """A comparison of probe reports as one self-contained HTML page."""
    return render(
        "pages/comparison.html",
        title=f"{len(comparison.reports)} probe reports compared",
        lead=_lead(comparison),
        columns=comparison.columns(),
        rows=comparison.rows(),
        sections=list(_sections(comparison)),
        recipes={
            each.name: None if each.gaps else Recipe.from_report(each.report)
            for each in comparison.reports
        },
    )


def _lead(comparison: Comparison) -> str:
    names = [each.name for each in comparison.reports]
    series = sum(map(len, comparison.series))
    joined = f" A line joins the {series} checkpoints of a series." if series else ""
    return f"Where {', '.join(names)} turn meaning into words, and what that is worth.{joined}"


def _sections(comparison: Comparison) -> Iterator[Section]:
    yield Section(
        "Where does the state turn, and where does it become the word?",
        "The last layers, counted from the end, so that backbones of any depth can be compared. α "
        "is the cosine of the state before and after a sublayer: where it falls, the state turns. "
        "β is the cosine of the state and the next word that the model predicts. The last chart "
        "shows the sharper of the last two steps under each kind of prompt, above the line there "
        "is no turn.",
        [
            *(
                chart(f"{letter} of the last layers, {title}", draw, comparison, kind=kind)
                for kind, title in PROMPT_KINDS.items()
                for letter, draw in (
                    ("α", plots.draw_compared_alpha),
                    ("β", plots.draw_compared_beta),
                )
            ),
            chart("α of the sharper of the last two steps", plots.draw_turns, comparison),
        ],
    )
    yield Section(
        "Where do synonyms lie apart from controls?",
        "d′ is the distance between the cosines of synonyms and of other pairs of the same words, "
        "in standard deviations. Depth 0 is the embedding, 1 the final norm.",
        [chart("d′ by depth", plots.draw_compared_separation, comparison)],
    )
    yield Section(
        "Which question tells matches from near-misses?",
        "A colour for each report, a marker for each frame, hollow where it is at chance (0.5). To "
        "the right of 0.5 the model prefers the answer “match” before it has seen any content.",
        [chart("Skew and AUC of each frame", plots.draw_compared_framing, comparison)],
    )
    yield Section(
        "Which extraction retrieves best, and do words and reranking help?",
        "The first chart compares the best extraction of each report with the paper's choice and "
        "that of E5-V, on paraphrases. The second shows the gains of BM25 beside the vectors and "
        "of reranking, hollow where they are within noise.",
        [
            chart("Reciprocal rank of extractions", plots.draw_extractions, comparison),
            chart("Gains of words and of reranking", plots.draw_gains, comparison),
        ],
    )
    yield Section(
        "What did probing cost?",
        "Minutes on the machine that each report was measured on.",
        [chart("Minutes of probing", plots.draw_costs, comparison)],
    )
