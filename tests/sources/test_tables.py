"""Tables: one bad line costs one row, whatever is wrong with it, and is named by file and line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.files import Files
from freeret.store.table import Store
from probes.errors import BadItem
from probes.items import Item
from probes.model.backbone import Backbone
from tests.buckets import Bucket
from tests.samples import picture, png

PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")


def read(path: Path | str, **options: object) -> list[tuple[str | None, str]]:
    """The ids and texts of the rows; of bad ones the place and the reason."""
    return [
        (item.id, item.text) if isinstance(item, Item) else (item.item, str(item))
        for item in Files([path], on_error="skip", folder_names=False, **options)  # type: ignore[arg-type]
    ]


LINES = [b'{"id": "r1", "text": "one"}', b'{"id": "r2", "text": "two"}',
         b'{"id": "r3", "text": "three"}', b'{"id": "r4", "text": "four"}']  # fmt: skip
BAD_LINES = [
    b'{"id": "r2", "text": "two",}', b'{"id": "r2", "text": "caf\xe9"}', b'{"id": "r2", "te', b"]",
    b"null", b'"text"', b"[1]", b"\x00\x01", b"\xff\xfe", b"{" * 5000,
    b'{"a": ' + b"9" * 5000 + b"}", b'{"id": [1], "text": "a"}', b'{"id": "r2"}',
]  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES, ids=lambda line: ascii(line[:30]))
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.jsonl.gz"])
def test_a_bad_line_costs_one_row(bad: bytes, name: str, tmp_path: Path) -> None:
    content = b"\n".join([LINES[0], bad, b"", *LINES[2:]])
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    first, (place, reason), *rest = read(tmp_path / name)
    assert [first, *rest] == [("r1", "one"), ("r3", "three"), ("r4", "four")]
    assert reason.startswith(f"{name}:2: ")
    assert place in (f"{name}:2", "r2", "[1]")
    with pytest.raises(BadItem, match=rf"{name}:2: ") as caught:
        list(Files([tmp_path / name], folder_names=False))
    assert caught.value.item == place


def test_it_costs_one_row_of_an_index(tmp_path: Path, tiny: Callable[[str], Backbone]) -> None:
    retriever = FreeRet(tiny("llama"), PLAIN)
    for number, bad in enumerate(BAD_LINES[:3]):
        path = tmp_path / str(number) / "a.jsonl"
        path.parent.mkdir()
        path.write_bytes(b"\n".join([LINES[0], bad, *LINES[2:]]))
        store = tmp_path / f"store {number}"
        with pytest.raises(BadItem, match=r"a\.jsonl:2"):
            retriever.index(path, store)
        done = retriever.index(path, store, on_error="skip")
        assert (done.added, list(done.skipped)) == (3, [f"{number}/a.jsonl:2"])
        assert Store.open(store).vectors().ids == ["r1", "r3", "r4"]


@pytest.mark.parametrize(
    "content", ['[{"text": "a"},\n{"text": "b"}]', '{\n "text": "a"\n}\n', "[\n]"]
)
def test_json_that_is_no_lines_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    [(place, reason)] = read(tmp_path / "a.jsonl")
    assert place == "a.jsonl:1"
    assert "this is a JSON list or indented JSON: write one object per line" in reason


def test_of_a_table_in_another_encoding_the_rows_that_decode_are_read(tmp_path: Path) -> None:
    rows = 'id,text\nr1,plain\nr2,café\nr3,"two\nlines"\nr4,naïve\nr5,end\n'
    (tmp_path / "a.csv").write_bytes(rows.encode("cp1252"))
    found = read(tmp_path / "a.csv")
    assert found[:1] + found[2:3] + found[4:] == [
        ("r1", "plain"),
        ("r3", "two\nlines"),
        ("r5", "end"),
    ]
    assert [place for place, _ in (found[1], found[3])] == ["a.csv:3", "a.csv:6"]
    assert found[1][1] == "a.csv:3: byte 0xe9 is not UTF-8 text; save the file as UTF-8"
    (tmp_path / "b.csv").write_bytes("id,café\nr1,plain\n".encode("cp1252"))
    [(place, reason)] = read(tmp_path / "b.csv")
    assert (place, "0xe9" in reason) == ("b.csv:1", True)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_tells_the_encoding(
    encoding: str, tmp_path: Path, bucket: Bucket
) -> None:
    contents = {
        "a.csv": "id,text\nr1,café 日\n", "b.tsv": "id\ttext\nr1\tcafé 日\n",
        "c.jsonl": '\n{"id": "r1", "text": "café 日"}\n\n', "d.txt": "café 日",
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content.encode(encoding))
    expected = [*[("r1", "café 日")] * 3, ("d.txt", "café 日")]
    assert read(tmp_path) == read(bucket.put(tmp_path)) == expected


def test_utf16_that_is_cut_or_has_no_mark_is_named(tmp_path: Path) -> None:
    content = "id,text\nr1,one\nr2,two".encode("utf-16")
    (tmp_path / "a.csv").write_bytes(content[:-1])
    (tmp_path / "b.csv").write_bytes("id,text\nr1,one\n".encode("utf-16-le"))
    (tmp_path / "c.txt").write_bytes(content[:-1])
    first, cut, no_mark, text = read(tmp_path)
    assert first == ("r1", "one")
    assert [place for place, _ in (cut, no_mark, text)] == ["a.csv:3", "b.csv:1", "c.txt"]


@pytest.mark.parametrize(
    ("bad", "rest"),
    [
        ('r2,"never closed', "r3,three\nr4,four"),
        ('r2,"closed" late', "r3,three\nr4,four"),
        ('r2,"open', 'r3,three\nr4,"four"'),
        ("r2,a,b", "r3,three\nr4,four"),
        ("r2", "\nr3,three\n\nr4,four\n"),
    ],
)
def test_a_bad_row_of_cells_costs_one_row(bad: str, rest: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"id,text\nr1,one\n{bad}\n{rest}")
    first, (_, reason), *others = read(tmp_path / "a.csv")
    assert [first, *others] == [("r1", "one"), ("r3", "three"), ("r4", "four")]
    assert reason.startswith("a.csv:3: ")


def test_a_packed_table_that_is_cut_is_named(tmp_path: Path) -> None:
    lines = b"".join(
        json.dumps({"id": k, "text": f"text {k * 7919}"}).encode() + b"\n" for k in range(3000)
    )
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    (tmp_path / "b.csv.gz").write_bytes(b"no gzip")
    *rows, (_, cut), (_, no_gzip) = read(tmp_path)
    assert 1000 < len(rows) < 3000
    assert f":{len(rows) + 1}: what follows cannot be unpacked" in cut
    assert "b.csv.gz:1: what follows cannot be unpacked" in no_gzip


# --------------------------------------------------------------------------------- media columns


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Captioned pictures in every kind of table that can name them."""
    folder = tmp_path / "corpus"
    (folder / "pictures").mkdir(parents=True)
    rows = [
        {"id": f"p{k}", "category": "food", "image": f"pictures/{k}.png", "caption": f"of {k}"}
        for k in range(3)
    ]
    for k in range(3):
        (folder / "pictures" / f"{k}.png").write_bytes(png(picture(seed=k)))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = "".join(",".join(row.values()) + "\n" for row in rows)
    (folder / "a.csv").write_text("id,category,image,caption\n" + cells)
    structs = [{"bytes": png(picture(seed=k)), "path": f"{k}.png"} for k in range(2)]
    structs.append({"bytes": None, "path": "pictures/2.png"})
    table = pa.Table.from_pylist(
        [{**row, "image": s} for row, s in zip(rows, structs, strict=True)]
    )
    pq.write_table(table, folder / "a.parquet")
    return folder


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_row_holds_a_picture_and_its_caption(name: str, corpus: Path, bucket: Bucket) -> None:
    """The path stands beside the table, here and at a URL; the picture comes before the text."""
    fields = {"text_field": "caption", "image_field": "image"}
    for place in (corpus / name, bucket.put(corpus).replace("corpus", f"corpus/{name}")):
        items = list(Files([place], **fields))  # type: ignore[arg-type]
        for k, item in enumerate(items):
            assert isinstance(item, Item)
            media, text = item.parts
            content = media.value.read_bytes() if isinstance(media.value, Path) else media.value
            assert (item.id, text.value, media.kind) == (f"p{k}", f"of {k}", "image")
            assert content == png(picture(seed=k))
            assert item.metadata == {"category": "food"}
        assert len(items) == 3


def test_metadata_is_what_was_asked_for(corpus: Path) -> None:
    def metadata(**options: object) -> dict:
        [item, *_] = Files([corpus / "a.jsonl"], text_field="caption", **options)  # type: ignore[arg-type]
        assert isinstance(item, Item)
        return dict(item.metadata)

    everything = {"category": "food", "image": "pictures/0.png"}
    assert metadata() == everything
    assert metadata(metadata_fields=["category"]) == {"category": "food"}
    assert metadata(metadata_fields="category") == {"category": "food"}
    assert metadata(metadata_fields=[]) == {}
    assert metadata(metadata_fields=["caption", "id", "lost"]) == {"caption": "of 0", "id": "p0"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"image": "lost.png"}, "1: lost.png: there is no file .*lost.png"),
        (
            {"picture": "a.png"},
            "1: no text in the field 'text', and nothing in 'image'; fields: picture",
        ),
        ({"image": "", "text": None}, "fields: image, text. Use --text-field, or --image-field"),
        ({"image": "a.png", "text": 5}, "no text in the field 'text'"),
        ({"image": ["a.png", "lost.png"]}, "lost.png: there is no file"),
        ({"image": "a.png", "id": 1.5}, "1: an id must be text or a whole number, not '1.5'"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(picture()))
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(BadItem, match=said):
        list(Files([tmp_path / "a.jsonl"], image_field="image"))


def test_a_row_may_hold_several_pictures_or_none(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(picture()))
    rows = [
        {"image": ["a.png", None, "b.png"]},
        {"image": None, "text": "t"},
        {"text": "", "image": "a.png"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    several, none, empty = Files([tmp_path / "a.jsonl"], image_field="image")
    assert isinstance(several, Item)
    assert [part.value.name for part in several.parts] == ["a.png", "b.png"]
    assert [getattr(item, "signature", None) for item in (none, empty)] == ["text", "image"]


@pytest.mark.parametrize("path", ["/etc/passwd", "file:///etc/passwd", "../../../etc/passwd.png"])
def test_a_table_at_a_url_names_no_file_of_this_machine(
    path: str, tmp_path: Path, bucket: Bucket
) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"image": path}))
    with pytest.raises(BadItem, match=r"relative|cannot read s3://"):
        list(Files([bucket.put(tmp_path / "a.jsonl")], image_field="image"))
