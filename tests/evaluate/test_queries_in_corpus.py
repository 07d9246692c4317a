"""Queries that are documents too, as in ArguAna: no query finds itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from freeret.evaluate.ablation.measure import Ablator
from freeret.evaluate.ablation.scratch import Scratch
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.results.file import Result
from freeret.evaluate.systems.registry import BM25, PromptedSystem, SentenceTransformers
from probes import Backbone, Item
from tests.commands import run
from tests.evaluate.small import RECIPE, words

Tiny = Callable[[str], Backbone]


def in_corpus() -> Dataset:
    """Two documents for each query: the query itself, under its id and with a title, and another
    of the same words."""
    same = [Item(f"A title {words(i)}", id=f"{i}") for i in range(4)]
    others = [Item(words(i), id=f"other{i}") for i in range(4)]
    queries = [Item(words(i), id=f"{i}") for i in range(4)]
    judged = {f"{i}": {f"other{i}": 1, f"{i}": 1} for i in range(4)}
    return Dataset("arguments", queries, [*same, *others], judged)


def test_no_query_finds_itself(tiny: Tiny, tmp_path: Path) -> None:
    data = in_corpus()
    assert data.in_corpus == {"0", "1", "2", "3"}
    for one in (BM25(), PromptedSystem.of("recipe", tiny("llama"), RECIPE)):
        ranking = one.run(data)
        assert all(q not in row and len(row) == 7 for q, row in ranking.items())
        assert {q: next(iter(row)) for q, row in ranking.items()} == {
            f"{i}": f"other{i}" for i in range(4)
        }


@pytest.mark.parametrize("text", ["something else", f"{words(0)} and more", f"x{words(0)}"])
def test_an_id_in_common_does_not_make_a_query_a_document(text: str) -> None:
    """Queries and documents may both be numbered from 0."""
    data = Dataset("numbered", [Item(words(0), id="0")], [Item(text, id="0")], {"0": {"0": 1}})
    assert not data.in_corpus
    assert list(BM25().run(data)["0"]) == ["0"]
    seen = Item("same", images=[Image.new("RGB", (4, 4))], id="0")
    other = Item("same", images=[Image.new("RGB", (4, 4), "red")], id="0")
    assert not Dataset("x", [seen], [other], {"0": {"0": 1}}).in_corpus
    assert Dataset("x", [seen], [seen], {"0": {"0": 1}}).in_corpus


def test_a_query_is_removed_from_its_own_candidates() -> None:
    data = in_corpus()
    own = {q.id or "": [q.id or "", f"other{q.id}"] for q in data.queries}
    few = Dataset("few", data.queries, data.documents, data.judgements, own)
    assert [list(row) for row in BM25().run(few).values()] == [[f"other{i}"] for i in range(4)]
    plain = Dataset("plain", data.queries, data.documents[4:], data.judgements)
    assert not plain.in_corpus


def beir(root: Path) -> Path:
    """As ArguAna is published: the query is in the corpus under its own id."""
    (root / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"a{i}", "title": "energy house", "text": words(i)} for i in range(5)]
    corpus += [{"_id": f"b{i}", "title": "", "text": f"{words(i)} one"} for i in range(5)]
    queries = [{"_id": f"a{i}", "text": words(i)} for i in range(5)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"a{i}\tb{i}\t1\n" for i in range(5))
    (root / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return root


def test_the_published_layout_in_which_queries_are_documents(place: Path, tmp_path: Path) -> None:
    folder = beir(tmp_path / "arguana")
    assert run(
        "eval", f"beir:{folder}", "--system", "bm25", "--system", "recipe", "--model",
        place / "model", "--recipe", place / "recipe.json", "--out", tmp_path / "out",
    ) == 0  # fmt: skip
    for name in ("bm25", "recipe"):
        entry = Result.load(tmp_path / "out" / f"{name}.json").datasets["arguana"]
        assert entry.metrics["P@1"].per_query == {f"a{i}": 1.0 for i in range(5)}


@pytest.mark.filterwarnings("ignore")
def test_queries_in_the_corpus_in_other_systems_and_ablations(tiny: Tiny, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import BoW, Normalize

    vocabulary = sorted({word for i in range(4) for word in words(i).split()})
    SentenceTransformer(modules=[BoW(vocab=vocabulary), Normalize()]).save(str(tmp_path / "words"))
    data = in_corpus()
    ranking = SentenceTransformers(str(tmp_path / "words")).run(data)
    assert all(q not in row for q, row in ranking.items())
    found = Ablator(tiny("llama"), RECIPE, []).measure(data, Scratch(tmp_path, "this"))
    assert {p.value for p in found.grid if p.geometry == "none"} == {1.0}
