"""A lone item is a list of one wherever several are expected, and names are looked up."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from freeret.sources.files import Files
from freeret.store.indexing import Indexed
from freeret.store.payload import pack, unpack
from freeret.store.table import Store
from probes import FRAMES, lexicalization_curves, record
from probes.errors import BadItem, BadSetting
from probes.items import Item, as_item, as_items, several
from probes.measure.diagnostic.extractions import diagnose
from probes.measure.framing import as_frames, framing_bias
from probes.measure.injection import injection_shifts
from probes.model.backbone import Backbone
from probes.model.sites import Site, as_sites
from probes.prompts import E5V
from tests.samples import film, picture, png

Tiny = Callable[[str], Backbone]
PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")
LONE: list[Any] = [
    "the word", Item("the word"), {"text": "the word"}, {"role": "user", "content": "the word"},
    E5V.apply(Item("the word")),
]  # fmt: skip


@pytest.mark.parametrize("lone", LONE, ids=lambda lone: type(lone).__name__)
def test_a_lone_source_is_one_row(lone: Any, tiny: Tiny) -> None:
    backbone = tiny("llama")
    assert len(backbone.encode(lone)) == 1
    states = record(backbone, lone, "norm")
    expected = record(backbone, backbone.encode([lone]), ["norm"])
    assert torch.equal(states["norm"], expected["norm"])
    assert record(backbone, [lone, "a"], Site.parse("attn[-1]"))["attn[-1]"].shape[0] == 2
    assert len(lexicalization_curves(backbone, lone).words) == 1


def test_a_lone_query_or_document_is_one(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny("llama")
    retriever = FreeRet(backbone, PLAIN)
    assert retriever.index("texts", tmp_path / "s") == Indexed(added=1)
    assert [hit.item.text for hit in retriever.search("x")] == ["texts"]
    assert len(retriever.search_many("x")) == 1
    assert len(retriever.search_many({"text": "x"})) == 1
    with pytest.raises(BadSetting, match="one example of text alone"):
        FreeRet(backbone, PLAIN, examples="examples")
    for item in ("abc", Item("abc"), {"text": "abc"}):
        assert Embedder(backbone).encode(item).shape[0] == 1
        assert len(Reranker(backbone).rank("q", item)) == 1
    assert retriever.delete(retriever.search("x")[0].id) == 1


def test_names_are_looked_up(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.stores import save_tiny

    folder = save_tiny(tmp_path / "model")
    for name in (folder, str(folder)):
        retriever = FreeRet(name, PLAIN)
        retriever.index(["a text"], tmp_path / "s")
        assert FreeRet.load(tmp_path / "s", name).search("a")[0].item.text == "a text"
    assert as_frames("yes_no") == as_frames(["yes_no"]) == [FRAMES["yes_no"]]
    assert as_frames(FRAMES) == as_frames(list(FRAMES)) == list(FRAMES.values())
    with pytest.raises(BadSetting, match="there is no frame 'no_yes'; frames: "):
        as_frames(["yes_no", "no_yes"])
    backbone = tiny("llama")
    monkeypatch.setattr("probes.measure.framing.matches", lambda: rows)
    monkeypatch.setattr("probes.measure.injection.matches", lambda: rows)
    rows = [{"query": "the word", "candidate": "the image", "match": m} for m in (True, False)]
    assert [bias.frame for bias in framing_bias(backbone, "yes_no")] == ["yes_no"]
    assert {shift.frame for shift in injection_shifts(backbone, ["yes_no"])} == {"yes_no"}
    assert as_sites("attn[-1]", 4) == as_sites(["attn[-1]"], 4) == as_sites(Site("attn", -1), 4)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("prompts", ["e5v", ["e5v"]])
def test_a_diagnostic_takes_names(
    prompts: Any, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def embed(_: Any, prompt: Any, __: str, sites: list[str], **___: Any) -> Any:
        asked.append((prompt, sites))
        raise KeyboardInterrupt

    monkeypatch.setattr("probes.measure.diagnostic.extractions.embed_set", embed)
    with pytest.raises(KeyboardInterrupt):
        diagnose(tiny("llama"), prompts, "norm")
    assert asked == [(E5V, ["norm"])]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("filter", ["x", ["year"], 3, b"x", {"at": b"\xff"}])
def test_an_invalid_filter_is_refused(filter: Any, tiny: Tiny, tmp_path: Path) -> None:
    retriever = FreeRet(tiny("llama"), PLAIN)
    retriever.index(["a"], tmp_path / "s")
    with pytest.raises(BadSetting, match=r"is no filter: give the|metadata cannot hold"):
        retriever.search("x", filter=filter)


def test_a_filter_is_read_as_metadata_is(tiny: Tiny, tmp_path: Path) -> None:
    import datetime

    day = datetime.date(2024, 5, 6)
    retriever = FreeRet(tiny("llama"), PLAIN)
    retriever.index(
        [{"text": "a", "day": day, "n": np.int64(1)}, {"text": "b", "n": 2}], tmp_path / "s"
    )
    for filter in ({"day": day}, {"n": np.int64(1)}, {"n": (1, 3)}, {"n": {1}}):
        for memory in (4.0, 0.0):
            retriever.memory = memory
            assert [hit.item.text for hit in retriever.search("x", filter=filter)] == ["a"]
    assert len(retriever.search("x", filter={})) == len(retriever.search("x", filter=None)) == 2


# --------------------------------------------------------------------------- paths in an index


def test_paths_are_read_as_files_are(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.txt").write_text("the word")
    (folder / "b.docx").write_bytes(b"")
    table = tmp_path / "rows.jsonl"
    table.write_text('{"id": "r", "text": "of"}\n')
    retriever = FreeRet(tiny("llama"), PLAIN)
    everything = {"docs/a.txt", "r"}
    passed_over = {".docx": 1}
    for items in ([folder, table], (table, folder), Files([table, folder])):
        done = retriever.index(items, tmp_path / "s")
        assert set(retriever.corpus.store.hashes()) == everything
        assert done.passed_over == passed_over
    assert retriever.index(folder) == Indexed(unchanged=1, passed_over=passed_over)
    assert retriever.index(folder / "a.txt") == Indexed(unchanged=1)
    mixed = iter(["in between", folder, {"text": "one"}, table])
    assert retriever.index(mixed) == Indexed(added=2, unchanged=2, passed_over=passed_over)
    for wrong in (tmp_path / "none", [tmp_path / "none"], ["a", tmp_path / "none"]):
        with pytest.raises(BadItem, match=r"there is nothing at .*none"):
            retriever.index(wrong)
    done = retriever.index(["a", tmp_path / "none"], on_error="skip")
    assert (done.added, list(done.skipped)) == (1, [str(tmp_path / "none")])
    assert retriever.index([]) == Indexed()


# ------------------------------------------------------------------------------- bare content


def test_the_kind_of_media_follows_from_their_content(tmp_path: Path) -> None:
    """Bytes and arrays are media."""
    from tests.media.test_audio import recording, tone
    from tests.media.test_videos import film as film_file

    path = tmp_path / "a.png"
    path.write_bytes(png(picture()))
    content, shot = png(picture()), np.asarray(picture())
    image: list[Any] = [
        content, bytearray(content), memoryview(content), io.BytesIO(content), path, picture(),
        {"bytes": content, "path": None}, {"bytes": content, "path": "a.jpg"}, {"path": str(path)},
        {"bytes": None, "path": str(path)}, shot, torch.from_numpy(shot.copy()), shot[:, :, :1],
        {"image": {"bytes": content, "path": "x"}}, {"image": io.BytesIO(content)}, shot[:, :, 0],
    ]  # fmt: skip
    with path.open("rb") as opened:
        image.append(as_item(opened))
    for value in image:
        for item in (as_item(value), *as_items(value), *as_items([value])):
            assert item.signature == "image", type(value)
            assert unpack("x", *pack(item)).signature == "image"
    sound = recording(tone()[None], 8000, "wav", "pcm_f32le", "flt")
    for value, kind in ((film_file([0, 4, 8]), "video"), (sound, "audio"), (film(), "video")):
        [item] = as_items(value)
        assert item.signature == kind
        assert as_item({kind: value}).parts[0].kind == kind


def test_bare_media_are_indexed(tiny: Tiny, tmp_path: Path) -> None:
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe.e5v())
    content = png(picture())
    assert retriever.index(content, tmp_path / "s") == Indexed(added=1)
    forms = [content, io.BytesIO(content), {"bytes": content, "path": None}, {"image": content}]
    assert retriever.index(forms) == Indexed(unchanged=4)
    assert retriever.search(content)[0].score == pytest.approx(1, abs=1e-5)
    assert len(retriever.search_many(np.asarray(picture()))) == 1
    [stored] = Store.open(tmp_path / "s").items([retriever.search(content)[0].id])
    assert stored.media[0].value == content


def test_a_value_without_items_is_refused() -> None:
    class Frame:
        iloc = columns = ()

    for values, said in ((Frame(), "give frame.to_dict"), (3, "type int as items")):
        with pytest.raises(BadItem, match=said):
            several(values)
    with pytest.raises(BadItem, match="an array of float64"):
        as_items(np.zeros((2, 3)))
    assert [item.text for item in as_items(np.array(["a", "b"]))] == ["a", "b"]


# ---------------------------------------------------------------------------- order of content

P, Q = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")


@pytest.mark.parametrize(
    ("value", "order"),
    [
        ({"text": "a", "image": P}, ["a", P]),
        ({"image": P, "text": "a"}, [P, "a"]),
        ({"text": ["a", "b"], "image": [P, Q]}, ["a", P, "b", Q]),
        ({"image": [P, Q], "text": ["a", "b"]}, [P, "a", Q, "b"]),
        ({"image": [P, Q], "text": "a"}, [P, Q, "a"]),
        ({"text": "a", "image": [P, Q]}, ["a", P, Q]),
        ({"text": ["a", "b"], "audio": "s", "image": (P, Q)}, ["a", P, "b", Q, "s"]),
        ({"audio": "s", "text": ["a"], "image": [P], "video": [P, Q]}, ["s", "a", P, [P, Q]]),
        ({"text": [], "image": [P, Q]}, [P, Q]),
        ({"text": None, "image": P}, [P]),
        ({"id": 1, "text": "a", "when": "x", "image": P, "metadata": {}}, ["a", P]),
    ],
)
def test_the_order_of_the_keys_is_the_order_of_the_content(value: dict, order: list) -> None:
    assert [part.value for part in as_item(value).parts] == order


@pytest.mark.parametrize(
    "value", [{"text": ["a", "b"], "image": [P]}, {"text": ["a"], "image": [P, Q]}]
)
def test_lists_of_unequal_length_are_refused(value: dict) -> None:
    with pytest.raises(BadItem, match=r"by position, and here are . of text and . of"):
        as_item(value)


def test_model_and_store_keep_the_order(tiny: Tiny) -> None:
    backbone = tiny("qwen2.5-vl")
    a = {"text": ["one word", "of the"], "image": [picture(seed=1), picture(seed=2)]}
    b = {"image": a["image"], "text": a["text"]}
    rows = [backbone.row(value) for value in (a, b)]
    assert rows[0].ids != rows[1].ids
    for value, row in zip((a, b), rows, strict=True):
        item = as_item({"id": "x", **value})
        back = unpack("x", *pack(item))
        assert [part.kind for part in back.parts] == [part.kind for part in item.parts]
        assert backbone.row(back).ids == row.ids
