"""MMEB and MMEB-V2 are read as they are published, wherever their archives were unpacked."""

import json
import shutil
from pathlib import Path

import pytest

from freeret.evaluate.loaders import find_mmeb, load_mmeb, suite
from freeret.evaluate.loaders.mmeb import images as mmeb
from probes.errors import BadFile
from tests import published
from tests.published import Pictures, lines, mmeb_row, parquet, signatures


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MMEB as it is published; tests leave it as it is."""
    return published.mmeb_eval(tmp_path_factory.mktemp("mmeb"))


# ------------------------------------------------------------------------------------- images


def test_all_of_mmeb(first: Path) -> None:
    assert find_mmeb(first) == list(mmeb.NAMES)
    assert set(mmeb.NAMES) == set(published.MMEB)
    assert len(mmeb.NAMES) == 36
    for load in suite(f"mmeb:{first}"):
        dataset = load()
        assert len(dataset.queries) == 2, dataset.name
        assert dataset.metrics == ("P@1",)


def test_a_picture_query_has_text_documents(first: Path) -> None:
    dataset = load_mmeb(first, "ImageNet-1K")
    path = first / "eval_images" / "ImageNet-1K" / "Test" / "query_0.jpg"
    assert dataset.queries[0].media[0].value == path
    texts = ["one of the words", "the image", "user"]
    assert [d.text for d in dataset.documents] == texts
    assert dataset.candidates is not None
    text = {d.id: d.text for d in dataset.documents}
    own = {q: [text[id] for id in ids] for q, ids in dataset.candidates.items()}
    assert own == {"1": texts, "2": [*texts[1:], texts[0]]}
    right = {q: [text[id] for id in row] for q, row in dataset.judgements.items()}
    assert right == {"1": texts[:1], "2": texts[1:2]}, "the first target is right"
    assert (dataset.group, dataset.task) == ("classification", "classification")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ImageNet-1K", ("image", "text")),
        ("N24News", ("image+text", "text")),
        ("HatefulMemes", ("image+text", "text")),
        ("Country211", ("image", "text")),
        ("ChartQA", ("image+text", "text")),
        ("MSCOCO_i2t", ("image", "text")),
        ("VisualNews_i2t", ("image", "text")),
        ("MSCOCO_t2i", ("text", "image")),
        ("VisDial", ("text", "image")),
        ("WebQA", ("text", "image+text")),
        ("NIGHTS", ("image", "image")),
        ("CIRR", ("image+text", "image")),
        ("OVEN", ("image+text", "image+text")),
        ("RefCOCO", ("image+text", "image")),
        ("RefCOCO-Matching", ("image+text", "image+text")),
    ],
)
def test_an_instruction_beside_a_picture_is_dropped(
    name: str, expected: tuple[str, str], first: Path
) -> None:
    """An item of a picture and "Represent the given image." holds the picture alone."""
    assert signatures(load_mmeb(first, name)) == expected


def test_text_beside_an_instruction_stays_as_it_is(first: Path) -> None:
    texts = {name: load_mmeb(first, name).queries[0].text for name in ("ChartQA", "VisDial")}
    assert texts == {
        "ChartQA": "Represent the given image with the following question: What is it?",
        "VisDial": "Represent the given dialogue about an image, which is used for image "
        "retrieval: Q:is the photo in color\nA:yes",
    }


def test_a_text_without_a_picture_keeps_its_instruction(tmp_path: Path) -> None:
    row = mmeb_row("a", "", ["Represent the given image.", "b"], ["", ""])
    lines(tmp_path / "VOC2007" / "test.jsonl", [row])
    documents = load_mmeb(tmp_path, "VOC2007").documents
    assert [d.text for d in documents] == ["Represent the given image.", "b"]


def test_the_task_of_a_dataset_says_the_instruction(first: Path) -> None:
    assert load_mmeb(first, "MSCOCO_i2t").task == "caption"
    assert load_mmeb(first, "OVEN").task == "question"
    assert "hateful" in load_mmeb(first, "HatefulMemes").queries[0].text, "Yes and No answer it"


def test_the_instructed_layout_as_json_lines(tmp_path: Path) -> None:
    """As in ziyjiang/MMEB_Test_Instruct: instructions have columns of their own."""
    row = {"qry_inst": "<|image_1|> Represent the image with the question.",
           "qry_text": "What is it?", "qry_img_path": "x.png", "tgt_inst": "",
           "tgt_text": ["a dog", "a cat"], "tgt_img_path": ["", ""]}  # fmt: skip
    lines(tmp_path / "OK-VQA" / "test.jsonl", [row])
    row = {"qry_inst": "Find me an everyday image that matches the given caption:",
           "qry_text": "A cat.", "qry_img_path": "", "tgt_inst": "<|image_1|> Represent the given "
           "image.", "tgt_text": ["", ""], "tgt_img_path": ["x.png", "y.png"]}  # fmt: skip
    lines(tmp_path / "MSCOCO_t2i" / "test.jsonl", [row])
    draw = Pictures()
    for name in ("x", "y"):
        draw.write(tmp_path / f"{name}.png")
    dataset = load_mmeb(tmp_path, "OK-VQA")
    assert dataset.queries[0].text == "Represent the image with the question. What is it?"
    assert (dataset.group, dataset.task) == ("question answering", "question")
    assert signatures(load_mmeb(tmp_path, "MSCOCO_t2i")) == ("text", "image")


def test_ids_do_not_reveal_the_answer(tmp_path: Path) -> None:
    """Ties break by id: were ids numbered as they come, the right one would win every tie."""
    row = mmeb_row("what", "", [f"class {number}" for number in range(40)], [""] * 40)
    parquet(tmp_path / "VOC2007" / "test-00000-of-00001.parquet", [row])
    ids = [d.id for d in load_mmeb(tmp_path, "VOC2007").documents]
    assert ids != sorted(ids, key=str)


@pytest.mark.parametrize("place", ["", "images", "eval_images", "MMEB", "image-tasks/MMEB"])
def test_pictures_wherever_they_are_unpacked(place: str, tmp_path: Path) -> None:
    published.parquet(tmp_path / "NIGHTS" / "test-0.parquet", published.mmeb_rows("NIGHTS"))
    draw = Pictures()
    for row in published.mmeb_rows("NIGHTS"):
        for path in (row["qry_img_path"], *row["tgt_img_path"]):
            draw.write(tmp_path / place / path)
    media = load_mmeb(tmp_path, "NIGHTS").queries[0].media[0].value
    assert media == tmp_path / place / "NIGHTS" / "Test" / "query_0.jpg"


def test_missing_pictures_are_counted(first: Path, tmp_path: Path) -> None:
    root = shutil.copytree(first, tmp_path / "copy")
    for gone in ("query_1.jpg", "target_0.png", "target_2.png"):
        (root / "eval_images" / "CIRR" / "Test" / gone).unlink()
    dataset = load_mmeb(root, "CIRR")
    with pytest.raises(
        BadFile,
        match=r"CIRR: 3 of 5 pictures are missing, the first is CIRR/Test/query_1\.jpg; looked "
        r"in .*/copy, .*eval_images.*images\.zip",
    ):
        dataset.check_readable()
    shutil.rmtree(root / "eval_images" / "CIRR")
    with pytest.raises(BadFile, match="CIRR: 5 of 5 pictures are missing"):
        load_mmeb(root, "CIRR")


def test_incomplete_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"MMEB-eval.*36 datasets.*images\.zip"):
        find_mmeb(tmp_path)
    with pytest.raises(BadFile, match="no dataset 'ImageNet'"):
        load_mmeb(tmp_path, "ImageNet")
    name = "test-00000-of-00001.parquet"
    parquet(tmp_path / "GQA" / name, [{"qry_text": "a", "tgt_text": ["b"]}])
    with pytest.raises(BadFile, match="no column qry_img_path"):
        load_mmeb(tmp_path, "GQA")
    (tmp_path / "EDIS").mkdir()
    (tmp_path / "EDIS" / name).write_text("cut")
    with pytest.raises(BadFile, match=r"EDIS/test.*cannot be read"):
        load_mmeb(tmp_path, "EDIS")
    lines(tmp_path / "NIGHTS" / "test.jsonl", [mmeb_row("a", "", ["b", "c"], ["x.png"])])
    with pytest.raises(BadFile, match="line 1: tgt_text and tgt_img_path must be lists of one"):
        load_mmeb(tmp_path, "NIGHTS")
    (tmp_path / "OVEN").mkdir()
    (tmp_path / "OVEN" / "test.jsonl").write_text(
        json.dumps(mmeb_row("a", "", ["b"], [""])) + "\n{"
    )
    with pytest.raises(BadFile, match=r"OVEN/test\.jsonl, line 2: not JSON"):
        load_mmeb(tmp_path, "OVEN")
    assert find_mmeb(tmp_path) == list(mmeb.NAMES), "the others are refused when they are loaded"
    with pytest.raises(BadFile, match="CIRR: no table below"):
        load_mmeb(tmp_path, "CIRR")
