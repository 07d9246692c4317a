"""M-BEIR in its published layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from freeret.evaluate.loaders import find_mbeir, load_mbeir, suite
from freeret.evaluate.loaders.mbeir import MODALITIES, NAMES
from freeret.evaluate.results.file import Result
from freeret.evaluate.run import evaluate
from freeret.evaluate.systems.registry import system
from freeret.recipe import Recipe
from probes import Backbone
from probes.errors import BadFile

HEADER = ["query_modality", "cand_modality", "dataset_name", "dataset_id"]
HEADER += [f"prompt_{number}" for number in range(1, 5)]
IDS = {"visualnews": 0, "fashion200k": 1, "webqa": 2, "edis": 3, "nights": 4, "oven": 5,
       "infoseek": 6, "fashioniq": 7, "cirr": 8, "mscoco": 9}  # fmt: skip


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def published(root: Path) -> Path:
    """All 16 datasets, three queries over five candidates each."""
    told = []
    for name in NAMES:
        dataset, task = name.rsplit("_task", 1)
        number, (asked, searched) = IDS[dataset], MODALITIES[int(task)]
        shots = [f"mbeir_images/{dataset}_images/{name}/{i}.jpg" for i in range(5)]
        for place, shot in enumerate(shots):
            (root / shot).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (40 * place, 10 * number, 99)).save(root / shot)

        def content(kinds: str, place: int, side: str, shots: list[str] = shots) -> dict[str, Any]:
            text = f"{side} {place}" if "text" in kinds else None
            picture = shots[place] if "image" in kinds else None
            keys = ("query_txt", "query_img_path") if side == "query" else ("txt", "img_path")
            return dict(zip(keys, (text, picture), strict=True))

        lines(root / "query" / "test" / f"mbeir_{name}_test.jsonl", [
            {"qid": f"{number}:{i}", "query_modality": asked, "query_src_content": None,
             "pos_cand_list": [f"{number}:{100 + i}"], "neg_cand_list": [],
             "task_id": int(task), **content(asked, i, "query")}
            for i in range(3)
        ])  # fmt: skip
        split = "_test" if dataset == "mscoco" else ""
        lines(root / "cand_pool" / "local" / f"mbeir_{name}{split}_cand_pool.jsonl", [
            {"did": f"{number}:{100 + i}", "modality": searched, "src_content": None,
             **content(searched, i, "candidate")}
            for i in range(5)
        ])  # fmt: skip
        told.append([asked, searched, dataset, str(number), f"Find {name}.", f"Or {name}.", "", ""])
    (root / "instructions").mkdir()
    table = "".join("\t".join(row) + "\n" for row in [HEADER, *told])
    (root / "instructions" / "query_instructions.tsv").write_text(table)
    return root


def test_all_datasets_of_the_published_layout(tmp_path: Path) -> None:
    root = published(tmp_path)
    assert find_mbeir(root) == list(NAMES)
    datasets = [load() for load in suite(f"mbeir:{root}")]
    assert [one.name for one in datasets] == list(NAMES)
    assert len({one.group for one in datasets}) == 8
    for one in datasets:
        asked, searched = one.group.replace("+", ",").split("→")
        for items, kinds in ((one.queries, asked), (one.documents, searched)):
            assert {item.signature for item in items} == {kinds.replace(",", "+")}
        assert one.task == f"Find {one.name}."
        first = "Success@10" if one.name.startswith("fashion") else "Success@5"
        assert one.metrics[0] == first
        assert all(len(right) == 1 for right in one.judgements.values())
    [alone] = suite(f"mbeir:{root}/cirr_task7")
    cirr = alone()
    assert [part.kind for part in cirr.queries[0].parts] == ["image", "text"]
    assert cirr.queries[1].media[0].value == root / "mbeir_images/cirr_images/cirr_task7/1.jpg"
    assert (cirr.queries[1].id, cirr.judgements["8:1"]) == ("8:1", {"8:101": 1})


def test_its_recall_is_whether_one_of_the_first_is_right(
    tiny: Callable[[str], Backbone], tmp_path: Path
) -> None:
    """Two right candidates of a query, one of them found: 1, and not a half."""
    root = published(tmp_path / "m-beir")
    file = root / "query" / "test" / "mbeir_nights_task4_test.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["pos_cand_list"] = [{"did": "4:100"}, {"did": "4:999"}]
    lines(file, rows)
    one = system("realign", lambda: tiny("qwen2.5-vl"), Recipe.paper)
    [kept] = evaluate(suite(f"mbeir:{root}/nights_task4"), one, tmp_path / "out")
    entry = Result.load(kept).datasets["nights_task4"]
    assert entry.metrics["Success@5"].per_query == {"4:0": 1.0, "4:1": 1.0, "4:2": 1.0}
    assert entry.note.startswith("Success@k is Recall@k as M-BEIR counts it")


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no dataset of M-BEIR; get .*TIGER-Lab/M-BEIR.*tens of GB"):
        suite(f"mbeir:{tmp_path}")
    root = published(tmp_path / "m-beir")
    (root / "query" / "test" / "mbeir_oven_task6_test.jsonl").unlink()
    assert "oven_task6" not in find_mbeir(root)
    with pytest.raises(BadFile, match="no dataset 'cirr'"):
        load_mbeir(root, "cirr")
    table = root / "instructions" / "query_instructions.tsv"
    table.write_text("\t".join(HEADER) + "\n")
    with pytest.raises(BadFile, match=r"no instruction for \('image', 'image'\) of dataset '4'"):
        load_mbeir(root, "nights_task4")
    table.unlink()
    with pytest.raises(BadFile, match=r"query_instructions\.tsv: it does not exist"):
        find_mbeir(root)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{", "line 1: needs a JSON object"),
        ("[]", "line 1: needs a JSON object"),
        ('{"did": "4:1"}', "line 1: no modality"),
        ('{"did": "4:1", "modality": "image"}', "it is image, and has no path of a picture"),
    ],
)
def test_a_line_that_is_wrong(row: str, said: str, tmp_path: Path) -> None:
    root = published(tmp_path)
    (root / "cand_pool" / "local" / "mbeir_nights_task4_cand_pool.jsonl").write_text(row)
    with pytest.raises(BadFile, match=said):
        load_mbeir(root, "nights_task4")
