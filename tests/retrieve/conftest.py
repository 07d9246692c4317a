"""Fixtures of the retriever's tests: a backbone, and a store that is filled."""

import pytest

from freeret.retriever import FreeRet
from probes import Backbone
from tests.models import TEXT, tokenizer
from tests.retrieve.corpora import PLAIN, texts


@pytest.fixture(scope="session")
def backbone() -> Backbone:
    return Backbone.load(TEXT["llama"](), tokenizer=tokenizer())


@pytest.fixture(scope="session")
def filled(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    """A retriever over 120 items. Do not modify it."""
    retriever = FreeRet(backbone, PLAIN)
    retriever.index(texts(120), tmp_path_factory.mktemp("filled"))
    return retriever
