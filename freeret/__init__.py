"""FreeRet: training-free two-stage retrieval with one untouched multimodal language model."""

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reranker import Ranked, Reranker
from freeret.retriever import Answer, FreeRet, Hit
from probes import ControlPrompt

__all__ = [
    "Answer", "ControlPrompt", "Embedder", "FreeRet", "Hit", "Ranked", "Recipe", "Reranker",
]  # fmt: skip
