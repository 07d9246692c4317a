"""FreeRet: training-free two-stage retrieval with one untouched multimodal language model."""

import os
from typing import TYPE_CHECKING

from probes.lazy import lazy_names

os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every new table; read at its import

if TYPE_CHECKING:
    from freeret.embedder import Embedder
    from freeret.hits import Answer, Hit, Hits
    from freeret.pages.card import model_card
    from freeret.recipe import Recipe
    from freeret.reranker import Ranked, Reranker
    from freeret.retriever import FreeRet
    from freeret.sentence_transformers import sentence_transformer
    from probes import ControlPrompt

__all__ = [
    "Answer", "ControlPrompt", "Embedder", "FreeRet", "Hit", "Hits", "Ranked", "Recipe",
    "Reranker", "model_card", "sentence_transformer",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "freeret.embedder": "Embedder",
        "freeret.hits": "Answer Hit Hits",
        "freeret.pages.card": "model_card",
        "freeret.recipe": "Recipe",
        "freeret.reranker": "Ranked Reranker",
        "freeret.retriever": "FreeRet",
        "freeret.sentence_transformers": "sentence_transformer",
        "probes.prompts": "ControlPrompt",
    },
)
