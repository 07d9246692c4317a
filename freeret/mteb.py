"""MTEB's encoder and cross-encoder protocols (mteb 2), for every modality of the backbone.

    import mteb
    from freeret.mteb import MtebCrossEncoder, MtebEncoder, MtebSearch

    mteb.evaluate(MtebEncoder(Backbone.load("smollm2-135m")), mteb.get_tasks(["STSBenchmark"]))

Needs `pip install 'freeret[eval]'`. MTEB passes an encoder queries before the corpus, and both in
batches, so its geometry is fitted on the bundled reference items. `MtebSearch` is given the corpus
first, and searches as `FreeRet` does. MTEB itself drops a document that is its own query, in the
tasks that say so.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from mteb._create_dataloaders import create_dataloader
from mteb.models import ModelMeta
from mteb.types import PromptType
from torch import Tensor

from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from freeret.standalone import EMPTY, MTEB_TASKS, StandaloneEmbedder
from probes import Backbone, Item, Part
from probes.errors import BadItem
from probes.geometry import unit
from probes.media.processing import READERS
from probes.media.videos import even
from probes.prompts import Side, as_prompt, has_task


class MtebEncoder:
    """Stage 1 as an encoder of MTEB.

    Args:
        recipe: None: the one that the backbone's report supports.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, **_: Any):
        self.backbone = backbone
        self.recipe = recipe_for(backbone, recipe)
        self.embedder = StandaloneEmbedder(backbone, self.recipe)

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        prompt_type: Any = None,
        **_: Any,
    ) -> Float[np.ndarray, "n hidden"]:
        """Unit vectors of all inputs. Raises BadItem, which names the input by its index."""
        items = read(inputs, self.backbone)
        side: Side = (
            "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
        )
        return self.embedder.encode(items, side, task_of(self.recipe, task_metadata)).numpy()

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


class MtebCrossEncoder:
    """Stage 2 as a cross-encoder of MTEB, scoring by log-odds of a match.

    Raises UnsupportedBackbone when the recipe has no frame.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, **_: Any):
        self.backbone = backbone
        self.recipe = recipe_for(backbone, recipe)
        self.reranker = Reranker.from_recipe(backbone, self.recipe)

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        **_: Any,
    ) -> Float[np.ndarray, " pairs"]:
        """One score per pair. Adjacent pairs of one query share its computation."""
        pairs = list(zip(read(inputs1, self.backbone), read(inputs2, self.backbone), strict=True))
        return self.reranker.margins(pairs)

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return describe(self.backbone, self.recipe, "cross-encoder")


class MtebSearch:
    """The whole of stage 1 as a search model of MTEB: a store of the corpus, whose geometry is
    fitted on it, with the lexical leg that the recipe names.

    Args:
        recipe: None: the one that the backbone's report supports; `Recipe.hybrid` gives any recipe
            a lexical leg.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe | None = None, **_: Any):
        self.backbone = backbone
        self.recipe = recipe_for(backbone, recipe)
        self.retriever = FreeRet(backbone, self.recipe)

    def index(self, corpus: Any, *, task_metadata: Any, encode_kwargs: Any, **_: Any) -> None:
        """Make a store of the corpus, in place of that of an earlier task."""
        items = self._items(corpus, task_metadata, PromptType.document, encode_kwargs)
        self.retriever = FreeRet(self.backbone, self.recipe)
        self.retriever.index(items)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        top_k: int,
        encode_kwargs: Any,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """Scores of the best documents of each query, among those of `top_ranked` if it is given.
        Raises BadItem, which names the query by its id."""
        items = self._items(queries, task_metadata, PromptType.query, encode_kwargs)
        depth = top_k if top_ranked is None else len(self.retriever)
        hits = self.retriever.search_many(items, depth, task=task_of(self.recipe, task_metadata))
        found: dict[str, dict[str, float]] = {}
        for item, ranked in zip(items, hits, strict=True):
            id = item.id or ""
            allowed = None if top_ranked is None else set(top_ranked[id])
            kept = [hit for hit in ranked if allowed is None or hit.id in allowed]
            found[id] = {hit.id: hit.score for hit in kept[:top_k]}
        return found

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return describe(self.backbone, self.recipe, "dense")

    def _items(
        self, rows: Any, task_metadata: Any, prompt_type: PromptType, encode_kwargs: Any
    ) -> list[Item]:
        """The rows of a data set of MTEB, under their ids."""
        batches = create_dataloader(
            rows, task_metadata=task_metadata, prompt_type=prompt_type, **encode_kwargs
        )
        items = read(batches, self.backbone)
        return [item.with_id(id) for item, id in zip(items, rows["id"], strict=True)]


def task_of(recipe: Recipe, task_metadata: Any) -> str | None:
    """The task prior of one of MTEB's tasks; None where the recipe's prompt states no task."""
    if not has_task(as_prompt(recipe.prompt)):
        return None
    return MTEB_TASKS.get(str(task_metadata.type), "same meaning")


def read(inputs: Iterable[Mapping[str, Any]], backbone: Backbone) -> list[Item]:
    """Items from MTEB's batches, which are columns of text, pictures, videos and audio.

    Args:
        inputs: Batches. A cell may be a list of several media.
        backbone: Whose modalities are readable.

    Returns:
        An item per row: pictures, then videos, then audio, and the text last.

    Raises:
        BadItem: A row holds a modality that the backbone does not read; dropping it would score
            another item. Names the row by its index.
    """
    items: list[Item] = []
    readable = _media(backbone)
    for batch in inputs:
        columns = {kind: batch[kind] for kind in ("text", *READERS) if kind in batch}
        if not columns:
            raise BadItem(f"MTEB gave {', '.join(batch)}; text, {', '.join(READERS)} can be read")
        for values in zip(*columns.values(), strict=True):
            row, id = dict(zip(columns, values, strict=True)), f"input {len(items)}"
            media: dict[Any, list[Any]] = {kind: _several(row.get(kind)) for kind in READERS}
            for kind, cells in media.items():
                if cells and kind not in readable:
                    reads = ", ".join(["text", *readable])
                    raise BadItem(f"{id}: this backbone does not read {kind}; it reads {reads}")
            parts = [
                Part(kind, _decoded(kind, value, backbone))
                for kind, cells in media.items()
                for value in cells
            ]
            text = row.get("text") or (None if parts else EMPTY)
            parts += [] if text is None else [Part("text", text)]
            items.append(Item(parts=parts, id=id))
    return items


def _media(backbone: Backbone) -> list[str]:
    """The kinds besides text that the backbone reads."""
    return [kind for kind in backbone.modalities if kind != "text"]


def _several(cell: Any) -> list[Any]:
    if cell is None:
        return []
    return list(cell) if isinstance(cell, list | tuple) else [cell]


def _decoded(kind: str, value: Any, backbone: Backbone) -> Any:
    """Media as MTEB hands them over: decoders of torchcodec, `[frames, 3, height, width]` tensors
    and `{"array", "sampling_rate"}`, in the forms that are read here."""
    if kind == "audio" and hasattr(value, "get_all_samples"):
        samples = value.get_all_samples()
        return {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    if kind == "video":
        if hasattr(value, "get_frames_at"):
            perception = backbone.encoder.perception
            frames = perception.options.frames if perception else 1
            value = value.get_frames_at(indices=even(len(value), frames)).data
        if isinstance(value, torch.Tensor) and value.ndim == 4 and value.shape[1] == 3:
            value = value.permute(0, 2, 3, 1).cpu().numpy()
    return value


def describe(backbone: Backbone, recipe: Recipe, kind: str) -> ModelMeta:
    """Metadata that MTEB stores with results; the revision is a digest of weights and recipe."""
    identity = {"backbone": backbone.fingerprint(), "recipe": recipe.to_json()}
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
            "modalities": ["text", *_media(backbone)],
            "model_type": [kind],
        }
    )


def _matrix(embeddings: Any) -> Tensor:
    return torch.atleast_2d(torch.as_tensor(np.asarray(embeddings)))
