"""mteb itself runs our encoder and cross-encoder: its own mock tasks, and one local task."""

import dataclasses
import os
import types
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
from mteb.models.models_protocols import CrossEncoderProtocol, EncoderProtocol, SearchProtocol

from freeret.embedder import Embedder
from freeret.mteb import MtebCrossEncoder, MtebEncoder, MtebSearch, read
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from probes.errors import BadItem, UnsupportedBackbone
from probes.geometry import unit
from tests.samples import READS, film, picture, sound

Tiny = Callable[[str], Backbone]
pytestmark = pytest.mark.filterwarnings("ignore")  # mteb and datasets have warnings of their own
RECIPE = Recipe("prompteol", "attn[-1]", "none", "mcq")
HOW: dict[str, Any] = {
    "task_metadata": MockSTSTask.metadata, "hf_split": "test", "hf_subset": "default",
}  # fmt: skip


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
    kept = encoder.embedder.geometry(Embedder(encoder.backbone, "attn[-1]", "prompteol"))
    kinds = {("document", kind) for kind in ("text", "image", "image+text")}
    assert kinds < set(kept.means)
    blind = MtebEncoder(tiny("llama"), encoder.recipe)
    kept = blind.embedder.geometry(Embedder(blind.backbone, "attn[-1]", "prompteol"))
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


def test_a_store_of_the_corpus_is_searched_as_by_the_retriever(tiny: Tiny) -> None:
    recipe = dataclasses.replace(RECIPE, geometry="centre", lexical=0.5)
    model, task = MtebSearch(tiny("llama"), recipe), LocalTask()
    assert isinstance(model, SearchProtocol)
    assert not isinstance(model, EncoderProtocol)
    assert run(model, task)["ndcg_at_1"] == 1.0
    corpus, queries = (
        Dataset.from_list([{"id": f"{c}{i}", "text": text} for i, text in enumerate(task.texts)])
        for c in "dq"
    )
    how: dict[str, Any] = {"task_metadata": LocalTask.metadata, "encode_kwargs": {}}
    model.index(corpus, **how)
    direct = FreeRet(tiny("llama"), recipe)
    direct.index([Item(text, id=f"d{i}") for i, text in enumerate(LocalTask.texts)])
    expected = direct.search_many(list(LocalTask.texts), 3)
    found = model.search(queries, top_k=3, **how)
    for number, hits in enumerate(expected):
        assert found[f"q{number}"] == pytest.approx({hit.id: hit.score for hit in hits}, abs=1e-5)
    some = model.search(queries, top_k=3, top_ranked={f"q{i}": ["d1"] for i in range(4)}, **how)
    assert [list(row) for row in some.values()] == [["d1"]] * 4


@pytest.mark.parametrize("geometry", ["none", "whiten"])
def test_a_local_task_is_solved(geometry: Any, tiny: Tiny, tmp_path: Path) -> None:
    recipe = Recipe("prompteol", "attn[-1]", geometry, None)
    scores = run(MtebEncoder(tiny("llama"), recipe), LocalTask())
    assert scores["ndcg_at_1"] == 1.0


MIXED: dict[str, dict[str, Any]] = {
    "text+video": {"text": ["what moves", "the word"], "video": [film(), film(seed=1)]},
    "audio+text": {"audio": [sound(), sound(seed=1)], "text": ["what is heard", "the word"]},
    "image+video": {"image": [picture(), picture(seed=1)], "video": [film(), film(seed=1)]},
    "image": {"image": [[picture(), picture(32, 64, 2)], [picture(seed=1)]]},
    "image+text": {"text": ["two", "one"], "image": [[picture(), picture(seed=2)], picture()]},
    "video": {"video": [torch.from_numpy(film()).permute(0, 3, 1, 2), film(seed=1)]},
    "audio": {"audio": [sound(), sound(0.3, 1)]},
}


@pytest.mark.parametrize("signature", MIXED)
def test_every_column_is_read(signature: str, tiny: Tiny) -> None:
    backbone, batch = tiny("qwen2.5-omni"), MIXED[signature]
    items = read([batch], backbone)
    assert [item.signature for item in items] == [signature] * 2
    kinds = [part.kind for part in items[0].parts]
    order = ["image", "video", "audio", "text"]
    assert kinds == sorted(kinds, key=order.index), "media first, then text"
    assert len(items[0].media) == sum(
        len(cells[0]) if isinstance(cells[0], list) else 1
        for kind, cells in batch.items() if kind != "text"
    )  # fmt: skip
    vectors = MtebEncoder(backbone, RECIPE).encode([batch], **HOW)
    alone = Embedder(backbone, RECIPE.site, RECIPE.prompt)
    media = {f"{kind}s": [v for cell in batch.get(kind, [[]])[:1]
                          for v in (cell if isinstance(cell, list) else [cell])]
             for kind in ("image", "video", "audio")}  # fmt: skip
    media["videos"] = [v if isinstance(v, np.ndarray) else film() for v in media["videos"]]
    expected = alone.encode_document([Item(batch.get("text", [None])[0], **media)])
    np.testing.assert_allclose(vectors[0], unit(expected)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("name", ["llama", "llava", "qwen2.5-vl"])
def test_a_column_that_the_backbone_does_not_read_is_named(
    kind: str, name: str, tiny: Tiny
) -> None:
    """Left out, the text beside it would be scored alone."""
    values = {"image": picture(), "video": film(), "audio": sound()}
    reads = READS.get(name, set())
    batch = {"text": ["a", "b"], kind: [values[kind]] * 2}
    if kind in reads:
        assert read([batch], tiny(name))[0].signature == "+".join(sorted(["text", kind]))
        return
    for ask in (
        lambda: MtebEncoder(tiny(name), RECIPE).encode([batch], **HOW),
        lambda: MtebCrossEncoder(tiny(name), RECIPE).predict(
            [{"text": ["a", "b"]}], [batch], **HOW
        ),
    ):
        with pytest.raises(BadItem, match=f"input 0: this backbone does not read {kind}"):
            ask()


@pytest.mark.parametrize("name", ["llama", "llava", "qwen2.5-vl", "qwen2.5-omni"])
def test_the_modalities_are_those_of_the_backbone(name: str, tiny: Tiny) -> None:
    meta = MtebEncoder(tiny(name), RECIPE).mteb_model_meta
    assert set(meta.modalities) == {"text"} | READS.get(name, set())


def test_videos_of_a_decoder_are_sampled(tiny: Tiny) -> None:
    """torchcodec decodes the frames that are asked for, as `[frames, 3, height, width]`."""
    frames = film(20)

    class Decoder:
        def __len__(self) -> int:
            return len(frames)

        def get_frames_at(self, indices: list[int]) -> Any:
            chosen = torch.from_numpy(frames[indices]).permute(0, 3, 1, 2)
            return types.SimpleNamespace(data=chosen)

    class Samples:
        def get_all_samples(self) -> Any:
            data = torch.from_numpy(sound()["array"])[None]
            return types.SimpleNamespace(data=data, sample_rate=16_000)

    backbone = tiny("qwen2.5-omni")
    [item] = read([{"video": [Decoder()], "audio": [Samples()]}], backbone)
    video, audio = (part.value for part in item.parts)
    assert np.array_equal(video, frames[[0, 3, 5, 8, 11, 14, 16, 19]])
    assert audio["sampling_rate"] == 16_000
    assert np.array_equal(audio["array"][0], sound()["array"])


@pytest.mark.parametrize("geometry", ["none", "centre"])
def test_every_task_has_its_prompt_and_geometry(geometry: Any, tiny: Tiny) -> None:
    """An encoder that was asked for another task before answers as a new one does."""
    recipe = dataclasses.replace(Recipe.paper(), geometry=geometry)
    batch, used = [{"text": ["the word", "one of"]}], MtebEncoder(tiny("llama"), recipe)
    for task in (MockSTSTask, MockRetrievalTask, MockClassificationTask, MockSTSTask):
        how: Any = HOW | {"task_metadata": task.metadata}
        fresh = MtebEncoder(tiny("llama"), recipe)
        np.testing.assert_allclose(used.encode(batch, **how), fresh.encode(batch, **how), atol=1e-6)


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
    pairs = encoder.similarity_pairwise(3 * vectors, vectors[::-1].copy())
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
    with pytest.raises(BadItem, match="MTEB gave smell; text, image, video, audio"):
        read([{"smell": [1]}], tiny("llama"))
    texts = read([{"text": ["", "a"]}], tiny("llama"))
    assert [item.text for item in texts] == ["(empty)", "a"]
    with pytest.raises(UnsupportedBackbone, match="this recipe does not rerank"):
        MtebCrossEncoder(tiny("llama"), Recipe.e5v())
