"""Loaders read the published layouts exactly, and say what is missing and where to get it."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from freeret.evaluate.datasets import Dataset, sample
from freeret.evaluate.loaders import (  # fmt: skip
    load_beir,
    load_folder,
    load_ir_dataset,
    load_sts,
    suite,
)
from freeret.evaluate.loaders.scenes import FAILURES, TASKS
from probes import Item
from probes.errors import BadFile, BadSetting


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def picture(path: Path, colour: str = "teal") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)


# --------------------------------------------------------------------------------------- BEIR


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    root = tmp_path / "tiny"
    lines(root / "corpus.jsonl", [
        {"_id": "d1", "title": "A title", "text": "and a text", "metadata": {}},
        {"_id": "d2", "title": "", "text": "only text"},
        {"_id": "d3", "title": None, "text": ""},
    ])  # fmt: skip
    lines(root / "queries.jsonl", [
        {"_id": "q1", "text": "first?", "metadata": {}},
        {"_id": "q2", "text": "never judged?"},
        {"_id": "q3", "text": 'third "?'},
    ])  # fmt: skip
    (root / "qrels").mkdir()
    (root / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq3\tlost\t1\nnobody\td1\t1\n"
    )
    return root


def test_a_beir_folder(beir: Path) -> None:
    dataset = load_beir(beir)
    assert dataset.name == "tiny"
    assert [query.id for query in dataset.queries] == ["q1", "q3"], "q2 is not judged"
    assert [document.text for document in dataset.documents] == [
        "A title and a text", "only text", "(empty)",
    ]  # fmt: skip
    assert dataset.judgements == {"q1": {"d1": 2, "d2": 0}, "q3": {"lost": 1}}
    assert dataset.metrics[0] == "nDCG@10"


def test_a_beir_folder_that_is_not_whole(beir: Path, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"beir-cellar.*8\.8 million"):
        load_beir(tmp_path / "nowhere")
    (beir / "corpus.jsonl").write_text('{"_id": "d1"}\n')
    with pytest.raises(BadFile, match=r"corpus\.jsonl, line 1"):
        load_beir(beir)
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\tmuch\n")
    with pytest.raises(BadFile, match=r"test\.tsv, line 2"):
        load_beir(beir)


@pytest.mark.filterwarnings("ignore")
def test_a_dataset_of_ir_datasets_by_its_id() -> None:
    """One of the catalogue's own kind, registered here: documents with a title, graded qrels."""
    import ir_datasets
    from ir_datasets import formats

    class Docs(formats.BaseDocs):
        def docs_iter(self) -> Any:
            yield formats.TitleUrlTextDoc("d1", "A title", "there", "and a text")
            yield formats.GenericDoc("d2", "only text")

        def docs_cls(self) -> Any:
            return formats.GenericDoc

    class Queries(formats.BaseQueries):
        def queries_iter(self) -> Any:
            yield formats.GenericQuery("q1", "first?")
            yield formats.GenericQuery("q2", "never judged?")

    class Qrels(formats.BaseQrels):
        def qrels_iter(self) -> Any:
            yield formats.TrecQrel("q1", "d1", 2, "0")
            yield formats.TrecQrel("q1", "d2", 0, "0")

    made = ir_datasets.Dataset(Docs(), Queries(), Qrels())
    if "own/small" not in ir_datasets.registry:
        ir_datasets.registry.register("own/small", made)
    dataset = load_ir_dataset("own/small")
    assert dataset.name == "own-small"
    assert [(q.id, q.text) for q in dataset.queries] == [("q1", "first?")]
    texts = [document.text for document in dataset.documents]
    assert texts[0].split() == ["A", "title", "and", "a", "text"]
    assert texts[1] == "only text"
    assert dataset.judgements == {"q1": {"d1": 2, "d2": 0}}


@pytest.mark.filterwarnings("ignore")
def test_an_id_that_the_catalogue_lacks() -> None:
    with pytest.raises(BadFile, match=r"no-such-set.*ir-datasets\.com"):
        load_ir_dataset("no-such-set")


ODD = "one\u2028line\x85and\x0bno more"


def test_only_a_line_feed_ends_a_line(beir: Path, tmp_path: Path) -> None:
    """`str.splitlines` would cut these texts in pieces."""
    row = json.dumps({"_id": "d1", "title": "", "text": ODD}, ensure_ascii=False)
    (beir / "corpus.jsonl").write_text(row + "\n", encoding="utf-8")
    assert [document.text for document in load_beir(beir).documents] == [ODD]
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text(f"score\tsentence1\tsentence2\r\n5.0\t{ODD}\tB\r\n", encoding="utf-8")
    dataset = load_sts(pairs)
    assert [i.text for i in (*dataset.queries, *dataset.documents)] == [ODD, "B"]
    root = folder(tmp_path / "mine")
    row = json.dumps({"text": ODD, "relevant": ["own"]}, ensure_ascii=False)
    (root / "queries.jsonl").write_text(row, encoding="utf-8")
    assert [query.text for query in load_folder(root).queries] == [ODD]


def test_a_file_that_is_no_text(beir: Path, tmp_path: Path) -> None:
    (beir / "corpus.jsonl").write_bytes(b'{"_id": "d1", "text": "caf\xe9"}\n')
    with pytest.raises(BadFile, match=r"corpus\.jsonl, line 1: byte 0xe9 .*UTF-8.*beir-cellar"):
        load_beir(beir)
    (tmp_path / "pairs.tsv").write_bytes(b"score\tsentence1\tsentence2\n5.0\tcaf\xe9\tB\n")
    with pytest.raises(BadFile, match=r"pairs\.tsv, line 2: byte 0xe9 .*UTF-8.*1,500 pairs"):
        load_sts(tmp_path / "pairs.tsv")


def test_marks_and_blank_lines_change_nothing(beir: Path) -> None:
    """As editors leave them: a byte order mark before any file, blank lines behind, UTF-16."""
    plain = load_beir(beir)
    for encoding, end in (("utf-8-sig", "\n\n"), ("utf-8", " \r\n\n"), ("utf-16", "\n")):
        for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
            text = (beir / name).read_text(encoding="utf-8").rstrip()
            (beir / name).write_text(text + end, encoding=encoding)
        marked = load_beir(beir)
        assert (marked.queries, marked.documents) == (plain.queries, plain.documents)
        assert marked.judgements == plain.judgements
        for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
            text = (beir / name).read_text(encoding=encoding)
            (beir / name).write_text(text, encoding="utf-8")


def test_a_bad_line_is_named_by_its_number_in_the_file(beir: Path) -> None:
    text = (beir / "queries.jsonl").read_text(encoding="utf-8")
    (beir / "queries.jsonl").write_text("\n\n" + text + "\n{", encoding="utf-8-sig")
    with pytest.raises(BadFile, match=r"queries\.jsonl, line 7: needs JSON"):
        load_beir(beir)
    table = beir / "qrels" / "test.tsv"
    table.write_text(table.read_text() + "\nq1\td1\n")
    with pytest.raises(BadFile, match=r"qrels/test\.tsv, line 7: needs query-id"):
        load_beir(beir)


# ---------------------------------------------------------------------------------------- STS

HEADED = 'score\tsentence1\tsentence2\tgenre\n5.0\tA "man".\tA male.\tnews\n0.25\tRain.\tSun.\tx\n'
BENCHMARK = (
    'main-captions\tMSRvid\t2012test\t0001\t5.000\tA "man".\tA male.\n'
    "main-news\theadlines\t2015\t0020\t0.250\tRain.\tSun.\tlicence\tlicence\n"
)


@pytest.mark.parametrize("text", [HEADED, BENCHMARK], ids=["headed", "benchmark"])
def test_pairs(text: str, tmp_path: Path) -> None:
    (tmp_path / "sts-dev.csv").write_text(text, encoding="utf-8")
    dataset = load_sts(tmp_path / "sts-dev.csv")
    assert (dataset.name, dataset.metrics) == ("sts-dev", ("Spearman",))
    assert [query.text for query in dataset.queries] == ['A "man".', "Rain."]
    assert [document.text for document in dataset.documents] == ["A male.", "Sun."]
    assert [next(iter(dataset.judgements[q.id or ""].values())) for q in dataset.queries] == [
        5,
        0.25,
    ]
    assert dataset.candidates is not None
    assert all(len(own) == 1 for own in dataset.candidates.values())


def test_pairs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="1,500 pairs"):
        load_sts(tmp_path / "none.csv")
    (tmp_path / "short.tsv").write_text("score\tsentence1\tsentence2\n5.0\talone\n")
    with pytest.raises(BadFile, match=r"short\.tsv, line 2"):
        load_sts(tmp_path / "short.tsv")


# --------------------------------------------------------------------------- a folder of one's own


def folder(root: Path) -> Path:
    (root / "documents").mkdir(parents=True)
    (root / "documents" / "note.txt").write_text("a note")
    lines(root / "documents" / "rows.jsonl", [{"text": "first row"}, {"id": "own", "text": "2nd"}])
    picture(root / "documents" / "p.png")
    picture(root / "asked.png")
    lines(root / "queries.jsonl", [
        {"id": "q", "text": "which?", "relevant": ["note.txt", "own"]},
        {"image": "asked.png", "relevant": {"p.png": 2, "rows.jsonl:1": 1}},
    ])  # fmt: skip
    return root


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    dataset = load_folder(folder(tmp_path / "mine"))
    assert {d.id for d in dataset.documents} == {"note.txt", "rows.jsonl:1", "own", "p.png"}
    assert [(q.id, q.signature) for q in dataset.queries] == [("q", "text"), ("2", "image")]
    assert dataset.judgements == {
        "q": {"note.txt": 1, "own": 1},
        "2": {"p.png": 2, "rows.jsonl:1": 1},
    }
    assert dataset.task == "same meaning"
    (tmp_path / "mine" / "task.txt").write_text("Find the note.\n")
    assert load_folder(tmp_path / "mine").task == "Find the note."


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "a"}, "line 1: relevant must be a list"),
        ({"text": "a", "relevant": "note.txt"}, "line 1: relevant must be a list"),
        ({"text": "a", "relevant": []}, "line 1: relevant must be a list"),
        ({"text": "a", "relevant": {"note.txt": "good"}}, "'note.txt' must be a number"),
        ({"query": "a", "relevant": ["note.txt"]}, "no key 'query'; its keys are id, text, image"),
        (["a"], "line 1 is not an object of JSON; needed"),
        ({"image": ["asked.png"], "relevant": ["note.txt"]}, "image must be a path below"),
        ({"text": "a", "relevant": ["lost"]}, "called 'note.txt', 'own', 'p.png', …"),
        ({"text": "a", "relevant": ["lost"]}, "no document 'lost'"),
        ({"image": "lost.png", "relevant": ["note.txt"]}, r"no file .*lost\.png"),
        ({"text": " ", "relevant": ["note.txt"]}, "no content"),
    ],
)
def test_a_folder_that_is_wrong(row: Any, said: str, tmp_path: Path) -> None:
    root = folder(tmp_path / "mine")
    lines(root / "queries.jsonl", [row])
    with pytest.raises(BadFile, match=said):
        load_folder(root)


def test_documents_may_be_pictures_with_captions(tmp_path: Path) -> None:
    root = folder(tmp_path / "mine")
    rows = [{"id": "both", "text": "a caption", "image": "../asked.png"}]
    lines(root / "documents" / "captions.jsonl", rows)
    lines(root / "queries.jsonl", [{"text": "which?", "relevant": ["both"]}])
    dataset = load_folder(root)
    [found] = [item for item in dataset.documents if item.id == "both"]
    assert (found.signature, found.text) == ("image+text", "a caption")
    assert dataset.metrics == ("P@1", "nDCG@10", "R@10", "RR")


def test_a_folder_without_parts(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"documents/ and queries\.jsonl"):
        load_folder(tmp_path)
    (tmp_path / "queries.jsonl").write_text("")
    with pytest.raises(BadFile, match="nothing at"):
        load_folder(tmp_path)


# --------------------------------------------------------------------------------------- suites


def test_scenes_are_a_suite() -> None:
    loaders = suite("scenes:2")
    tasks = len(TASKS) + len(FAILURES)
    assert len(loaders) == 2 * tasks
    first, changed = loaders[0](), loaders[3]()
    assert (first.name, first.group, len(first.queries)) == ("text→image 0", "text→image", 100)
    assert (changed.task, first.task) == ("composed change", "caption")
    assert loaders[0]().digest() == first.digest() != loaders[tasks]().digest()
    with pytest.raises(BadSetting, match="number of pools"):
        suite("scenes:all")


def test_a_suite_is_its_datasets(beir: Path) -> None:
    assert suite(f"beir:{beir}")[0]().metrics[0] == "nDCG@10"
    assert suite(f"paraphrases:{beir}")[0]().metrics[0] == "P@1"


@pytest.mark.parametrize("spec", ["captions", "beir:", "nonsense:x", ""])
def test_a_suite_that_is_none(spec: str) -> None:
    with pytest.raises(BadSetting, match=r"mmeb-v2:"):
        suite(spec)


# ------------------------------------------------------------------------------------- datasets


def small(**changes: Any) -> Dataset:
    settings: dict[str, Any] = {
        "name": "small",
        "queries": [Item("a?", id="q1"), Item("b?", id="q2")],
        "documents": [Item(f"text {i}", id=f"d{i}") for i in range(10)],
        "judgements": {"q1": {"d1": 1}, "q2": {"d2": 1, "gone": 1}},
    }
    return Dataset(**settings | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queries": []}, "no query"),
        ({"queries": [Item("a")]}, "query needs an id"),
        ({"documents": [Item("a", id="x"), Item("b", id="x")]}, "document needs an id"),
        ({"judgements": {"q1": {"d1": 1}}}, "'q2' has no judgement"),
        ({"judgements": {"q1": {"d1": 1}, "q2": {}}}, "'q2' has no judgement"),
        ({"candidates": {"q1": ["d1"]}}, "candidates of query 'q2'"),
        ({"candidates": {"q1": ["d1"], "q2": ["gone"]}}, "candidates of query 'q2'"),
    ],
)
def test_a_dataset_that_is_not_whole(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadFile, match=said):
        small(**changes)


def test_a_digest_is_of_everything_that_decides_a_figure() -> None:
    changed = [
        small(queries=[Item("a?", id="q1"), Item("c?", id="q2")]),
        small(documents=[Item(f"text {i}", id=f"d{i}") for i in range(9)]),
        small(judgements={"q1": {"d1": 1}, "q2": {"d2": 2}}),
        small(candidates={"q1": ["d1"], "q2": ["d2"]}),
        small(task="question"),
        small(metrics=("nDCG@10",)),
        small(queries=[Item("a?", id="q1"), Item(images=[Image.new("RGB", (2, 2))], id="q2")]),
        small(
            queries=[Item("a?", id="q1"), Item(images=[Image.new("RGB", (2, 2), "red")], id="q2")]
        ),
    ]
    assert small().digest() == small(note="said", group="other").digest()
    assert len({small().digest(), *(one.digest() for one in changed)}) == 1 + len(changed)


def test_a_sample_keeps_what_is_judged() -> None:
    drawn = sample(small(), documents=6, seed=1)
    assert {"d1", "d2"} <= {d.id for d in drawn.documents}
    assert len(drawn.documents) == 6
    assert "4 of 8 others, drawn with seed 1" in drawn.note
    assert sample(small(), documents=6, seed=1) == drawn
    assert sample(small(), documents=6, seed=2).documents != drawn.documents
    assert sample(small(), documents=10, queries=2) == small()
    assert len(sample(small(), documents=1).documents) == 2, "never fewer than what is judged"


def test_a_sample_of_queries_takes_their_own_with_it() -> None:
    drawn = sample(small(), queries=1, documents=1, seed=3)
    query = drawn.queries[0].id or ""
    assert drawn.judgements == {query: small().judgements[query]}
    assert [d.id for d in drawn.documents] == [next(iter(drawn.judgements[query]))]
    assert "1 of 2 queries, drawn with seed 3" in drawn.note
    own = {"q1": ["d1", "d7"], "q2": ["d2", "d8"]}
    drawn = sample(small(candidates=own), queries=1, documents=1, seed=3)
    assert [d.id for d in drawn.documents] == own[drawn.queries[0].id or ""]
