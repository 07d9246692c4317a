"""Real packages that people already use, fed by the real object: nothing is replaced here."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

os.environ["HF_DATASETS_OFFLINE"] = "1"

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import freeret
from freeret.recipe import Recipe
from probes import Backbone

Tiny = Callable[[str], Backbone]
pytestmark = pytest.mark.filterwarnings(
    "ignore"
)  # all of these packages have warnings of their own
RECIPE = Recipe("prompteol", "attn[-1]", "none", None)
TEXTS = ["the word of it", "one of the image", "Yes what", "No one"]


@pytest.fixture
def model(tiny: Tiny) -> SentenceTransformer:
    return freeret.sentence_transformer(tiny("llama"), RECIPE)


def test_mteb_gets_the_figures_of_our_own_encoder(tiny: Tiny) -> None:
    """The control prompt states a task, which differs from task to task."""
    import mteb
    from mteb.mocks import MockClassificationTask, MockRetrievalTask

    from freeret.mteb import MtebEncoder

    def score(model: Any, task: Any) -> float:
        found = mteb.evaluate(model, task(), cache=None, show_progress_bar=False, co2_tracker=False)
        return found.task_results[0].scores["test"][0]["main_score"]

    backbone, recipe = tiny("llama"), Recipe.paper()
    for task in (MockRetrievalTask, MockClassificationTask):
        ours = score(MtebEncoder(backbone, recipe), task)
        assert score(freeret.sentence_transformer(backbone, recipe), task) == pytest.approx(ours)


def test_mteb_knows_the_model(model: SentenceTransformer) -> None:
    from mteb.models import ModelMeta

    meta = ModelMeta.from_sentence_transformer_model(model)
    assert meta.name == "freeret/LlamaForCausalLM"
    assert (meta.embed_dim, meta.max_tokens) == (64, model.max_seq_length)


def test_bertopic_finds_topics(model: SentenceTransformer, monkeypatch: Any) -> None:
    """Its light form: PCA and k-means, since UMAP compiles for a minute when it is imported."""
    monkeypatch.setitem(sys.modules, "umap", None)
    monkeypatch.setitem(sys.modules, "hdbscan", None)
    from bertopic import BERTopic
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    texts = [f"{text} {i}" for i in range(5) for text in TEXTS]
    topics = BERTopic(
        embedding_model=model,
        umap_model=PCA(2),  # pyright: ignore
        hdbscan_model=KMeans(3, random_state=0),  # pyright: ignore
    )
    found, _ = topics.fit_transform(texts)
    assert set(found) == {0, 1, 2}
    np.testing.assert_allclose(
        topics.embedding_model.embed(texts),  # pyright: ignore
        model.encode(texts),
        atol=1e-6,
    )


def test_langchain(model: SentenceTransformer) -> None:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    class FreeRetEmbeddings(Embeddings):
        def __init__(self, model: SentenceTransformer):
            self.model = model

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return self.model.encode_document(texts).tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.model.encode_query(text).tolist()

    store = InMemoryVectorStore(FreeRetEmbeddings(model))
    store.add_documents([Document(text) for text in TEXTS])
    assert [store.similarity_search(text, k=1)[0].page_content for text in TEXTS] == TEXTS


def test_llamaindex(model: SentenceTransformer) -> None:
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.schema import TextNode

    class FreeRetEmbedding(BaseEmbedding):
        model: Any

        def _get_text_embedding(self, text: str) -> list[float]:
            return self.model.encode_document(text).tolist()

        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return self.model.encode_document(texts).tolist()

        def _get_query_embedding(self, query: str) -> list[float]:
            return self.model.encode_query(query).tolist()

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    Settings.llm = None  # pyright: ignore
    nodes: Sequence[Any] = [TextNode(text=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=FreeRetEmbedding(model=model))
    retriever = index.as_retriever(similarity_top_k=1)
    assert [retriever.retrieve(text)[0].get_content() for text in TEXTS] == TEXTS
