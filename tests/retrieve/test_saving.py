"""Stores are loaded, saved elsewhere, and removed if they are temporary."""

import gc
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.store.table import Store
from probes import Backbone
from probes.errors import StoreMismatch
from tests.models import TEXT, tokenizer
from tests.retrieve.corpora import PLAIN, ids, texts
from tests.stores import save_tiny

Tiny = Callable[[str], Backbone]


def test_a_loaded_store_returns_the_same_hits(filled: FreeRet, backbone: Backbone) -> None:
    loaded = FreeRet.load(filled.corpus.store.location, backbone)
    assert loaded.recipe == PLAIN
    for query in ("the word", "17 of"):
        found, expected = (r.search(query, top_n=10) for r in (loaded, filled))
        assert [(h.id, h.score) for h in found] == [(h.id, h.score) for h in expected]


def test_another_model_is_refused(filled: FreeRet, tiny: Tiny) -> None:
    for name in ("qwen2", "gpt2"):
        with pytest.raises(StoreMismatch, match=r"was made with Llama.*, you asked for "):
            FreeRet.load(filled.corpus.store.location, tiny(name))


def test_a_moved_model_is_the_same_model(tmp_path: Path) -> None:
    TEXT["llama"]().save_pretrained(tmp_path / "here")
    tokenizer().save_pretrained(tmp_path / "here")
    retriever = FreeRet(Backbone.load(tmp_path / "here"), PLAIN)
    retriever.index(texts(5), tmp_path / "s")
    found = ids(FreeRet.load(tmp_path / "s").search("the word"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = FreeRet.load(tmp_path / "s", Backbone.load(tmp_path / "there"))
    assert ids(moved.search("the word")) == found


def test_save_copies_a_temporary_store(backbone: Backbone, tmp_path: Path) -> None:
    retriever = FreeRet(backbone, Recipe("e5v", "attn[-1]", "centre", "mcq"))
    retriever.index(texts(10))
    temporary = Path(retriever.corpus.store.location)
    found = [(h.id, h.score) for h in retriever.search("the word")]
    retriever.save(tmp_path / "lasting")
    shutil.rmtree(temporary)
    for kept in (retriever, FreeRet.load(tmp_path / "lasting", backbone)):
        for hit, (id, score) in zip(kept.search("the word"), found, strict=True):
            assert (hit.id, hit.score) == (id, pytest.approx(score, abs=1e-6))


def test_a_temporary_store_is_removed_with_its_retriever(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(3))
    [folder] = (tmp_path / "temporary").iterdir()
    assert str(folder) == retriever.corpus.store.location
    retriever.save(tmp_path / "lasting")
    del retriever
    gc.collect()
    assert not folder.exists()
    assert len(Store.open(tmp_path / "lasting")) == 3


def test_a_temporary_store_is_removed_when_the_interpreter_exits(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    (tmp_path / "temporary").mkdir()
    program = (
        "import sys; from freeret import FreeRet, Recipe\n"
        "retriever = FreeRet(sys.argv[1], Recipe('e5v', frame=None))\n"
        "print(retriever.index(['a text']).added, retriever.store.location)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, model], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"1 {tmp_path / 'temporary' / 'freeret-'}")
    assert not list((tmp_path / "temporary").glob("freeret-*"))
