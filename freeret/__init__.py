"""FreeRet: training-free two-stage retrieval with one untouched multimodal language model."""

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reranker import Ranked, Reranker
from probes import ControlPrompt

__all__ = ["ControlPrompt", "Embedder", "Ranked", "Recipe", "Reranker"]
