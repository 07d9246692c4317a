"""Stage 2 reranks the first hits of stage 1, and answers are generated from them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from freeret.hits import Hit, fused
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from probes import Backbone, Item
from probes.measure.fusion import fuse, lead
from tests.retrieve.corpora import PLAIN, ids, texts


def test_only_the_first_hits_are_reranked(filled: FreeRet, backbone: Backbone) -> None:
    plain, judged = (filled.search("the word", top_n=12, rerank=n) for n in (0, 5))
    assert sorted(ids(judged[:5])) == sorted(ids(plain[:5]))
    assert judged[5:] == plain[5:]
    scores = {h.id: h for h in plain}
    reranker = Reranker(backbone, "mcq")
    for hit in judged[:5]:
        [expected] = reranker.predict([("the word", hit.item)])
        assert hit.stage2_score == pytest.approx(expected, abs=1e-5)
        assert hit.stage1_score == scores[hit.id].score
        assert hit.score == pytest.approx(1 + expected, abs=1e-5)
    assert [h.score for h in judged] == sorted((h.score for h in judged), reverse=True)
    every = filled.search("the word", top_n=5, rerank=50)
    assert sorted(ids(every)) == sorted(ids(plain[:5]))


def test_fusion_weighs_both_stages(filled: FreeRet, backbone: Backbone) -> None:
    plain = filled.search("the word", top_n=8)
    fused = FreeRet.load(filled.corpus.store.location, backbone)
    fused.recipe = Recipe("e5v", "attn[-1]", "none", "mcq", fusion=0.5)
    hits = fused.search("the word", top_n=8, rerank=8)
    first = np.array([h.score for h in plain])
    margins = Reranker(backbone, "mcq").margins([("the word", h.item) for h in plain])
    expected = (first - first.mean()) / first.std() + 0.5 * margins
    order = np.argsort(-expected, kind="stable")
    assert ids(hits) == [plain[i].id for i in order]
    np.testing.assert_allclose([h.score for h in hits], 1 + expit(expected[order]), atol=1e-4)
    for hit in hits:
        assert hit.stage2_score == pytest.approx(
            expit(margins[[h.id for h in plain].index(hit.id)]), abs=1e-5
        )


def test_a_query_whose_first_hit_is_far_ahead_is_left_to_stage_1(
    filled: FreeRet, backbone: Backbone
) -> None:
    plain = filled.search("the word", top_n=8)
    ahead = lead([hit.score for hit in plain])
    opened = FreeRet.load(filled.corpus.store.location, backbone)
    opened.recipe = replace(filled.recipe, cascade=ahead - 1e-3)
    assert opened.search("the word", top_n=8, rerank=5) == plain
    opened.recipe = replace(filled.recipe, cascade=ahead + 1e-3)
    expected = filled.search("the word", top_n=8, rerank=5)
    found = opened.search("the word", top_n=8, rerank=5)
    assert ids(found) == ids(expected)
    assert found[0].stage2_score is not None


def test_saturated_scores_keep_the_order_of_the_margins() -> None:
    hits = [Hit(name, 0.5, 0.5, None, Item(name)) for name in "abc"]
    assert ids(fused(hits, np.array([50.0, 70.0, 60.0]), None)) == ["b", "c", "a"]
    nearer = [replace(hits[0], stage1_score=0.4), *hits[1:]]
    assert ids(fused(nearer, np.zeros(3), None)) == ["b", "c", "a"]


def test_fuse() -> None:
    margins = np.array([3.0, -1.0, 0.5])
    assert fuse([0.1, 0.9, 0.5], margins, None).tolist() == margins.tolist()
    assert fuse([0.5, 0.5, 0.5], margins, 2.0).tolist() == (2 * margins).tolist()
    ordered = fuse([0.1, 0.9, 0.5], margins, 0.0)
    assert np.argsort(-ordered).tolist() == [1, 2, 0], "weight 0 is stage 1 alone"


def test_reranking_that_is_off_by_recipe_is_logged(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    why = "AUC 0.50 includes chance"
    recipe = Recipe("e5v", "attn[-1]", "none", None, reasons=("site",), why_not_reranked=why)
    retriever = FreeRet(backbone, recipe)
    retriever.index(texts(10), tmp_path / "s")
    plain = retriever.search("the word", top_n=5)
    assert not caplog.records
    assert retriever.search("the word", top_n=5, rerank=3) == plain
    [record] = caplog.records
    assert record.getMessage() == "not reranked: AUC 0.50 includes chance"


def test_an_answer_is_generated_from_the_hits(
    filled: FreeRet, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    generate = backbone.generate

    def seen(source: Any, max_new_tokens: int) -> str:
        prompts.append(backbone.tokenizer.decode(backbone.row(source).ids))
        return generate(source, max_new_tokens)

    monkeypatch.setattr(backbone, "generate", seen)
    found = filled.answer("Where is 17?", top_n=3, max_new_tokens=4)
    assert isinstance(found.text, str)
    assert ids(found.sources) == ids(filled.search("Where is 17?", top_n=3))
    [prompt] = prompts
    for number, hit in enumerate(found.sources, start=1):
        assert f"[{number}] {hit.item.text}" in prompt
    assert "Where is 17?" in prompt
    judged = filled.answer("Where is 17?", top_n=2, rerank=5, max_new_tokens=1)
    assert ids(judged.sources) == ids(filled.search("Where is 17?", top_n=5, rerank=5)[:2])


def test_long_sources_do_not_push_the_question_out(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str] = []
    monkeypatch.setattr(
        backbone,
        "generate",
        lambda source, _: prompts.append(backbone.tokenizer.decode(backbone.row(source).ids)) or "",
    )
    retriever = FreeRet(backbone, PLAIN)
    retriever.index([f"{k} {'the word ' * 800}" for k in range(5)], tmp_path / "s")
    retriever.answer("Where is the question?")
    assert "Where is the question?" in prompts[0]
