"""The way of an item into a store, as `docs/architecture.md` lists its files."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from freeret import FreeRet, Recipe
from probes import Backbone
from tests.layout import ROOT
from tests.models import TEXT, tokenizer
from tests.project.test_layout import attributed_in

SECTION = "## From an item to a row of the store"
SHARED = {"probes/model/batches/packing.py", "probes/model/batches/prefix.py"}
"""Only rows that begin alike pass through these."""


@contextmanager
def called_files() -> Iterator[set[str]]:
    """The files of the packages in which a function is called."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            files.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield files
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def test_a_text_passes_through_the_files_that_are_listed(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text[text.index(SECTION) :].split("\n## ")[0]
    listed = {file for file, _ in attributed_in(section)}
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    retriever = FreeRet(backbone, Recipe.paper())
    retriever.index(["of the image"], tmp_path / "s")
    with called_files() as called:
        retriever.index(["the word"])
    assert listed - {file.removeprefix(f"{ROOT}/") for file in called} == SHARED
    with called_files() as called:
        retriever.index(["one of the words", "another of the words"])
    assert not listed - {file.removeprefix(f"{ROOT}/") for file in called}
