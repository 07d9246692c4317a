"""MTEB's encoder and cross-encoder protocols (mteb 2), over text and images.

    import mteb
    from freeret.mteb import MtebCrossEncoder, MtebEncoder

    mteb.evaluate(MtebEncoder(Backbone.load("smollm2-135m")), mteb.get_tasks(["STSBenchmark"]))

Needs `pip install 'freeret[eval]'`. MTEB hands over queries before it hands over the corpus, and in
pieces, so a geometry is fitted on the project's own sentences, not on the corpus as in
`FreeRet.index`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mteb.models import ModelMeta
from torch import Tensor

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reports import own_recipe
from freeret.reranker import Reranker
from probes import Backbone, Geometry, Item
from probes.errors import BadItem
from probes.geometry import CorpusGeometry, unit
from probes.prompts import Side, as_prompt
from probes.reference import reference_items, reference_vectors

TASK_OF = {
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


class MtebEncoder:
    """Stage 1. Without a recipe the backbone's own report decides."""

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, **_: Any):
        self.backbone = backbone
        self.recipe = recipe or own_recipe(backbone)
        self._geometries: dict[str, Geometry] = {}

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Float[np.ndarray, "n hidden"]:
        """Unit vectors of all inputs, a query's or a document's. Raises BadItem, naming the input
        by its place."""
        items = read(inputs)
        side: Side = (
            "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
        )
        task = TASK_OF.get(str(task_metadata.type), "same meaning")
        prompt = as_prompt(self.recipe.prompt, task)
        embedder = Embedder(self.backbone, self.recipe.site, prompt)
        vectors = embedder.encode(items, side)
        if task not in self._geometries:
            self._geometries[task] = self._fit(embedder)
        signatures = [item.signature for item in items]
        return self._geometries[task].map(vectors, signatures, side).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, "n m"]:
        """Cosine of every pair."""
        a, b = (unit(_matrix(embeddings)) for embeddings in (embeddings1, embeddings2))
        return a @ b.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Float[Tensor, " n"]:
        """Cosine of each pair."""
        a, b = (unit(_matrix(embeddings)) for embeddings in (embeddings1, embeddings2))
        return (a * b).sum(-1)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return describe(self.backbone, self.recipe, "dense")

    def _fit(self, embedder: Embedder) -> Geometry:
        """As of a corpus that holds the reference items."""
        corpus = CorpusGeometry(self.recipe.geometry)
        reference = reference_vectors(embedder.encode, symmetric=embedder.symmetric)
        read = ("text", "image", "image+text") if self.backbone.sees else ("text",)
        for signature in read if self.recipe.geometry != "none" else ():
            items = reference_items("document", signature)
            ids = [f"{signature} {place}" for place in range(len(items))]
            vectors = reference("document", signature)
            assert vectors is not None
            corpus.add(ids, [signature] * len(items), vectors)
        return corpus.fit(reference)


class MtebCrossEncoder:
    """Stage 2: log-odds of a match. Raises UnsupportedBackbone when the recipe has no frame."""

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, **_: Any):
        self.backbone = backbone
        self.recipe = recipe or own_recipe(backbone)
        self.reranker = Reranker.from_recipe(backbone, self.recipe)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Float[np.ndarray, " pairs"]:
        """One score a pair. Pairs of one query that stand together share its computation."""
        pairs = list(zip(read(inputs1), read(inputs2), strict=True))
        return self.reranker.margins(pairs)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return describe(self.backbone, self.recipe, "cross-encoder")


def read(inputs: Iterable[Mapping[str, Any]]) -> list[Item]:
    """MTEB's batches, columns of `text` and `image`, as items; the picture stands first."""
    items: list[Item] = []
    for batch in inputs:
        columns = {key: batch[key] for key in ("text", "image") if key in batch}
        if not columns:
            raise BadItem(f"MTEB gave {', '.join(batch)}; text and images can be read")
        for values in zip(*columns.values(), strict=True):
            row = dict(zip(columns, values, strict=True))
            images = [] if row.get("image") is None else [row["image"]]
            text = row.get("text") or (None if images else "(empty)")
            items.append(Item(text, images=images, id=f"input {len(items)}"))
    return items


def describe(backbone: Backbone, recipe: Recipe, kind: str) -> ModelMeta:
    """What MTEB writes beside its results; the revision is a digest of weights and recipe."""
    identity = {"backbone": backbone.fingerprint(), "recipe": asdict(recipe)}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return ModelMeta.create_empty(
        overwrites={
            "name": f"freeret/{Path(backbone.name).name}",
            "revision": digest[:16],
            "embed_dim": backbone.hidden_size,
            "max_tokens": backbone.encoder.max_tokens,
            "framework": ["PyTorch"],
            "similarity_fn_name": "cosine",
            "use_instructions": True,
            "training_datasets": set(),
            "modalities": ["text", "image"] if backbone.processor is not None else ["text"],
            "model_type": [kind],
        }
    )


def _matrix(embeddings: Any) -> Tensor:
    return torch.atleast_2d(torch.as_tensor(np.asarray(embeddings)))
