"""The steps of `freeret demo`: each one prints its result and brings the page up to date.

The first search, over a few passages, comes after seconds. What is embedded is kept in a store in
the output folder: a demo that was interrupted goes on from there, and the store can be searched
afterwards.
"""

import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from freeret.cli.output import print_table, say
from freeret.demo.corpus import bm25_run, built_in_corpus, output_run, write_hits
from freeret.demo.page import Page, Table
from freeret.demo.searches import PICTURES, SHOWN, Search, ask, index, picture_sets
from freeret.evaluate.metrics import Run, score_run
from freeret.pages.probe_folder import write_report
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, ProbeReport, plots
from probes.measure.lexicalization import prompt_kind

QUESTIONS = "A question looks for its passage"
FIRST = 24
"""Passages that the first search looks through."""


class Demo:
    """One model, shown on the built-in corpus and on drawn pictures.

    Args:
        backbone: The model.
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
        # A geometry is no part of the stored vectors, and that of a few passages would need vectors
        # of the reference items: the store is filled, and first searched, without one.
        self.filler = FreeRet(backbone, replace(self.recipe, geometry="none"))
        self.retriever = FreeRet(backbone, self.recipe, progress=True)
        self.runs: dict[str, Run] = {}
        self.steps: dict[str, Callable[[], None]] = {
            "all passages, and questions with known answers": self.search_passages,
            "pictures and clips in the same store": self.search_pictures,
            "the same model read at its output, for comparison": self.compare,
        }
        if not backbone.sees:
            del self.steps["pictures and clips in the same store"]
        self.page = Page(
            backbone.name, self.recipe.describe(), self.recipe.reasons, list(self.steps)
        )

    def run(self) -> Path:
        """Take every step; returns the page."""
        page = self.out / "index.html"
        self.search_first()
        self.page.write(page)
        say(f"\n{page} shows this search already; every step adds to it.")
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
        """Ask one question of a few passages, before anything that takes longer."""
        index(self.filler, self.corpus.documents[:FIRST], self.out / "store")
        self.retriever.store = self.filler.store
        asked = ask(self.filler, QUESTIONS, self.corpus.queries[:1], self.answers)
        self.page.examples = [asked]
        say(f"\n{_in_words(asked.searches[0])}")

    def search_passages(self) -> None:
        """Store the other passages, ask every question, and draw what the recipe follows from."""
        index(self.filler, self.corpus.documents)
        asked = ask(self.retriever, QUESTIONS, self.corpus.queries, self.answers)
        self.runs = {"FreeRet": asked.as_run(), "shared words (BM25)": bm25_run(self.corpus)}
        self.page.examples = asked.worked() or self.page.examples
        self.page.galleries.append(asked)
        self.page.tables.append(self._comparison())
        self._draw_curve()

    def search_pictures(self) -> None:
        """Put pictures and clips beside the passages, and search for them in four ways."""
        sets = picture_sets()
        searched = dict.fromkeys(answering for _, answering in PICTURES.values())
        stored = [item for name in searched for item in sets[name]]
        index(self.filler, stored)
        found = [
            ask(self.retriever, title, sets[asking], sets[answering], kinds="image")
            for title, (asking, answering) in PICTURES.items()
        ]
        table = Table(
            f"Searches for {len(stored)} pictures and clips in the store of the passages",
            "Each search has one right answer, and asks for pictures and clips alone. The shares, "
            "with 95% intervals, say how often the right answer stands first, and how often among "
            f"the first {SHOWN}; by chance it stands first once in {len(stored)} searches.",
            ["search", "right answer first", f"among the first {SHOWN}"],
            [[s.title, str(s.among(1)), str(s.among(SHOWN))] for s in found],
        )
        print_table(table.title, table.columns, table.rows)
        self.page.tables.append(table)
        self.page.galleries += found
        self.page.examples += [example for searches in found for example in searches.worked()][:1]

    def compare(self) -> None:
        """Answer the questions with the same model, read where it says its next word."""
        run = output_run(self.backbone, self.corpus)
        self.runs["the same model, read at its output (E5-V)"] = run
        self.page.tables[0] = self._comparison()
        write_hits(self.out / "hits.csv", self.corpus, self.runs)

    def _comparison(self) -> Table:
        """How often each method puts the right passage first; printed as well."""
        figures = {name: score_run(self.corpus, run, "P@1") for name, run in self.runs.items()}
        table = Table(
            f"{len(self.corpus.queries)} questions over {len(self.corpus.documents)} passages",
            "Exactly one passage answers each question. The share of questions for which it stands "
            "first, with its 95% interval.",
            ["method", "right passage first"],
            [[name, str(score_run.interval())] for name, score_run in figures.items()],
        )
        print_table(table.title, table.columns, table.rows)
        return table

    def _draw_curve(self) -> None:
        """The curve of the recipe's kind of prompt alone, and what it shows."""
        kind = prompt_kind(self.recipe.prompt)
        curves = self.report.curves[kind]
        place = self.out / "curve"
        plots.save(plots.curves_figure({kind: curves}, ("alpha",)), place)
        self.page.curve = place.with_suffix(".png")
        self.page.turn = (
            "The model builds its answer layer by layer, from left to right. A point near 1 means "
            "that a part of a layer hardly changes the direction of the internal state; a low one "
            f"means that it turns it. The {curves.turn.removeprefix('the ')} (grey band) turns it "
            f"to α = {curves.alpha_turn:.2f}: there meaning gives way to the next word, so the "
            "state is read before it."
        )


def _in_words(search: Search) -> str:
    """The first search for the terminal: question, three passages, and how to read them."""
    lines = [f"A first search, in {len(search.hits)} items:", f"  {search.query.text}"]
    for hit in search.hits[:3]:
        mark = "✓" if hit.id == search.right.id else " "
        lines.append(f"  {mark} {hit.score:.2f}  {textwrap.shorten(hit.item.text, 96)}")
    return "\n".join(
        [
            *lines,
            "The number is the cosine between the model's state for the question and for the "
            "passage: the higher, the closer in meaning. ✓ marks the right answer. The model was "
            "never trained to search.",
        ]
    )
