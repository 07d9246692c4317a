"""MMEB-V2 is read as it is published: videos, moments and visual documents."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from freeret.evaluate.loaders import find_mmeb_v2, load_mmeb_v2, suite
from freeret.evaluate.loaders.mmeb import v2 as mmeb_v2
from freeret.evaluate.loaders.mmeb.media import frames_in
from probes.errors import BadFile
from tests import published
from tests.published import Pictures, lines, signatures


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MMEB-V2 as it is published; tests leave it as it is."""
    return published.mmeb_v2(tmp_path_factory.mktemp("mmeb-v2"))


def test_listing_reads_no_table(second: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a table was read")

    monkeypatch.setattr(pq, "ParquetFile", refuse)
    monkeypatch.setattr(json, "loads", refuse)
    assert len(suite(f"mmeb-v2:{second}")) == 78


def test_all_of_mmeb_v2(second: Path) -> None:
    loaders = suite(f"mmeb-v2:{second}")
    datasets = {dataset.name: dataset for dataset in (load() for load in loaders)}
    assert len(datasets) == 78
    groups: dict[str, int] = {}
    for dataset in datasets.values():
        groups[dataset.group] = groups.get(dataset.group, 0) + 1
    assert groups == {
        "classification": 10, "question answering": 10, "retrieval": 12, "grounding": 4,
        "video classification": 5, "video retrieval": 5, "video question answering": 5,
        "moment retrieval": 3, "ViDoRe v1": 10, "ViDoRe v2": 4, "VisRAG": 6, "VisDoc-OOD": 4,
    }  # fmt: skip
    documents = [d for d in datasets.values() if d.group in ("ViDoRe v1", "VisRAG", "VisDoc-OOD")]
    assert {d.metrics for d in documents} == {("nDCG@5",)}
    assert datasets["NExTQA"].metrics == ("P@1",)


def test_a_dataset_of_mmeb_v2_by_its_name(second: Path) -> None:
    for name in ("HMDB51", "ChartQA", "MVBench", "MomentSeeker", "VisRAG_MP-DocVQA"):
        assert [load().name for load in suite(f"mmeb-v2:{second}/{name}")] == [name]
    with pytest.raises(BadFile, match="no dataset 'HMDB'"):
        load_mmeb_v2(second, "HMDB")


def test_parts_that_are_not_there_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BadFile, match=r"holds no dataset of MMEB-V2.*tens of GB.*visdoc-tasks"):
        find_mmeb_v2(tmp_path)
    published.video_retrieval(tmp_path, Pictures())
    assert find_mmeb_v2(tmp_path) == ["MSR-VTT", "MSVD", "DiDeMo", "YouCook2", "VATEX"]
    said = [record.message for record in caplog.records]
    assert len(said) == 5
    assert any("moment retrieval; left out: QVHighlight, Charades-STA, Moment" in s for s in said)


def test_a_part_that_is_there_is_expected_whole(tmp_path: Path) -> None:
    published.video_retrieval(tmp_path, Pictures())
    (tmp_path / "video-tasks" / "data" / "msvd.jsonl").unlink()
    assert "MSVD" in find_mmeb_v2(tmp_path)
    with pytest.raises(BadFile, match=r"MSVD: no table video-tasks/data/msvd\.jsonl"):
        load_mmeb_v2(tmp_path, "MSVD")


def test_video_classification(second: Path) -> None:
    dataset = load_mmeb_v2(second, "HMDB51")
    assert signatures(dataset) == ("video", "text")
    assert [(d.id, d.text) for d in dataset.documents] == [("a_word", "a word"), ("run", "run")]
    assert dataset.judgements == {"1": {"run": 1}, "2": {"a_word": 1}}
    assert dataset.candidates is None
    assert dataset.note == "candidates are the labels that occur"
    assert "video_classification_utils.py" in load_mmeb_v2(second, "K700").note


def test_frames_are_sampled_as_in_the_benchmark(tmp_path: Path) -> None:
    """`np.linspace(0, n - 1, 8, dtype=int)` over the frames in the order of their numbers."""
    Pictures().frames(tmp_path, 12, "frame_{}.jpg")
    (tmp_path / "notes.txt").write_text("no frame")
    assert [path.stem for path in frames_in(tmp_path)] == [
        f"frame_{i}" for i in (0, 1, 3, 4, 6, 7, 9, 11)
    ]
    Pictures().frames(tmp_path / "few", 5)
    assert len(frames_in(tmp_path / "few")) == 5


def test_labels_without_a_query_are_documents(second: Path, tmp_path: Path) -> None:
    root = shutil.copytree(second / "video-tasks", tmp_path / "video-tasks").parent
    (root / "video-tasks" / "data" / "k700.labels.txt").write_text("run\nclap\na_word\n")
    dataset = load_mmeb_v2(root, "K700")
    assert [d.id for d in dataset.documents] == ["a_word", "clap", "run"]
    assert dataset.note == ""


def test_a_rows_own_labels_and_its_first_thousand_rows(second: Path, tmp_path: Path) -> None:
    dataset = load_mmeb_v2(second, "SmthSmthV2")
    both = ["Closing something", "Opening something"]
    assert dataset.candidates == {"1": both, "2": both[::-1]}
    assert dataset.judgements == {"1": {both[0]: 1}, "2": {both[1]: 1}}
    rows = [{"video_id": 7, "pos_text": both[0], "neg_text": both}] * 1001
    lines(tmp_path / "video-tasks" / "data" / "ssv2.jsonl", rows)
    Pictures().frames(tmp_path / "video-tasks" / "frames" / "SSv2" / "7", 1)
    assert len(load_mmeb_v2(tmp_path, "SmthSmthV2").queries) == 1000


def test_video_retrieval(second: Path) -> None:
    dataset = load_mmeb_v2(second, "MSVD")
    assert [q.text for q in dataset.queries] == ["one of the words", "the image"], "first captions"
    assert [d.id for d in dataset.documents] == ["v0", "v1"]
    assert dataset.judgements == {"1": {"v0": 1}, "2": {"v1": 1}}
    assert [d.id for d in load_mmeb_v2(second, "DiDeMo").documents] == ["v0", "v1"]


@pytest.mark.parametrize("part", ["video_ret", "video_cls"])
@pytest.mark.parametrize("last", ["", "frames"])
@pytest.mark.parametrize(
    "above", ["PART", ".", "PART/data/ziyan/video_retrieval", "data/ziyan/video_retrieval"]
)
def test_frames_under_every_root_of_the_archives(
    part: str, above: str, last: str, tmp_path: Path
) -> None:
    home = tmp_path / "video-tasks" / "frames" / above.replace("PART", part)
    name = {"video_ret": "MSR-VTT", "video_cls": "HMDB51"}[part]
    data = tmp_path / "video-tasks" / "data"
    lines(data / "msr-vtt.jsonl", [{"video": "v0.mp4", "caption": "a word"}])
    lines(data / "hmdb51.jsonl", [{"video_id": "v0", "pos_text": "run"}])
    Pictures().frames(home / name / last / "v0", 2)
    dataset = load_mmeb_v2(tmp_path, name)
    [item] = dataset.documents if part == "video_ret" else dataset.queries
    assert [path.parent for path in item.media[0].value] == [home / name / last / "v0"] * 2


def test_a_video_file_where_no_frames_are(tmp_path: Path) -> None:
    tasks = tmp_path / "video-tasks"
    rows = [{"video_id": f"v{i}", "video": f"v{i}.avi", "caption": "a"} for i in range(2)]
    lines(tasks / "data" / "msvd.jsonl", rows)
    files = tasks / "videos" / "video_ret" / "MSVD"
    files.mkdir(parents=True)
    (files / "v0.avi").touch()
    with pytest.raises(BadFile, match=r"MSVD: 1 of 2 videos are missing, the first is v1; look"):
        load_mmeb_v2(tmp_path, "MSVD").check_readable()
    (files / "v1.mp4").touch()
    media = [d.media[0].value for d in load_mmeb_v2(tmp_path, "MSVD").documents]
    assert media == [files / "v0.avi", files / "v1.mp4"]


def test_missing_frames_say_where_they_were_looked_for(tmp_path: Path) -> None:
    lines(tmp_path / "video-tasks" / "data" / "vatex.jsonl", [{"videoID": "x_1", "enCap": ["a"]}])
    with pytest.raises(BadFile, match=r"first is x_1.*video_ret/VATEX.*ziyan.*VATEX/frames.*GB"):
        load_mmeb_v2(tmp_path, "VATEX")


@pytest.mark.parametrize(
    ("name", "text", "options", "right"),
    [
        (
            "Video-MME",
            "What?\nA. the image.\nB. a word.\nC. one.\nD. two.",
            ["the image", "a word", "one", "two"],
            "a word",
        ),
        (
            "NExTQA",
            "what\nOptions:\n(A) answer 0\n(B) answer 1\n(C) answer 2\n(D) answer 3\n(E) answer 4",
            [f"answer {place}" for place in range(5)],
            "answer 1",
        ),
        (
            "EgoSchema",
            "What?A. the image. B. a word. C. one. D. two. E. three.",
            ["the image", "a word", "one", "two", "three"],
            "one",
        ),
        (
            "MVBench",
            "What?\nOptions:\n(A) one\n(B) the word",
            ["(A) one", "(B) the word"],
            "(B) the word",
        ),
        ("ActivityNetQA", "is it a word? (A) yes; (B) no.", ["yes", "no"], "no"),
    ],
)
def test_questions_about_videos(
    name: str, text: str, options: list[str], right: str, second: Path
) -> None:
    dataset = load_mmeb_v2(second, name)
    assert signatures(dataset) == ("text+video", "text")
    assert dataset.queries[0].text == text
    assert dataset.candidates is not None
    assert dataset.candidates["1"] == options
    assert dataset.judgements["1"] == {right: 1}
    assert len(dataset.queries) == (20 if name == "MVBench" else 1)
    assert dataset.task == "question"


def test_incomplete_questions_are_refused(second: Path, tmp_path: Path) -> None:
    root = shutil.copytree(second / "video-tasks", tmp_path / "video-tasks").parent
    (root / "video-tasks" / "MVBench" / "json" / "action_count.json").unlink()
    with pytest.raises(BadFile, match="1 of 20 tables are missing, the first is action"):
        load_mmeb_v2(root, "MVBench")
    row = {"video_name": "act", "question": "is it", "answer": "perhaps"}
    lines(root / "video-tasks" / "data" / "activitynetqa.jsonl", [row])
    with pytest.raises(BadFile, match="line 1: not a question with its options"):
        load_mmeb_v2(root, "ActivityNetQA")


def test_moments_beside_their_video(second: Path) -> None:
    dataset = load_mmeb_v2(second, "QVHighlight")
    assert signatures(dataset) == ("text+video", "video")
    assert dataset.judgements == {"1": {"v1_0_2/positive_clip": 1}}
    assert dataset.candidates == {
        "1": [f"v1_0_2/{c}" for c in ("positive_clip", "negative_clip_0", "negative_clip_1")]
    }
    [video] = dataset.queries[0].media
    assert {path.parent.name for path in video.value} == {"query"}


def test_moments_that_the_table_names(second: Path) -> None:
    dataset = load_mmeb_v2(second, "MomentSeeker")
    assert [q.signature for q in dataset.queries] == ["text", "text+video", "image+text"]
    assert dataset.queries[2].media[0].value.parts[-3:] == (
        "query_images", "movie101_77", "frame_173.jpg",
    )  # fmt: skip
    assert {path.parent.name for path in dataset.queries[1].media[0].value} == {"videos_ego_asked"}
    assert dataset.judgements["3"] == {"videos_ego_right": 1}
    assert [d.id for d in dataset.documents] == [
        "videos_ego_right", "videos_ego_wrong_0", "videos_ego_wrong_1",
    ]  # fmt: skip


def test_moments_that_are_not_there(second: Path, tmp_path: Path) -> None:
    root = shutil.copytree(second / "video-tasks", tmp_path / "video-tasks").parent
    shutil.rmtree(root / "video-tasks" / "frames" / "video_mret")
    with pytest.raises(BadFile, match=r"2 of 2 videos are missing.*video_mret"):
        load_mmeb_v2(root, "Charades-STA")
    with pytest.raises(BadFile, match="4 of 4 videos are missing"):
        load_mmeb_v2(root, "MomentSeeker")


def test_visual_documents(second: Path) -> None:
    dataset = load_mmeb_v2(second, "ViDoRe_docvqa")
    assert signatures(dataset) == ("text", "image")
    assert [(q.id, q.text) for q in dataset.queries] == [
        ("0", "Which word is 0?"), ("1", "Which word is 1?"),
    ]  # fmt: skip
    assert dataset.judgements == {"0": {"27": 2, "28": 1}, "1": {"28": 1}}
    assert [d.id for d in dataset.documents] == ["27", "28", "29"]
    assert dataset.documents[0].media[0].value.name == "27.png"
    assert dataset.candidates is None
    long = load_mmeb_v2(second, "VisRAG_ChartQA").documents[0]
    assert long.id == "long " * 12 + "0.png"
    assert long.media[0].value.is_file()


def test_pages_from_the_table(second: Path, tmp_path: Path) -> None:
    """Where no images are unpacked; and always where older images bear other ids."""
    page = load_mmeb_v2(second, "MMLongBench-page").documents[0].media[0].value
    assert page.startswith(b"\x89PNG")
    root = shutil.copytree(second / "visdoc-tasks", tmp_path / "visdoc-tasks").parent
    shutil.rmtree(root / "visdoc-tasks" / "images" / "ViDoRe_docvqa")
    with pytest.raises(BadFile, match="3 of 3 pages are missing, the first is 27"):
        load_mmeb_v2(root, "ViDoRe_docvqa")
    (root / "visdoc-tasks" / "images" / "ViDoRe_tatdqa" / "28.png").unlink()
    with pytest.raises(BadFile, match=r"1 of 3 pages.*first is 28; looked in .*ViDoRe_tatdqa"):
        load_mmeb_v2(root, "ViDoRe_tatdqa").check_readable()


def test_page_level_tables_of_the_first_release(second: Path, tmp_path: Path) -> None:
    assert load_mmeb_v2(second, "ViDoSeek-page").note == ""
    root = shutil.copytree(second / "visdoc-tasks", tmp_path / "visdoc-tasks").parent
    data = root / "visdoc-tasks" / "data"
    (data / "ViDoSeek-page-fixed").rename(data / "ViDoSeek-page")
    assert "ViDoSeek-page-fixed corrects" in load_mmeb_v2(root, "ViDoSeek-page").note


def test_every_dataset_that_the_benchmark_reports() -> None:
    """36 image, 18 video and 24 visual-document tasks, as its report script lists them."""
    sizes = {part.name: len(part.datasets) for part in mmeb_v2.PARTS}
    assert sizes == {
        "image tasks": 36, "video classification": 5, "video retrieval": 5,
        "video question answering": 5, "moment retrieval": 3, "visual documents": 24,
    }  # fmt: skip
