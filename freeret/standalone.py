"""Stage 1 for libraries that pass items in batches, so that there is no corpus to fit on.

The geometry of a recipe is fitted on the reference items instead, as of a corpus that holds them
(`probes.measure.reference`). `freeret.mteb` and `freeret.sentence_transformers` embed in this way.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from freeret.embedder import Embedder, not_finite
from freeret.recipe import Recipe
from freeret.search.geometry import reference_of
from probes import Backbone, Geometry, Item
from probes.geometry import CorpusGeometry
from probes.measure.reference import reference_items
from probes.prompts import Side

EMPTY = "(empty)"
"""Replaces a text without characters, which other libraries embed too."""
MTEB_TASKS = {
    "Retrieval": "question",
    "Reranking": "question",
    "InstructionRetrieval": "question",
    "InstructionReranking": "question",
    "Classification": "classification",
    "MultilabelClassification": "classification",
    "Clustering": "classification",
    "ImageClassification": "classification",
    "ImageMultilabelClassification": "classification",
    "ImageClustering": "classification",
    "ZeroShotClassification": "classification",
    "Any2AnyRetrieval": "caption",
    "Any2AnyMultilingualRetrieval": "caption",
    "VisionCentricQA": "question",
    "DocumentUnderstanding": "question",
    "Compositionality": "caption",
}
"""MTEB's type of task -> the task prior; "same meaning" for every other."""


class StandaloneEmbedder:
    """Unit vectors that do not depend on what else is embedded."""

    def __init__(self, backbone: Backbone, recipe: Recipe):
        self.backbone = backbone
        self.recipe = recipe
        self._embedder = Embedder.from_recipe(backbone, recipe)
        self._geometries: dict[str, Geometry] = {}

    def encode(
        self, items: Sequence[Item], side: Side = "document", task: str | None = None
    ) -> Float[Tensor, "n hidden"]:
        """Embed items of one side.

        Args:
            items: What to embed.
            side: Whether they are queries or documents.
            task: A task prior in place of the recipe's.

        Returns:
            Float32 unit vectors on the CPU, in the order given.

        Raises:
            BadItem: An item cannot be read, or its vector is not finite.
            BadSetting: The recipe's prompt states no task.
        """
        embedder = self._embedder.for_task(task)
        vectors = embedder.encode(items, side)
        for error in not_finite(items, vectors).values():
            raise error
        return self.geometry(embedder).map(vectors, [item.signature for item in items], side)

    def geometry(self, embedder: Embedder) -> Geometry:
        """The geometry of the reference items under this extraction, fitted at most once."""
        key = ", ".join(prompt.name for prompt in embedder.prompts)
        if key not in self._geometries:
            self._geometries[key] = self._fit(embedder)
        return self._geometries[key]

    def forget_geometries(self) -> None:
        """Fit again at the next use: the backbone's settings have changed."""
        self._geometries.clear()

    def _fit(self, embedder: Embedder) -> Geometry:
        corpus = CorpusGeometry(self.recipe.geometry)
        reference = reference_of(embedder, progress=True)
        sees = "image" in self.backbone.modalities
        read = ("text", "image", "image+text") if sees else ("text",)
        for signature in read if self.recipe.geometry != "none" else ():
            ids = [f"{signature} {i}" for i in range(len(reference_items("document", signature)))]
            vectors = reference("document", signature)
            assert vectors is not None
            corpus.add(ids, [signature] * len(ids), vectors)
        return corpus.fit(reference)
