"""Pictures and videos are indexed, found and judged, and each is looked at once."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from freeret.store.table import Store
from probes.items import Item
from probes.measure.framing import FRAMES, Labels
from probes.media.cache import Processed
from probes.media.perception import Perception
from probes.media.towers import Towers
from probes.model.backbone import Backbone
from tests.commands import run
from tests.media.test_videos import film as film_file
from tests.models import MULTIMODAL
from tests.samples import film, picture, png

Tiny = Callable[[str], Backbone]
RECIPE = Recipe("e5v", "attn[-1]", "none", "mcq")
PICTURES = [picture(40, 40, seed) for seed in range(50)]


def fresh(name: str) -> Backbone:
    model, processor = MULTIMODAL[name]()
    return Backbone.load(model, processor=processor)


def test_fifty_candidates_are_looked_at_fifty_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By indexing them, and never again: not for any query, and not for any pair."""
    encoded: list[str] = []
    plain = Towers.encode

    def counted(towers: Towers, media: Sequence[Processed], device: Any) -> list[Processed]:
        encoded.extend(one.text for one in media)
        return plain(towers, media, device)

    monkeypatch.setattr(Towers, "encode", counted)
    retriever = FreeRet(fresh("llava"), RECIPE)
    retriever.index([{"id": f"p{i:02}", "image": p} for i, p in enumerate(PICTURES)], tmp_path)
    assert len(encoded) == 50 + 2, "with two on which the shared prefix is tried"
    for query in ("the word", "one of the image", {"image": PICTURES[7], "text": "user"}):
        hits = retriever.search(query, top_n=50, rerank=50)
        assert len({hit.id for hit in hits}) == 50
        assert all(hit.stage2_score is not None for hit in hits)
    assert len(encoded) == 50 + 2


def test_unchanged_pictures_are_neither_decoded_nor_processed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their hashes say that they are stored, before their rows are made."""
    prepared: list[int] = []
    plain = Perception.pieces
    monkeypatch.setattr(
        Perception, "pieces", lambda self, *a: prepared.append(1) or plain(self, *a)
    )
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        PICTURES[i].save(folder / f"{i}.png")
    retriever = FreeRet(fresh("llava"), RECIPE)
    assert retriever.index(folder, tmp_path / "store").added == 4
    before = len(prepared)
    assert before > 0
    assert retriever.index(folder).unchanged == 4
    assert len(prepared) == before
    PICTURES[9].save(folder / "0.png")
    assert (done := retriever.index(folder)).replaced == 1, done
    assert len(prepared) == before + 1


@torch.no_grad()
def plain_margin(backbone: Backbone, query: str, candidate: Item) -> float:
    """By whole prompts, pixels and all, through transformers alone."""
    row = backbone.row(FRAMES["mcq"].apply(Item(query), candidate))
    processor = backbone.processor
    media = processor(
        text=[processor.image_token], images=[[candidate.media[0].value]], return_tensors="pt"
    )
    for key in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
        media.pop(key, None)
    types = {key: torch.tensor([values]) for key, values in row.per_token.items()}
    ids = torch.tensor([row.ids])
    logits = backbone.model(
        input_ids=ids, attention_mask=torch.ones_like(ids), **types, **media
    ).logits[0, -1]
    labels = Labels.of(backbone, FRAMES["mcq"])
    sides = [logits[list(ids)].logsumexp(-1) for ids in (labels.positive, labels.negative)]
    return (sides[0] - sides[1]).item()


@pytest.mark.parametrize("name", MULTIMODAL)
def test_margins_are_those_of_the_plain_path(name: str) -> None:
    """With features from the cache and a shared prefix, as without both."""
    backbone = fresh(name)
    candidates = [Item(images=[p]) for p in (*PICTURES[:3], picture(64, 32))]
    expected = [[plain_margin(backbone, q, c) for c in candidates] for q in ("the word", "user")]
    found = Reranker(backbone, "mcq")
    for _ in range(2):
        margins = found.margins([(q, c) for q in ("the word", "user") for c in candidates])
        assert np.abs(margins.reshape(2, 4) - np.array(expected)).max() <= 1e-4


def test_folders_of_pictures_and_videos_are_searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    recipe = RECIPE.save(tmp_path / "recipe.json")
    folder = tmp_path / "in"
    (folder / "films").mkdir(parents=True)
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(picture(seed=seed)))
    (folder / "films" / "a.mp4").write_bytes(film_file([0, 4, 8]))
    (folder / "note.txt").write_text("the word")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    store = tmp_path / "store"
    how: list[Any] = ["--store", store, "--model", tmp_path / "model", "--recipe", recipe]
    assert run("index", folder, *how) == 1
    assert "in/broken.jpg': cannot read the image" in capsys.readouterr().err
    assert run("index", folder, "--skip-bad", *how) == 0
    assert "5 added, 0 replaced, 0 unchanged, 1 skipped" in capsys.readouterr().out

    def hits(*arguments: Any) -> list[dict]:
        assert run("search", store, *arguments, "--json") == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    first = hits("--image", folder / "1.png")[0]
    assert (first["id"], first["score"]) == ("in/1.png", pytest.approx(1, abs=1e-5))
    assert first["media"] == [{"kind": "image", "path": str(folder / "1.png")}]
    with_text = hits("the word", "--image", folder / "1.png", "--top-n", 2)
    assert len(with_text) == 2
    assert hits("the word")[0]["id"] == "in/note.txt"
    assert all(hit["stage2_score"] for hit in hits("the word", "--rerank", 5))
    assert run("search", store, "--image", folder / "1.png") == 0
    assert "1.png" in capsys.readouterr().out
    assert run("answer", store, "the word") == 0
    capsys.readouterr()
    for bad, said in (
        (["--image", folder / "broken.jpg"], "the query: cannot read"),
        (["--image", folder / "none.png"], "there is no picture"),
        ([], "nothing to search with"),
    ):
        assert run("search", store, *bad) == 1
        assert f"freeret: {said}" in capsys.readouterr().err


def test_pictures_with_captions_are_indexed_and_pruned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    recipe, folder = RECIPE.save(tmp_path / "recipe.json"), tmp_path / "in"
    folder.mkdir()
    rows = [
        f'{{"id": "{k}", "image": "{k}.png", "caption": "the word", "of": {k}, "no": 1}}\n'
        for k in range(3)
    ]
    (folder / "rows.jsonl").write_text("".join(rows))
    for k in range(3):
        (folder / f"{k}.png").write_bytes(png(picture(seed=k)))
    store = tmp_path / "store"
    how: list[Any] = ["--store", store, "--model", tmp_path / "model", "--recipe", recipe]
    assert run("index", folder / "rows.jsonl", *how) == 1
    err = capsys.readouterr().err
    assert "rows.jsonl:1: no text in the field 'text'; fields: id, image, caption" in err
    assert "--image-field" in err
    how += ["--text-field", "caption", "--image-field", "image", "--metadata-field", "of"]
    assert run("index", folder / "rows.jsonl", *how) == 0
    assert "3 added, 0 replaced, 0 unchanged, 0 skipped" in capsys.readouterr().out
    for k, item in enumerate(Store.open(store).items(["0", "1", "2"])):
        assert item.signature == "image+text"
        assert [part.value for part in item.parts] == [folder / f"{k}.png", "the word"]
        assert item.metadata == {"of": k}
    (folder / "rows.jsonl").write_text(rows[2])
    (folder / "other.docx").write_bytes(b"")
    for k in range(3):
        (folder / f"{k}.png").rename(folder / f"{k}.jfif")
    (folder / "rows.jsonl").write_text(rows[2].replace("png", "jfif"))
    assert run("index", folder, "--prune", *how) == 0
    out = capsys.readouterr().out
    assert "3 added, 1 replaced, 0 unchanged, 0 skipped, 2 pruned" in out
    assert "1 file passed over: 1 .docx" in out


def test_media_in_memory_are_found_again(tmp_path: Path) -> None:
    """The store holds their content: another process can judge and answer with them."""
    first = FreeRet(fresh("qwen2.5-vl"), RECIPE)
    first.index([{"id": "p", "image": PICTURES[0]}, {"id": "v", "video": film()}], tmp_path)
    before = first.search({"video": film()}, rerank=2)
    again = FreeRet.load(tmp_path, fresh("qwen2.5-vl"))
    after = again.search({"video": film()}, rerank=2)
    assert [h.id for h in again.search({"video": film()})] == ["v", "p"]
    assert [(h.id, h.score) for h in after] == [
        (h.id, pytest.approx(h.score, abs=1e-5)) for h in before
    ]
    assert again.answer("the word").text == first.answer("the word").text
