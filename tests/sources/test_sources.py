"""Every file and row becomes one item with an id of its own, or is named as the one that cannot."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from freeret.sources.files import Files
from probes import Item
from probes.errors import BadItem
from tests.buckets import Bucket

At = Callable[[Path], Path | str]


@pytest.fixture(params=["path", "str", "file", "s3"])
def at(request: pytest.FixtureRequest) -> At:
    """How a file or folder is given: by its path, or by the URL where it is or is copied to."""
    if request.param == "s3":
        bucket: Bucket = request.getfixturevalue("bucket")
        return bucket.put
    ways: dict[str, At] = {"path": Path, "str": str, "file": Path.as_uri}
    return ways[request.param]


def stream(*paths: Path | str, text: str = "text", id: str = "id") -> Iterator[Item]:
    """What is read; a bad item may be raised, or given in its place."""
    for item in Files(paths, text, id):
        if isinstance(item, BadItem):
            raise item
        yield item


def read(*paths: Path | str, **fields: str) -> list[Item]:
    return list(stream(*paths, **fields))


def by_id(items: list[Item]) -> dict[str | None, str]:
    assert len({item.id for item in items}) == len(items)
    return {item.id: item.text for item in items}


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_folder_is_read_in_order(tmp_path: Path, at: At) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c.txt").write_text("c text", encoding="utf-8")
    (tmp_path / "b" / "日.md").write_text("# b\n\nmore", encoding="utf-8")
    write_rows(tmp_path / "a.jsonl", [{"id": "x", "text": "row", "year": 1999, "of": None}])
    Image.new("RGB", (4, 4)).save(tmp_path / "d.PNG")
    (tmp_path / "e.bin").write_bytes(b"\x00")
    items = read(at(tmp_path))
    name = tmp_path.name
    assert [item.id for item in items] == ["x", f"{name}/b/日.md", f"{name}/c.txt", f"{name}/d.PNG"]
    assert [item.text for item in items] == ["row", "# b\n\nmore", "c text", ""]
    assert dict(items[0].metadata) == {"year": 1999, "of": None}
    assert items[3].signature == "image"


def test_csv_rows_may_hold_anything(tmp_path: Path, at: At) -> None:
    rows = [["q1", 'with "quotes", commas\nand lines', "x"], ["q2", "naïve 日本", ""]]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "body", "kind"], *rows])
    items = read(at(tmp_path / "rows.csv"), text="body")
    assert by_id(items) == {row[0]: row[1] for row in rows}
    assert [dict(item.metadata) for item in items] == [{"kind": "x"}, {"kind": ""}]


def test_other_fields_may_hold_text_and_id(tmp_path: Path, at: At) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"_id": "x", "body": "a", "id": 5, "text": "no"}])
    [item] = read(at(path), text="body", id="_id")
    assert (item.id, item.text) == ("x", "a")
    assert dict(item.metadata) == {"id": 5, "text": "no"}


def test_an_id_may_be_a_number_and_zero_is_one(tmp_path: Path, at: At) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"id": i, "text": f"t{i}"} for i in range(3)])
    assert by_id(read(at(path))) == {"0": "t0", "1": "t1", "2": "t2"}


def test_a_row_without_id_is_called_by_its_place(tmp_path: Path, at: At) -> None:
    rows = [{"text": "a"}, {"id": None, "text": "b"}, {"id": "", "text": "c"}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    place = f"{tmp_path.name}/a.jsonl"
    assert by_id(read(at(path))) == {f"{place}:1": "a", f"{place}:2": "b", f"{place}:3": "c"}


def test_blank_lines_are_no_rows(tmp_path: Path, at: At) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"id": "x", "text": "a"}\r\n  \n{"id": "y", "text": "b"}')
    assert by_id(read(at(tmp_path))) == {"x": "a", "y": "b"}


def test_an_id_tells_the_folder_and_nothing_else(tmp_path: Path, at: At) -> None:
    """Not what else is given, nor in which order: a second call would make other items."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.txt").write_text(f"in {folder}")
    below = {f"{tmp_path.name}/{f}/same.txt": f"in {f}" for f in "ab"}
    assert by_id(read(at(tmp_path))) == below
    texts = {"a/same.txt": "in a", "b/same.txt": "in b"}
    for paths in (["a", "b"], ["b", "a"], ["b/same.txt", "a/same.txt"], ["b/same.txt", "a"]):
        assert by_id(read(*(at(tmp_path / path) for path in paths))) == texts
    for folder in ("a", "b"):
        alone = {f"{folder}/same.txt": f"in {folder}"}
        assert by_id(read(at(tmp_path / folder))) == alone
        assert by_id(read(at(tmp_path / folder / "same.txt"))) == alone


def test_the_folder_is_called_by_the_name_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release-42" / "sub").mkdir(parents=True)
    (tmp_path / "release-42" / "a.txt").write_text("text")
    (tmp_path / "now").symlink_to(tmp_path / "release-42")
    monkeypatch.chdir(tmp_path / "release-42")
    for path in (".", "../release-42", "sub/..", str(tmp_path / "release-42"), "../release-42/"):
        assert [item.id for item in read(path)] == ["release-42/a.txt"]
    assert [item.id for item in read(tmp_path / "now")] == ["now/a.txt"]
    assert [item.id for item in Files([tmp_path / "now"], folder_names=False)] == ["a.txt"]


def test_a_table_written_by_a_spreadsheet_is_read(tmp_path: Path, at: At) -> None:
    """With a byte order mark, and a cell longer than the csv module's first limit."""
    (tmp_path / "a.csv").write_text(f"text,id\n{'n' * 200_000},x\n", encoding="utf-8-sig")
    [item] = read(at(tmp_path))
    assert (item.id, len(item.text)) == ("x", 200_000)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"id": "x", "text": "a"}\n{"id": "y", "te', "a.jsonl:2: not JSON"),
        ("a.jsonl", b'\n{"text": "a\xff"}', "a.jsonl:2: byte 0xff is not UTF-8 text"),
        ("a.jsonl", b"[1, 2]\n", "a.jsonl:1: a row must be an object"),
        ("a.jsonl", b"3\n", "a.jsonl:1: a row must be an object, not int"),
        ("a.jsonl", b'{"id": "x", "body": "a"}', "a.jsonl:1.*fields: id, body. Use --text-field"),
        ("a.jsonl", b'{"id": "x", "text": 5}', "a.jsonl:1: no text"),
        ("a.jsonl", b'{"id": "x", "text": " "}', "a.jsonl:1: .*'x' has no content"),
        ("a.jsonl", b'{"id": "x", "text": "\\ud800"}', "a.jsonl:1: .*'x'.*not valid Unicode"),
        ("a.csv", b"id,text\nx\n", "a.csv:2: no text"),
        ("a.csv", b"id,text\nx,\xff\n", "a.csv:2: byte 0xff"),
        ("a.csv", b"id,id\nx,y\n", "a.csv:1: the column 'id' stands there twice"),
        ("a.csv", b"id,text\nx,a,b\n", "a.csv:2: 3 cells under 2 columns"),
        ("a.tsv", b"id\ttext\nx\n", "a.tsv:2: no text"),
        ("a.txt", b"\xff\xfeabc", "a.txt.*not UTF-8"),
        ("a.txt", b"a\x00b\x00", "a.txt.*byte 0x00 is not UTF-8"),
        ("a.txt", b"", "a.txt' (has no content|is empty)"),
        ("a.docx", b"text", "cannot tell what .*a.docx is"),
    ],
)
def test_what_cannot_be_read_is_named(
    name: str, content: bytes, said: str, tmp_path: Path, at: At
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadItem, match=said) as caught:
        read(at(tmp_path / name))
    assert caught.value.item in ("x", *(f"{tmp_path.name}/{name}{end}" for end in ("", ":1", ":2")))


def test_a_path_to_nothing_is_named(tmp_path: Path, at: At) -> None:
    with pytest.raises(BadItem, match=r"nothing at .*none"):
        read(at(tmp_path / "none"))


def test_rows_are_read_as_they_are_asked_for(tmp_path: Path, at: At) -> None:
    """A corpus larger than memory is only streamed."""
    path = write_rows(tmp_path / "a.jsonl", [{"id": "x", "text": "a"}])
    with path.open("a") as file:
        file.write("broken\n")
    items = stream(at(path))
    assert next(items).id == "x"
    with pytest.raises(BadItem):
        next(items)


def test_parquet_is_read_row_by_row(tmp_path: Path, at: At) -> None:
    rows = [
        {"id": k, "text": "no text" if k % 2 else f"text {k}", "year": 1990 + k} for k in range(3)
    ]
    pq.write_table(
        pa.Table.from_pylist([*rows, {"id": None, "text": None}]), tmp_path / "a.parquet"
    )
    found = list(Files([at(tmp_path)], on_error="skip"))
    items = [item for item in found if isinstance(item, Item)]
    assert [(i.id, i.text, dict(i.metadata)) for i in items] == [
        (str(row["id"]), row["text"], {"year": row["year"]}) for row in rows
    ]
    assert str(found[3]).startswith(f"{tmp_path.name}/a.parquet:4: no text in the field 'text'")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    with pytest.raises(BadItem, match=r"cut\.parquet:1: not readable parquet"):
        list(Files([at(tmp_path / "cut.parquet")]))


def test_files_read_apart_are_the_files_read_together(tmp_path: Path, at: At) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    (tmp_path / "b.txt").write_text("three")
    files = Files([at(tmp_path)])
    apart = [item for file, name in files.listing().files for item in files.read(file, name)]
    assert apart == list(files)
    assert list(files) == list(files), "it can be read again"
