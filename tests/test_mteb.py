"""mteb itself runs our encoder and cross-encoder: its own mock tasks, and one local task."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_DATASETS_OFFLINE"] = "1"

import mteb
import numpy as np
import pytest
import torch
from datasets import Dataset
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.mocks import (
    MockAny2AnyRetrievalI2TTask,
    MockAny2AnyRetrievalT2ITask,
    MockClassificationTask,
    MockRerankingTask,
    MockRetrievalTask,
    MockSTSTask,
)
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol

from freeret.embedder import Embedder
from freeret.mteb import MtebCrossEncoder, MtebEncoder, read
from freeret.recipe import Recipe
from probes import Backbone
from probes.errors import BadItem, UnsupportedBackbone

Tiny = Callable[[str], Backbone]
pytestmark = pytest.mark.filterwarnings("ignore")  # mteb and datasets have warnings of their own
RECIPE = Recipe("prompteol", "attn[-1]", "none", "mcq")


def run(model: Any, task: Any) -> dict[str, Any]:
    """The scores of one task's test split."""
    found = mteb.evaluate(model, task, cache=None, show_progress_bar=False, co2_tracker=False)
    return found.task_results[0].scores["test"][0]


def test_the_protocols_are_met(tiny: Tiny) -> None:
    encoder = MtebEncoder(tiny("llama"), RECIPE)
    judge = MtebCrossEncoder(tiny("llama"), RECIPE)
    assert isinstance(encoder, EncoderProtocol)
    assert isinstance(judge, CrossEncoderProtocol)
    assert not isinstance(encoder, CrossEncoderProtocol)
    assert not isinstance(judge, EncoderProtocol)
    assert encoder.mteb_model_meta.revision != MtebEncoder(
        tiny("llama"), Recipe.e5v()
    ).mteb_model_meta.revision  # fmt: skip


@pytest.mark.parametrize("task", [MockSTSTask, MockClassificationTask, MockRetrievalTask])
def test_text_tasks_run(task: Any, tiny: Tiny) -> None:
    scores = run(MtebEncoder(tiny("llama"), RECIPE), task())
    assert np.isfinite(scores["main_score"])


@pytest.mark.parametrize("task", [MockAny2AnyRetrievalI2TTask, MockAny2AnyRetrievalT2ITask])
def test_image_tasks_run(task: Any, tiny: Tiny) -> None:
    scores = run(MtebEncoder(tiny("qwen2.5-vl"), RECIPE), task())
    assert np.isfinite(scores["main_score"])


def test_pictures_lie_around_their_own_mean(tiny: Tiny) -> None:
    """Uncentred, a picture's kind would outweigh all else in its similarity to a text."""
    encoder = MtebEncoder(tiny("qwen2.5-vl"), dataclasses.replace(RECIPE, geometry="centre"))
    kept = encoder._fit(Embedder(encoder.backbone, "attn[-1]", "prompteol"))
    kinds = {("document", kind) for kind in ("text", "image", "image+text")}
    assert kinds < set(kept.means)
    blind = MtebEncoder(tiny("llama"), encoder.recipe)
    kept = blind._fit(Embedder(blind.backbone, "attn[-1]", "prompteol"))
    assert {signature for _, signature in kept.means} == {"text", ""}


def test_reranking_runs_with_the_cross_encoder(tiny: Tiny) -> None:
    scores = run(MtebCrossEncoder(tiny("llama"), RECIPE), MockRerankingTask())
    assert np.isfinite(scores["main_score"])


class LocalTask(AbsTaskRetrieval):
    """A retrieval task of one's own whose queries are documents: the right one scores 1."""

    metadata = MockRetrievalTask.metadata.model_copy(
        update={"name": "LocalTask", "eval_splits": ["test"]}
    )
    texts = ("one of the word", "Yes the image", "what of it", "No one")

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        corpus = [{"id": f"d{i}", "title": "", "text": t} for i, t in enumerate(self.texts)]
        queries = [{"id": f"q{i}", "text": t} for i, t in enumerate(self.texts)]
        split = {
            "corpus": Dataset.from_list(corpus),
            "queries": Dataset.from_list(queries),
            "relevant_docs": {f"q{i}": {f"d{i}": 1} for i in range(len(self.texts))},
            "top_ranked": None,
        }
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


@pytest.mark.parametrize("geometry", ["none", "whiten"])
def test_a_local_task_is_solved(geometry: Any, tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe("prompteol", "attn[-1]", geometry, None)
    scores = run(MtebEncoder(tiny("llama"), recipe), LocalTask())
    assert scores["ndcg_at_1"] == 1.0


def test_vectors_are_unit_and_similarities_are_cosines(tiny: Tiny) -> None:
    encoder = MtebEncoder(tiny("llama"), RECIPE)
    how: dict[str, Any] = {
        "task_metadata": MockSTSTask.metadata, "hf_split": "test", "hf_subset": "default",
    }  # fmt: skip
    batches = [{"text": ["the word", "Yes"]}, {"text": ["one of the image"]}]
    vectors = encoder.encode(batches, **how)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    torch.testing.assert_close(
        encoder.similarity(vectors, vectors).diagonal(), torch.ones(3), atol=1e-5, rtol=0
    )
    pairs = encoder.similarity_pairwise(vectors, vectors[::-1].copy())
    expected = (vectors * vectors[::-1]).sum(1)
    np.testing.assert_allclose(pairs, expected, atol=1e-5)


def test_the_task_decides_the_prior(tiny: Tiny) -> None:
    encoder = MtebEncoder(tiny("llama"), Recipe.paper())
    found = [
        encoder.encode([{"text": ["the word"]}], task_metadata=task.metadata, prompt_type=side,
                       hf_split="test", hf_subset="default")
        for task, side in [(MockSTSTask, "query"), (MockRetrievalTask, "query"),
                           (MockRetrievalTask, "document")]
    ]  # fmt: skip
    assert all(
        np.abs(a - b).max() > 1e-3 for a, b in zip(found, found[1:] + found[:1], strict=True)
    )


def test_what_cannot_be_read_is_said(tiny: Tiny) -> None:
    with pytest.raises(BadItem, match="audio"):
        read([{"audio": [1]}])
    assert [item.text for item in read([{"text": ["", "a"]}])] == ["(empty)", "a"]
    with pytest.raises(UnsupportedBackbone, match="reranking is off"):
        MtebCrossEncoder(tiny("llama"), Recipe.e5v())
