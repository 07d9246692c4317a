"""FreeRet: training-free two-stage retrieval with one untouched multimodal language model."""

import os

os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every new table; read at its import

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reranker import Ranked, Reranker
from freeret.retriever import Answer, FreeRet, Hit
from probes import ControlPrompt

__all__ = [
    "Answer", "ControlPrompt", "Embedder", "FreeRet", "Hit", "Ranked", "Recipe", "Reranker",
]  # fmt: skip
