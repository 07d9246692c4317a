"""What is at a URL is what the same files are here; what cannot be had is named, no secret told."""

import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from freeret.sources.files import Files
from freeret.store.payload import pack, unpack
from probes import Item
from probes.errors import BadItem
from probes.media.sources import Limits
from tests.buckets import SECRET, Bucket
from tests.media.test_audio import recording, tone
from tests.media.test_videos import film
from tests.samples import picture, png


def write_corpus(folder: Path) -> Path:
    """A file of every kind, two of them below folders with difficult names."""
    media = folder / "50% of 日" / "#media"
    media.mkdir(parents=True)
    (media / "a.PNG").write_bytes(png(picture()))
    (media / "b.mp4").write_bytes(film([0, 4, 8]))
    (media / "c.wav").write_bytes(recording(tone()[None], 8000, "wav", "pcm_f32le", "flt"))
    (folder / "d.txt").write_bytes(b"two\r\nlines")
    (folder / "e.jsonl").write_text('{"text": "one", "id": "x", "year": 1999}\n{"text": "two"}\n')
    (folder / "f.csv").write_text("id,text,year\ny,three,\n", encoding="utf-8-sig")
    pq.write_table(pa.table({"text": ["four", "five"], "year": [1, 2]}), folder / "g.parquet")
    (folder / "ignored.bin").write_bytes(b"\x00")
    return folder


def contents(files: Files) -> list[Any]:
    """Everything of every item; media as the bytes that they are or lead to."""
    read = []
    for item in files:
        assert isinstance(item, Item)
        values = [
            p.value.read_bytes() if isinstance(p.value, Path) else p.value for p in item.parts
        ]
        read.append((item.id, item.signature, values, dict(item.metadata)))
    return read


@pytest.mark.parametrize("below", ["", "50% of 日", "50% of 日/#media/a.PNG", "g.parquet"])
def test_a_url_gives_the_items_of_the_path(tmp_path: Path, bucket: Bucket, below: str) -> None:
    write_corpus(tmp_path)
    expected = contents(Files([tmp_path / below]))
    bucket.put(tmp_path)
    for url in (Path.as_uri(tmp_path / below), bucket.url(f"{tmp_path}/{below}".strip("/"))):
        assert contents(Files([url])) == expected


def test_a_name_in_a_url_may_be_written_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "日#1.txt").write_text("text")
    [item] = Files([f"file://{tmp_path}/a b/日#1.txt"])
    assert isinstance(item, Item)
    assert (item.id, item.text) == ("a b/日#1.txt", "text")


def test_media_from_a_url_are_stored(tmp_path: Path, bucket: Bucket) -> None:
    """No path leads back to them."""
    (tmp_path / "a.png").write_bytes(png(picture()))
    [item] = Files([bucket.put(tmp_path)])
    assert isinstance(item, Item)
    assert unpack("a.png", *pack(item)).parts[0].value == png(picture())


def test_media_are_limited_before_they_are_fetched(tmp_path: Path, bucket: Bucket) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(bytes(1001))
    (tmp_path / "c.png").write_bytes(bytes(1000))
    files = Files([bucket.put(tmp_path)], on_error="skip", limits=Limits(bytes=1000))
    empty, large, fits = files
    name = tmp_path.name
    assert str(empty) == f"item '{name}/a.png': cannot read the image: it is empty"
    assert str(large).startswith(f"item '{name}/b.png': cannot read the image: more than 1000")
    assert isinstance(fits, Item)
    os.truncate(tmp_path / "b.png", 2**42)  # more than any memory, and not on the disk either
    with pytest.raises(BadItem, match=f"more than {Limits().bytes} bytes"):
        list(Files([(tmp_path / "b.png").as_uri()]))


def test_what_has_gone_since_it_was_listed_is_one_bad_file(tmp_path: Path, bucket: Bucket) -> None:
    for name in ("a.txt", "b.jsonl", "c.png", "d.parquet"):
        (tmp_path / name).write_text("gone")
    (tmp_path / "e.txt").write_text("here")
    for url in (bucket.put(tmp_path), tmp_path.as_uri()):
        files = Files([url], on_error="skip")
        listed = list(files.listing().files)
        for file, _ in listed[:-1]:
            file.filesystem.delete_file(file.path)  # type: ignore[union-attr]
        *gone, here = [item for file, name in listed for item in files.read(file, name)]
        assert isinstance(here, Item)
        for (file, name), error in zip(listed, gone, strict=False):
            assert isinstance(error, BadItem)
            assert str(error).startswith(f"{name}: cannot read {file}: it was there")
            assert "run it again" in str(error)
        with pytest.raises(BadItem, match="run it again"):
            list(Files([url]).read(*listed[0]))


def test_a_table_here_that_is_gone_is_one_bad_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}')
    files = Files([tmp_path], on_error="skip")
    [(file, name)] = files.listing().files
    (tmp_path / "a.jsonl").unlink()
    [error] = files.read(file, name)
    assert str(error).startswith(f"{name}: cannot read {file}: it was there")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"foo://key:{SECRET}@b/c", "cannot read foo://key@b/c: Unrecognized.*known are s3://"),
        (f"s3://key:{SECRET}/1@b/c?region=x", "cannot read s3://key@b/c: Cannot parse.*known are"),
        (f"s3://b/c?secret={SECRET}", "cannot read s3://b/c: Unexpected query.*known are"),
        ("http://b/c", "cannot read http://b/c: Unrecognized.*known are"),
        ("abfs://c/folder", "cannot read abfs://c/folder: .*account name"),
        ("file://none", "cannot read file://none: "),
        ("file:///none/ 日", "there is nothing at file:///none/ 日; list it"),
        (f"s3://key:{SECRET}@b/c?endpoint_override=127.0.0.1:1&scheme=http",
         "cannot read s3://key@b/c: .*check permissions, credentials, region and network"),
    ],
)  # fmt: skip
def test_a_url_that_leads_nowhere_is_named_without_its_secret(url: str, said: str) -> None:
    with pytest.raises(BadItem, match=said) as caught:
        list(Files([url], on_error="skip"))
    assert SECRET not in str(caught.value)


def test_nothing_in_a_bucket_is_named(bucket: Bucket) -> None:
    for url in (bucket.url("none"), bucket.url("none").replace("corpora", "elsewhere")):
        with pytest.raises(BadItem, match=r"there is nothing at s3://key@\w+/none; list") as caught:
            list(Files([url]))
        assert SECRET not in str(caught.value)


def test_without_permission_it_is_named(tmp_path: Path, bucket: Bucket) -> None:
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.png").write_bytes(png(picture()))
    files = Files([bucket.put(tmp_path)], on_error="skip")
    listed = list(files.listing().files)
    with bucket.locked():
        errors = [error for file, name in listed for error in files.read(file, name)]
        for (file, name), error in zip(listed, errors, strict=True):
            assert str(error).startswith(f"{name}: cannot read {file}: ")
            assert "check permissions" in str(error)
            assert SECRET not in str(error)
        with pytest.raises(BadItem, match=r"cannot read s3://key@corpora/.*check permissions"):
            list(files)


def test_names_tell_no_secret(tmp_path: Path, bucket: Bucket) -> None:
    """Nor do the places that items came from."""
    (tmp_path / "a.txt").write_text("text")
    url = bucket.put(tmp_path / "a.txt")
    once, again = Files([url, url])
    assert isinstance(once, Item)
    assert once == again
    assert (once.id, once.source) == (f"{tmp_path.name}/a.txt", f"s3://corpora{tmp_path}/a.txt")
    listing = Files([url]).listing()
    assert SECRET not in repr(listing.roots)
    assert listing.name_of(once.source or "") == once.id


def test_files_travel_to_other_processes(tmp_path: Path, bucket: Bucket) -> None:
    write_corpus(tmp_path)
    for url in (bucket.put(tmp_path), tmp_path.as_uri()):
        files = Files([url])
        sent = pickle.loads(pickle.dumps([files, list(files.listing().files)]))
        assert [item for pair in sent[1] for item in sent[0].read(*pair)] == list(files)
        assert sent[1] == list(files.listing().files)
        assert SECRET not in str(sent[1])


def test_paths_ask_no_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("freeret.sources.remote.FileSystem", None)
    write_corpus(tmp_path)
    assert len(contents(Files([tmp_path, str(tmp_path)]))) == 2 * 9
