"""The systems that can be compared, by name.

| name                | what it is                                                             |
|---------------------|------------------------------------------------------------------------|
| `recipe`            | what the probes chose for this backbone, or a recipe file              |
| `hybrid`            | the recipe with a lexical leg, of weight 0.2 where it names none       |
| `paper`             | FreeRet as the paper fixes it: control prompt, h^Attn_L, A/B question  |
| `e5v`               | E5-V (arXiv 2407.12580): its prompt, read at the final norm            |
| `prompteol`         | PromptEOL (arXiv 2307.16645)                                           |
| `metaeol`           | MetaEOL (arXiv 2402.18458): several task prompts, averaged             |
| `hierarchical`      | the task in the system turn (arXiv 2508.00955)                         |
| `realign`           | ReAlign (arXiv 2512.19115): its prompt, the mean, each side whitened   |
| `e5v-whiten`        | the E5-V extraction in this project's whitening                        |
| `echo`              | Echo (arXiv 2402.15449): the text twice, averaged over the second      |
| `mean`, `last`      | no prompt: the mean of all positions, the last position                |
| `bm25`              | BM25 over stemmed words: the lexical leg by itself                     |
| `st:NAME`           | a sentence-transformers model by its name                              |
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from freeret.embedder import Embedder
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.rankings import Ranking, to_run
from freeret.evaluate.skipping import Skipped
from freeret.evaluate.systems.pooling import Pooled
from freeret.evaluate.systems.vectors import Prompts, System, VectorSystem, by_signature
from freeret.evaluate.systems.words import indexed_words, lexical_scores
from freeret.extras import require
from freeret.preflight import check_systems
from freeret.recipe import Recipe
from probes import Backbone, Item, TemplatePrompt
from probes.errors import BadSetting
from probes.geometry import GeometryKind
from probes.prompts import Prompt, Side, as_prompt

META_EOL: list[str | Prompt] = [
    TemplatePrompt(f"metaeol: {what}", before=f'{ask}\nInput: "', after='"\nIn one word: ')
    for what, ask in {
        "topic": "Classify the input: name its general category.",
        "sentiment": "Judge the input: name the feeling that it conveys.",
        "paraphrase": "Restate the input: name the meaning that every paraphrase of it shares.",
        "extraction": "Extract from the input: name the entity or fact that matters most.",
    }.items()
]
"""MetaEOL's four meta-tasks, in this project's wording."""


ANY_TASK = "{task of the dataset}"
"""Stands in an identity for the task prior, which each dataset replaces."""


@dataclass(frozen=True)
class PromptedSystem(VectorSystem):
    """Stage 1: a state per prompt, averaged, in a geometry. A recipe with a frame adds stage 2."""

    name: str
    backbone: Backbone = field(repr=False)
    prompts: list[str | Prompt]
    site: str
    geometry: GeometryKind
    recipe: Recipe | None = None

    @classmethod
    def of(cls, name: str, backbone: Backbone, recipe: Recipe) -> "PromptedSystem":
        return cls(name, backbone, [recipe.prompt], recipe.site, recipe.geometry, recipe)

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raises BadItem, naming the item."""
        return self._embedder(task).encode(items, side, progress=progress)

    def words(self, items: Sequence[Item], side: Side, task: str) -> list[str]:
        return self._embedder(task).words(items, side)

    def _embedder(self, task: str) -> Embedder:
        prompts: list[str | Prompt] = [as_prompt(prompt, task) for prompt in self.prompts]
        passage = None if self.recipe is None else self.recipe.passage
        return Embedder(self.backbone, self.site, prompts, passage)

    def prompts_for(self, dataset: Dataset) -> Prompts:
        prompts = [as_prompt(prompt, dataset.task) for prompt in self.prompts]
        wording = self.backbone.encoder.wording
        return by_signature(
            dataset, lambda item, side: [wording(p.apply(item, side)) for p in prompts]
        )

    def identity(self) -> dict[str, Any]:
        stage1 = self._embedder(ANY_TASK).identity()
        recipe = None if self.recipe is None else self.recipe.to_json()
        if recipe is not None and recipe["frame"] is not None:
            del recipe["why_not_reranked"]
        return {**stage1, "geometry": self.geometry, "recipe": recipe}


@dataclass(frozen=True)
class BM25:
    """BM25 over stemmed English words: the lexical leg of a store by itself."""

    name: str = "bm25"
    backbone: None = None
    recipe: None = None

    def run(
        self,
        dataset: Dataset,
        *,
        progress: bool = False,
        skipped: list[Skipped] | None = None,
    ) -> Ranking:
        """Raises BadSetting when an item holds more than text."""
        for item in (*dataset.queries, *dataset.documents):
            if item.media:
                raise BadSetting(f"BM25 reads text, and {item.name} holds {item.media[0].kind}")
        texts = [document.text for document in dataset.documents]
        with indexed_words(dataset.documents, texts) as words:
            return to_run(dataset, lexical_scores(dataset, words))

    def prompts_for(self, dataset: Dataset) -> Prompts:
        return {}

    def identity(self) -> dict[str, Any]:
        return {"library": "lancedb", "version": version("lancedb"), "stemmed": True}


@dataclass(frozen=True)
class SentenceTransformers(VectorSystem):
    """A model of the sentence-transformers library, by its name or folder. Text only."""

    model: str
    backbone: None = None
    recipe: None = None
    geometry: GeometryKind = "none"

    @property
    def name(self) -> str:
        return f"st-{self.model.strip('/').rsplit('/', 1)[-1]}"

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raises BadSetting when the package or the model is missing, or an item is not text."""
        for item in items:
            if item.media:
                raise BadSetting(f"{self.name} reads text, and {item.name} is not only text")
        encoder = _sentence_transformer(self.model)
        encode = encoder.encode_query if side == "query" else encoder.encode_document
        texts = [item.text for item in items]
        return torch.from_numpy(np.array(encode(texts, show_progress_bar=progress))).float()

    def identity(self) -> dict[str, Any]:
        return {"sentence-transformers": self.model, "version": version("sentence-transformers")}


@functools.lru_cache(maxsize=1)
def _sentence_transformer(model: str) -> Any:
    """Load a model, once for all datasets and blocks."""
    require("sentence_transformers", f"st:{model}")
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise BadSetting(f"sentence-transformers has no model {model!r}: {error}") from None


def system(name: str, backbone: Callable[[], Backbone], recipe: Callable[[], Recipe]) -> System:
    """A system by its name.

    Args:
        backbone: Returns the backbone; called only for systems that need one.
        recipe: Returns the recipe of the system `recipe`.

    Raises:
        BadSetting: There is no system of this name.
    """
    check_systems([name])
    prompted: dict[str, tuple[list[str | Prompt], GeometryKind]] = {
        "e5v": (["e5v"], "none"),
        "prompteol": (["prompteol"], "none"),
        "hierarchical": (["hierarchical"], "none"),
        "metaeol": (META_EOL, "none"),
        "e5v-whiten": (["e5v"], "whiten"),
    }
    if name in prompted:
        prompts, geometry = prompted[name]
        return PromptedSystem(name, backbone(), prompts, "norm", geometry)
    match name.split(":", 1):
        case ["recipe"]:
            return PromptedSystem.of(name, backbone(), recipe())
        case ["hybrid"]:
            return PromptedSystem.of(name, backbone(), recipe().hybrid())
        case ["paper"]:
            return PromptedSystem.of(name, backbone(), Recipe.paper())
        case ["mean" | "last" | "echo" | "realign" as pooling]:
            return Pooled(pooling, backbone())
        case ["bm25"]:
            return BM25()
        case _:
            return SentenceTransformers(name.removeprefix("st:"))
