"""Sentence pairs with a graded similarity: a tab-separated file, Spearman's correlation.

With a header, the columns `score`, `sentence1`, `sentence2` are read. Without one, the file is in
the layout of the STS Benchmark: genre, file, year, number, score, sentence, sentence.
"""

from pathlib import Path

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders.lines import check_there, lines_of
from probes import Item
from probes.errors import BadFile

SOURCE = (
    "the STS Benchmark (sts-dev.csv 1,500 pairs, sts-test.csv 1,379 pairs, 0.3 MB in all) is at "
    "ixa2.si.ehu.eus/stswiki; a table with the columns score, sentence1, sentence2 will do"
)
COLUMNS = ("score", "sentence1", "sentence2")
BENCHMARK = (4, 5, 6)


def check_sts(path: str | Path) -> None:
    """Raise BadFile unless the file is there; it is not read."""
    check_there(Path(path), ("",), SOURCE)


def load_sts(path: str | Path) -> Dataset:
    """Load the pairs: a query, and the other sentence as its only candidate. Raises BadFile."""
    file = Path(path)
    lines = [(number, line.split("\t")) for number, line in lines_of(file, SOURCE)]
    header = lines[0][1] if lines else []
    named = set(COLUMNS) <= set(header)
    places = [header.index(column) for column in COLUMNS] if named else list(BENCHMARK)
    queries, documents, judgements = [], [], {}
    for number, row in lines[named:]:
        try:
            score, first, second = (row[place] for place in places)
            grade = float(score)
        except (IndexError, ValueError):
            raise BadFile(
                f"{file}, line {number}: needs a score and two sentences; {SOURCE}"
            ) from None
        query, document = f"{number}a", f"{number}b"
        queries.append(Item(first, id=query))
        documents.append(Item(second, id=document))
        judgements[query] = {document: grade}
    candidates = {query: list(grades) for query, grades in judgements.items()}
    return Dataset(
        name=file.stem,
        queries=queries,
        documents=documents,
        judgements=judgements,
        candidates=candidates,
        metrics=("Spearman",),
        group="similarity",
    )
