"""The steps of `freeret demo`: each prints its result and updates the page.

The first search, over a few passages, takes seconds. Embedded items are kept in a store in the
output folder: an interrupted demo goes on from there, and the store can be searched afterwards.
"""

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from freeret.cli.output import print_table, say
from freeret.demo.corpus import built_in_corpus, write_hits
from freeret.demo.media import SEARCHES, credits, media_sets
from freeret.demo.page import Page, Table
from freeret.demo.searches import SHOWN, Search, Searches, ask, index
from freeret.evaluate.metrics import score_run
from freeret.evaluate.rankings import Run
from freeret.evaluate.systems.registry import BM25, PromptedSystem
from freeret.pages.probe_folder import write_report
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, ProbeReport, plots
from probes.measure.lexicalization import prompt_kind

QUESTIONS = "A question looks for its passage"
FIRST = 24
"""Passages that the first search passes over."""
RAW_SCORES = (
    f"These scores are among the first {FIRST} passages, in plain cosines. Once everything is "
    "stored, cosines are taken in the geometry that is fitted on the whole store, and the scores "
    "are other numbers."
)
FITTED_SCORES = (
    "A score is the cosine in the geometry that is fitted on the whole store, in standard "
    "deviations above the mean of the candidates, plus a weight times the BM25 score of the words. "
    f"The first search in the terminal had other numbers, among the first {FIRST} passages."
)


class Demo:
    """One model, shown on the built-in corpus of passages, pictures and clips.

    Args:
        report: Its probe report, which decides the recipe.
        out: Folder for the page, the store, the probe report and the hits.
        command: How the page calls the program, such as `.venv/bin/freeret`.
    """

    def __init__(
        self, backbone: Backbone, report: ProbeReport, out: Path, command: str = "freeret"
    ):
        self.backbone, self.report, self.out = backbone, report, out
        self.recipe, self.corpus = Recipe.from_report(report), built_in_corpus()
        passages = {passage.id: passage for passage in self.corpus.documents}
        judged = (self.corpus.judgements[query.id or ""] for query in self.corpus.queries)
        self.answers = [passages[id] for row in judged for id in row]
        # Stored vectors do not depend on the geometry, and a geometry of a few passages would need
        # vectors of the reference items: the store is filled, and first searched, without one.
        self.filler = FreeRet(backbone, replace(self.recipe, geometry="none"))
        self.retriever = FreeRet(backbone, self.recipe, progress=True)
        self.runs: dict[str, Run] = {}
        self.steps: dict[str, Callable[[], None]] = {
            "all passages, and questions with known answers": self.search_passages,
            "pictures and clips in the same store": self.search_pictures,
            "the same model read at its output, for comparison": self.compare,
        }
        if "image" not in backbone.modalities:
            del self.steps["pictures and clips in the same store"]
        self.page = Page(
            backbone.name, self.recipe.describe(), self.recipe.reasons, list(self.steps), command
        )

    def run(self) -> Path:
        """Take every step, and return the file of the page."""
        page = self.out / "index.html"
        self.search_first()
        self.page.write(page)
        say(f"\n{page} shows this search; every step adds to it.")
        for number, (title, step) in enumerate(self.steps.items(), start=1):
            say(f"\nStep {number} of {len(self.steps)}: {title}")
            step()
            self.page.to_come.remove(title)
            self.page.write(page)
        say("\nDrawing the figures of the probe report")
        write_report(self.report, self.out / "probe")
        self.page.probe = "probe/report.html"
        self.page.write(page)
        return page

    def search_first(self) -> None:
        """Search a few passages for one question, before anything that takes longer."""
        index(self.filler, self.corpus.documents[:FIRST], self.out / "store")
        self.retriever.store = self.filler.store
        first = ask(self.filler, QUESTIONS, self.corpus.queries[:1], self.answers)
        self.page.examples, self.page.scores = [first], RAW_SCORES
        say(f"\n{_in_words(first.searches[0])}")

    def search_passages(self) -> None:
        """Store the other passages, ask every question, and draw the curve behind the recipe."""
        index(self.filler, self.corpus.documents)
        searches = ask(self.retriever, QUESTIONS, self.corpus.queries, self.answers)
        self.runs = {"FreeRet": searches.as_run(), "shared words (BM25)": BM25().run(self.corpus)}
        self.page.examples = searches.worked() or [Searches(QUESTIONS, searches.searches[:1])]
        self.page.scores = FITTED_SCORES
        self.page.galleries.append(searches)
        self.page.tables.append(self._comparison())
        self._draw_curve()

    def search_pictures(self) -> None:
        """Store pictures and clips beside the passages, and search for them in several ways."""
        sets = media_sets()
        answers = [item for _, answering in SEARCHES.values() for item in sets[answering]]
        media = list({item.id: item for item in answers}.values())
        index(self.filler, media)
        results = [
            ask(self.retriever, title, sets[asking], sets[answering], kinds="image")
            for title, (asking, answering) in SEARCHES.items()
        ]
        table = Table(
            f"Searches for {len(media)} pictures and clips in the store of the passages",
            "Each search has one right answer, and is for pictures and clips only. The shares say, "
            "with 95% intervals, how often the right answer stands first, and how often among the "
            f"first {SHOWN}; by chance it stands first once in {len(media)} searches.",
            ["search", "right answer first", f"among the first {SHOWN}"],
            [[s.title, str(s.among(1)), str(s.among(SHOWN))] for s in results],
        )
        print_table(table.title, table.columns, table.rows)
        self.page.tables.append(table)
        self.page.galleries += results
        self.page.credits = credits()
        self.page.examples += [each for searches in results for each in searches.worked()][:1]

    def compare(self) -> None:
        """Search with the same model read at its output, where it says its next word."""
        system = PromptedSystem.of("e5v", self.backbone, Recipe.e5v())
        run = system.run(self.corpus, progress=True)
        self.runs["the same model, read at its output (E5-V)"] = run
        self.page.tables[0] = self._comparison()
        write_hits(self.out / "hits.csv", self.corpus, self.runs)

    def _comparison(self) -> Table:
        """Print and return how often each method ranks the right passage first."""
        scores = {name: score_run(self.corpus, run, "P@1") for name, run in self.runs.items()}
        table = Table(
            f"{len(self.corpus.queries)} questions over {len(self.corpus.documents)} passages",
            "Exactly one passage answers each question. The table gives the share of questions for "
            "which it stands first, with its 95% interval.",
            ["method", "right passage first"],
            [[name, str(score.interval())] for name, score in scores.items()],
        )
        print_table(table.title, table.columns, table.rows)
        return table

    def _draw_curve(self) -> None:
        """Draw the curve under the recipe's kind of prompt, and say what it shows."""
        kind = prompt_kind(self.recipe.prompt)
        curves = self.report.curves[kind]
        plots.save(plots.curves_figure({kind: curves}, ("alpha",)), self.out / "curve")
        self.page.curve = self.out / "curve.png"
        turn = (
            f"The {curves.turn.removeprefix('the ')} (grey band) turns it to α = "
            f"{curves.alpha_turn:.2f}: there meaning gives way to the next word, so the state is "
            "read before it."
            if curves.onset
            else "Neither of the last two steps turns it."
        )
        self.page.turn = (
            "The model builds its answer layer by layer, from left to right. A point near 1 means "
            "that a sublayer hardly changes the direction of the internal state, a low point that "
            f"it turns the state. {turn}"
        )


def _in_words(search: Search) -> str:
    """The first search for the terminal: the question, three passages, and how to read them."""
    lines = [f"A first search, in {len(search.hits)} items:", f"  {search.query.text}"]
    for hit in search.hits[:3]:
        mark = "✓" if hit.id == search.right.id else " "
        lines.append(f"  {mark} {hit.score:.2f}  {textwrap.shorten(hit.item.text, 96)}")
    return "\n".join(
        [
            *lines,
            "The number adds how close the model's states for the question and for the passage "
            "are, in standard deviations, and how well their words match: the higher, the better. "
            f"✓ marks the right answer. {RAW_SCORES} "
            "The model was never trained to search.",
        ]
    )
