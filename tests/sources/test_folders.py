"""Everything in a folder is read, named as bad, or passed over and counted."""

import gzip
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, features

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.files import Files, passed_over_in_words
from probes.errors import BadItem
from probes.items import Item
from probes.media.formats import kind_of, kind_of_bytes, picture_endings
from probes.media.images import read_image
from probes.media.sources import Limits
from probes.model.backbone import Backbone
from tests.buckets import Bucket
from tests.damage import write_damaged
from tests.samples import picture, png

PLAIN = Recipe("e5v", "attn[-1]", "none", "mcq")


def names(folder: Path, **options: bool) -> list[str]:
    return [name for _, name in Files([folder], folder_names=False, **options).listing().files]


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    return folder


# ------------------------------------------------------------------------------------ formats


def test_every_format_that_pillow_decodes_is_read(tmp_path: Path) -> None:
    """By its own list: each ending that it both writes and reads is tried."""
    folder = tmp_path / "in"
    folder.mkdir()
    written = []
    for ending, format in sorted(Image.registered_extensions().items()):
        if format in Image.SAVE and ending in picture_endings():
            try:
                with warnings.catch_warnings(action="ignore"):
                    picture().save(folder / f"a{ending}", format)
                written.append(ending)
            except Exception:  # it writes pictures of another mode alone
                (folder / f"a{ending}").unlink(missing_ok=True)
    assert set(written) >= {".jfif", ".jpe", ".ppm", ".tga", ".ico", ".tif", ".pcx", ".dib"}
    assert (".jp2" in written) == bool(features.check("jpg_2000"))
    assert (".avif" in written) == bool(features.check("avif"))
    for item, ending in zip(Files([folder], folder_names=False), written, strict=True):
        assert isinstance(item, Item)
        assert item.id == f"a{ending}"
        with warnings.catch_warnings(action="ignore"), item.media[0].value.open("rb") as file:
            assert read_image(file, Limits()).size >= (48, 47), ending


def test_a_format_that_pillow_only_recognises_is_no_picture() -> None:
    assert {".mpg", ".eps", ".ps", ".h5", ".wmf", ".pdf"}.isdisjoint(picture_endings())
    assert (kind_of("a.MPG"), kind_of("b.JfIf"), kind_of("c.rst")) == ("video", "image", "text")
    assert kind_of("d.docx") is kind_of("jpg") is None


@pytest.mark.parametrize("count", [1, 3])
def test_a_folder_of_many_formats(count: int, tmp_path: Path, tiny: Callable) -> None:
    """None of its files is left out without a word."""
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(count):
        (folder / f"a{k}.png").write_bytes(png(picture()))
        picture().save(folder / f"b{k}.jfif", "JPEG")
        picture().save(folder / f"c{k}.ppm")
        for ending in (".docx", ".svg", ".html", ".jxl", ""):
            (folder / f"d{k}{ending}").write_bytes(b"\x00")
    retriever = FreeRet(tiny("qwen2.5-vl"), Recipe.e5v())
    done = retriever.index(Files([folder]), tmp_path / "store")
    assert done.added == 3 * count
    assert done.passed_over == dict.fromkeys(
        [".docx", ".svg", ".html", ".jxl", "without ending"], count
    )
    assert sum(done.passed_over.values()) + done.added == len(list(folder.iterdir()))


def test_texts_are_read_whole_and_tables_by_row(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.rst", "b.LOG", "c.text", "d.markdown", "e.org", "f.adoc")
    (folder / "g.ndjson").write_text('{"text": "g"}\n')
    (folder / "h.tsv").write_text("text\tyear\nh\t1\n")
    (folder / "i.jsonl.gz").write_bytes(gzip.compress(b'{"text": "i"}\n{"text": "j"}\n'))
    (folder / "k.CSV.GZ").write_bytes(gzip.compress(b"text\nk\n"))
    items = [item for item in Files([folder], folder_names=False) if isinstance(item, Item)]
    assert [item.id for item in items] == [
        "a.rst", "b.LOG", "c.text", "d.markdown", "e.org", "f.adoc",
        "g.ndjson:1", "h.tsv:2", "i.jsonl.gz:1", "i.jsonl.gz:2", "k.CSV.GZ:2",
    ]  # fmt: skip
    assert [item.text for item in items[6:]] == ["g", "h", "i", "j", "k"]


def test_what_an_optional_package_reads_is_passed_over_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.txt", "b.heic", "c.HEIF", "d.pdf", "e.pdf")
    for package in ("pillow_heif", "pypdfium2"):
        monkeypatch.setitem(sys.modules, package, None)
    picture_endings.cache_clear()
    try:
        known = Image.registered_extensions().items()
        plain = {k: v for k, v in known if k not in (".heic", ".heif", ".hif")}
        monkeypatch.setattr(Image, "EXTENSION", plain)
        listing = Files([tmp_path]).listing()
        assert [name for _, name in listing.files] == [f"{tmp_path.name}/a.txt"]
        assert passed_over_in_words(listing.passed_over) == (
            "4 files passed over: 2 .pdf (needs pypdfium2), 1 .heic (needs pillow-heif), "
            "1 .heif (needs pillow-heif)"
        )
        for name, package in (("b.heic", "pillow-heif"), ("d.pdf", "pypdfium2")):
            with pytest.raises(BadItem, match=rf"{name} needs {package}: pip install 'freeret"):
                list(Files([tmp_path / name]))
    finally:
        picture_endings.cache_clear()


# ------------------------------------------------------------------- files that no user wrote


ASIDE = {
    "hidden": ["._a.txt", ".notes.txt", ".git/x.md", ".venv/lib/b.txt", ".~lock.a.txt#",
               "sub/.ipynb_checkpoints/c.md"],
    "lock files": ["~$doc.txt"],
    "__MACOSX": ["__MACOSX/._a.txt", "__MACOSX/b.txt"],
    "node_modules": ["sub/node_modules/p/readme.md"],
    "__pycache__": ["__pycache__/a.txt"],
}  # fmt: skip


def test_companions_and_environments_are_passed_over(tmp_path: Path, bucket: Bucket) -> None:
    """Here a hidden folder counts once, at a URL its files do."""
    write(
        tmp_path, "a.txt", "sub/b.md", "Thumbs.db", *(f for files in ASIDE.values() for f in files)
    )
    listing = Files([tmp_path], folder_names=False).listing()
    assert [name for _, name in listing.files] == ["a.txt", "sub/b.md"]
    assert listing.passed_over == {
        "hidden": 6, "lock files": 1, "__MACOSX": 1, "node_modules": 1, "__pycache__": 1, ".db": 1
    }  # fmt: skip
    there = Files([bucket.put(tmp_path)], folder_names=False).listing()
    assert [name for _, name in there.files] == ["a.txt", "sub/b.md"]
    assert there.passed_over == {reason: len(files) for reason, files in ASIDE.items()} | {".db": 1}
    for asked in (".git", ".notes.txt"):
        assert len(list(Files([tmp_path / asked]))) == 1, "it was asked for"


def test_an_environment_of_any_name_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "mine/pyvenv.cfg", "mine/lib/python3/LICENSE.txt")
    listing = Files([tmp_path]).listing()
    assert (len(listing.files), listing.passed_over) == (1, {"virtual environments": 1})


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path / "in", "a.txt", "z/b.txt")
    write(tmp_path / "elsewhere", "c.txt", "deep/d.txt")
    links = {
        "in/link": tmp_path / "elsewhere", "in/second": tmp_path / "elsewhere",
        "in/loop": tmp_path / "in", "elsewhere/back": tmp_path / "in",
        "elsewhere/deep/up": tmp_path / "elsewhere", "in/b-is-z": tmp_path / "in" / "z",
        "in/self": tmp_path / "in" / "self", "in/broken": tmp_path / "none",
        "in/c.txt": tmp_path / "elsewhere" / "c.txt",
    }  # fmt: skip
    for link, target in links.items():
        (tmp_path / link).symlink_to(target)
    listing = Files([tmp_path / "in"], folder_names=False, on_error="skip").listing()
    assert [name for _, name in listing.files] == [
        "a.txt", "c.txt", "link/c.txt", "link/deep/d.txt", "z/b.txt"
    ]  # fmt: skip
    assert listing.passed_over["links to folders that are read already"] == 5
    # A link to itself is an error to some versions of Python, and broken to others.
    assert listing.passed_over["broken links"] + len(listing.bad) == 2


def test_what_is_no_file_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "a.txt")
    os.mkfifo(tmp_path / "pipe.txt")
    listing = Files([tmp_path]).listing()
    assert (len(listing.files), listing.passed_over) == (1, {"devices and sockets": 1})


def as_nobody(work: Callable[[], list[str]]) -> list[str]:
    """What `work` returns in a process that may not read everything, as root may."""
    ours, theirs = os.pipe()
    if os.fork() == 0:
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            answer = work()
        except BaseException as error:
            answer = [repr(error)]
        os.write(theirs, json.dumps(answer).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answers:
        return json.loads(answers.read())


def test_an_unreadable_folder_is_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("in")
    write(folder, "open/a.txt", "closed/b.txt", "noenter/c.txt", "unreadable.txt")
    for outer in (folder, *folder.parents[:3]):  # a worker of xdist has a folder of its own
        if outer.stat().st_uid == os.geteuid():
            outer.chmod(0o755 | outer.stat().st_mode)

    def read() -> list[str]:
        found = [str(i) if isinstance(i, BadItem) else f"{i.id} is read" for i in files]
        try:
            return [*found, str(list(Files([folder])))]
        except BadItem as error:
            return [*found, f"{error.item} stops it"]

    files, name = Files([folder], on_error="skip"), folder.name
    modes = {"closed": 0o000, "noenter": 0o444, "unreadable.txt": 0o000}
    for closed, mode in modes.items():
        (folder / closed).chmod(mode)
    try:
        found = as_nobody(read)
    finally:
        for closed in modes:
            (folder / closed).chmod(0o755)
    begin = [
        f"{name}/closed: cannot list {folder}/closed: Permission denied",
        f"{name}/noenter/c.txt: cannot read",
        f"{name}/open/a.txt is read",
        f"{name}/unreadable.txt: cannot read",
        f"{name}/closed stops it",
    ]
    found = [line.replace("item '", "").replace("': ", ": ") for line in found]
    assert [line.startswith(b) for line, b in zip(found, begin, strict=True)] == [True] * 5, found


def test_a_folder_without_anything_to_read_is_an_error(
    tmp_path: Path, tiny: Callable[[str], Backbone]
) -> None:
    write(tmp_path / "in", "a.docx", "b.docx", ".c.txt")
    (tmp_path / "empty").mkdir()
    retriever = FreeRet(tiny("llama"), PLAIN)
    nothing = "holds no file that can be read"
    cases = [
        ("in", f"in {nothing}: 3 files passed over: 2 .docx, 1 hidden"),
        ("empty", f"empty {nothing}"),
    ]
    for folder, reason in cases:
        for on_error in ("raise", "skip"):
            with pytest.raises(BadItem, match=reason):
                retriever.index(tmp_path / folder, tmp_path / "store", on_error=on_error)
    assert not (tmp_path / "store").exists()


# ----------------------------------------------------------------------------- by their bytes


def test_the_kind_of_bytes_is_that_of_their_file(tmp_path: Path) -> None:
    """Two hundred damaged ones raise nothing; those that are cut are still known."""
    write_damaged(tmp_path)
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        kind = kind_of_bytes(content)
        assert kind == kind_of(path) or not path.name.startswith("whole"), path
        if kind is not None:
            assert kind_of_bytes(content[:100]) in (kind, None)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"P1 meeting", b"BM", b"a text", "Zürich\n".encode(), b"II*\x00", b"\n\x00\x01",
     b"{}", b"%PDF-1.7\n", b"PK\x03\x04", b"RIFF\x00\x00\x00\x00ACON", bytes(64)],
)  # fmt: skip
def test_bytes_that_are_no_media_are_not_guessed(content: bytes) -> None:
    assert kind_of_bytes(content) is None
