"""A model, a recipe and suites on disk, which tests of the evaluation share."""

import json
from pathlib import Path

import pytest

from tests.evaluate.small import RECIPE, words
from tests.stores import save_tiny


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a recipe and three BEIR folders, of which `torn` cannot be read."""
    root = tmp_path_factory.mktemp("place")
    save_tiny(root / "model")
    RECIPE.save(root / "recipe.json")
    for name in ("one", "torn", "two"):
        (root / name / "qrels").mkdir(parents=True)
        for file, side in (("corpus", "d"), ("queries", "q")):
            rows = [json.dumps({"_id": f"{side}{i}", "text": words(i)}) for i in range(10)]
            (root / name / f"{file}.jsonl").write_text("\n".join(rows))
        judged = "".join(f"q{i}\td{i}\t1\n" for i in range(10))
        (root / name / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    (root / "torn" / "corpus.jsonl").write_text('{"_id": "d0", "te')
    return root
