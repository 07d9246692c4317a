"""Paths and URLs as a stream of items. Every file that is not read is counted."""

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from freeret.sources import folders, remote, tables
from freeret.sources.folders import Tree
from freeret.sources.remote import RemoteFile
from freeret.sources.tables import BadRow
from probes import Item
from probes.arguments import check_choice
from probes.errors import BadItem
from probes.items import Part, as_id, as_item, whole_path
from probes.media.formats import NEEDS, Modality, kind_of, known_endings
from probes.media.sources import WEB, Limits

File = Path | RemoteFile
PDF = ".pdf"
DOTS = 150 / 72
"""Pixels per point of a rendered PDF page: 150 per inch."""


@dataclass(frozen=True)
class Files:
    """The items of files and folders in sorted order. It can be iterated again, or file by file.

    Texts become one item per file, tables (.jsonl, .csv, .tsv, .parquet) one per row, and PDFs one
    picture per page. Pictures, videos and audio are kept by path, or from a URL by their bytes.

    A file's id is its path from the folder that was given, including that folder's name:
    `docs/a.txt`, whatever else is given and in which order. A file given alone is named as if its
    folder had been given. A row without an id takes the file's id and its line number.

    Args:
        paths: Paths; a str is a path unless it is a URL (`s3://…`, see `freeret.sources.remote`).
        text_field: Column of a table that holds the text.
        id_field: Column that holds the id.
        on_error: `"raise"` raises BadItem for a row, file or folder that cannot be read; `"skip"`
            puts the BadItem into the stream in its place.
        limits: Limits on files that are read from a URL.
        image_field: Column that holds pictures, as paths beside the table, data URLs, bytes or
            `{"bytes", "path"}`. Media come before the text.
        video_field: Column that holds videos.
        audio_field: Column that holds audio.
        metadata_fields: Columns that become metadata; by default all that hold no content.
        folder_names: Whether ids begin with the name of the folder that was given.

    Raises:
        BadItem: On iteration, for a path or URL that leads to nothing; see also `on_error`.
        BadSetting: `on_error` is neither of the two.
    """

    paths: Sequence[Path | str]
    text_field: str = "text"
    id_field: str = "id"
    on_error: str = "raise"
    limits: Limits = field(default_factory=Limits)
    image_field: str | None = None
    video_field: str | None = None
    audio_field: str | None = None
    metadata_fields: Sequence[str] | None = None
    folder_names: bool = True

    def __post_init__(self) -> None:
        check_choice("on_error", self.on_error, ("raise", "skip"))
        if isinstance(self.paths, Path | str):  # not its characters
            object.__setattr__(self, "paths", (self.paths,))
        if isinstance(self.metadata_fields, str):
            object.__setattr__(self, "metadata_fields", (self.metadata_fields,))

    def __iter__(self) -> Iterator[Item | BadItem]:
        yield from self.listing()

    def listing(self) -> "Listing":
        """The files that are there now, to be counted and then read.

        Raises:
            BadItem: A path or URL leads to nothing, or to a folder without a readable file; unless
                `on_error` is "skip", also for a folder that cannot be listed or an empty file.
        """
        listing = Listing(self)
        for path in self.paths:
            listing.add(path)
        if listing.bad and self.on_error == "raise":
            raise listing.bad[0]
        return listing

    def read(self, file: File, name: str) -> Iterator[Item | BadItem]:
        """The items of one file."""
        for item in self._read(file, name):
            if isinstance(item, BadItem) and self.on_error == "raise":
                raise item
            yield item

    def _read(self, file: File, name: str) -> Iterator[Item | BadItem]:
        try:
            if tables.is_table(_path(file)):
                for line, row in tables.rows(file):
                    yield self._row(row, file, f"{name}:{line}", f"{_source(file)}:{line}")
            elif _path(file).suffix.lower() == PDF:
                yield from self._pages(file, name)
            elif isinstance(file, Path):
                yield as_item(file, id=name)
            else:
                yield file.item(name, self.limits)
        except BadItem as error:
            yield error
        except OSError as error:
            yield BadItem(f"{name}: cannot read {file}: {remote.why(error)}", name)

    def _row(self, row: Any, file: File, place: str, source: str) -> Item | BadItem:
        if isinstance(row, BadRow):
            return BadItem(f"{place}: {row}", place)
        id = place
        try:
            id = as_id(row.get(self.id_field)) or place
            fields: dict[Modality, str | None] = {
                "image": self.image_field, "video": self.video_field, "audio": self.audio_field
            }  # fmt: skip
            parts = [
                Part(kind, self._media(value, kind, file, place, id))
                for kind, name in fields.items()
                for value in _values(row.get(name) if name else None)
            ]
            text = row.get(self.text_field)
            if isinstance(text, str):
                parts += [Part("text", text)] if text.strip() or not parts else []
            elif text is not None or not parts:
                raise BadItem(self._no_content(row, place), id)
            used = {self.text_field, self.id_field, *fields.values()}
            columns = row.keys() - used if self.metadata_fields is None else self.metadata_fields
            metadata = {key: row[key] for key in row if key in columns}
            return Item(parts=parts, id=id, metadata=metadata, source=source)
        except BadItem as error:
            # The error names the item by its id; add where the row stands.
            message = str(error) if place in str(error) else f"{place}: {error}"
            return BadItem(message, id)

    def _no_content(self, row: Any, place: str) -> str:
        fields = ", ".join(map(str, row)) or "none"
        media = [name for name in (self.image_field, self.video_field, self.audio_field) if name]
        nothing = f", and nothing in {', '.join(map(repr, media))}" if media else ""
        return (
            f"{place}: no text in the field {self.text_field!r}{nothing}; fields: {fields}. "
            "Use --text-field, or --image-field for pictures"
        )

    def _media(self, value: Any, kind: Modality, file: File, place: str, id: str) -> Any:
        """A value of a media column: bytes as they are, a path resolved beside the table."""
        if isinstance(value, dict) and set(value) <= {"bytes", "path"}:
            value = value.get("path") if value.get("bytes") is None else value["bytes"]
        if not isinstance(value, str) or value.startswith(("data:", *WEB)):
            return value
        name = f"{place}: {value}"
        if isinstance(file, Path):
            path = file.parent / value
            if not path.is_file():
                raise BadItem(f"{name}: there is no file {path}", id)
            return path
        if urlsplit(value).scheme or value.startswith("/"):
            raise BadItem(f"{name}: a path in a table at a URL must be relative to it", id)
        beside = file.beside(value)
        try:
            return beside.media(kind, name, id, self.limits)
        except OSError as error:
            raise BadItem(f"{name}: cannot read {beside}: {remote.why(error)}", id) from None

    def _pages(self, file: File, name: str) -> Iterator[Item]:
        """Every page of a PDF as a PNG."""
        import pypdfium2

        content = file if isinstance(file, Path) else file.content(self.limits)
        try:
            with pypdfium2.PdfDocument(content) as document:
                for number in range(len(document)):
                    page = document[number]
                    width, height = page.get_size()
                    scale = min(DOTS, math.sqrt(self.limits.pixels / max(1, width * height)))
                    png = io.BytesIO()
                    page.render(scale=scale).to_pil().save(png, "PNG")  # type: ignore[arg-type]
                    page.close()
                    place = f"{name}:{number + 1}"
                    source = f"{_source(file)}:{number + 1}"
                    yield Item(images=[png.getvalue()], id=place, source=source)
        except pypdfium2.PdfiumError as error:
            raise BadItem(f"{name}: cannot read {file}: {error}", name) from None


def page_count(file: File) -> int:
    """Number of pages of a PDF, without rendering any; 1 when it cannot be read."""
    import pypdfium2

    try:
        content = file if isinstance(file, Path) else file.content(Limits())
        with pypdfium2.PdfDocument(content) as document:
            return len(document)
    except (pypdfium2.PdfiumError, OSError, BadItem):
        return 1


@dataclass(frozen=True)
class Listing:
    """The files of `Files` at one moment: a stream of their items, and what is left out of it."""

    source: Files
    files: list[tuple[File, str]] = field(default_factory=list)
    """Every file with its name, which the ids of its items begin with."""
    bad: list[BadItem] = field(default_factory=list)
    """Folders that cannot be listed, and files that are empty or of an unknown format."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Number of files that are not read, by ending or reason."""
    roots: list[tuple[str, str]] = field(default_factory=list)
    """Place and name of each file and folder that was given."""

    def __iter__(self) -> Iterator[Item | BadItem]:
        yield from self.bad
        for file, name in self.files:
            yield from self.source.read(file, name)

    def shows(self) -> bool:
        """Whether there is a picture or a clip among the files, or a column for them in tables."""
        columns = (self.source.image_field, self.source.video_field)
        kinds = {kind_of(_path(file)) for file, _ in self.files}
        return any(columns) or not kinds.isdisjoint({"image", "video"})

    def name_of(self, source: str) -> str | None:
        """The name of an item's source (`Item.source`) below the roots, or None for a source
        outside them."""
        for place, name in self.roots:
            if source == place or source.startswith((f"{place}/", f"{place}:")):
                return name + source.removeprefix(place)
        return None

    def add(self, path: Path | str) -> None:
        """List one more path or URL."""
        tree, place, name = _find(path)
        self.roots.append((place, name))
        before, passed_over = len(self.files), Counter(tree.passed_over)
        bad = len(self.bad)
        for below, reason in tree.unreadable:
            folder = name if below == "." else f"{name}/{below}"
            self.bad.append(BadItem(f"{folder}: cannot list {place}/{below}: {reason}", folder))
        for file, below in tree.files:
            path_of = _path(file)
            reason = _not_read(path_of)
            if reason is None:
                whole = f"{name}/{below}" if tree.folder else name
                file_name = whole if self.source.folder_names else below
                if _is_empty(file):
                    self.bad.append(BadItem(f"{file_name!r} is empty", file_name))
                else:
                    self.files.append((file, file_name))
            elif tree.folder:
                passed_over[reason] += 1
            else:
                self.bad.append(BadItem(_unknown(file, name), name))
        self.passed_over.update(passed_over)
        if tree.folder and len(self.files) == before and len(self.bad) == bad:
            held = f": {passed_over_in_words(passed_over)}" if passed_over else ""
            raise BadItem(f"{path} holds no file that can be read{held}", name)


def passed_over_in_words(counts: Mapping[str, int]) -> str:
    """Such as `4 files passed over: 3 .heic (needs pillow-heif), 1 hidden`."""
    total = sum(counts.values())
    each = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    listed = ", ".join(f"{count} {reason}" for reason, count in each)
    return f"{total} file{'s' * (total != 1)} passed over: {listed}"


def listed(items: Any) -> Listing | None:
    """A listing of what `index` was given, if that is files and folders alone: a listing, `Files`,
    a path or a list of paths. None for anything else."""
    if isinstance(items, Listing):
        return items
    if isinstance(items, Path):
        items = [items]
    if isinstance(items, list | tuple) and items and all(isinstance(i, Path) for i in items):
        items = Files(items)
    return replace(items, on_error="skip").listing() if isinstance(items, Files) else None


def _is_empty(file: File) -> bool:
    """Whether a local file holds no bytes. An empty table has no rows, which is no error."""
    try:
        return isinstance(file, Path) and not tables.is_table(file) and file.stat().st_size == 0
    except OSError:
        return False  # reported when the file is read


def _find(path: Path | str) -> tuple[Tree, str, str]:
    """What is at a path or URL, its whole place, and the name that ids begin with."""
    if isinstance(path, str) and "://" in path:
        tree = remote.find(path)
        place = remote.without_secrets(path).rstrip("/")
        if not tree.folder:
            place = str(tree.files[0][0])
        elif tree.files:
            first, below = tree.files[0]
            place = str(first).removesuffix(f"/{below}")
        steps = [step for step in place.partition("://")[2].split("/") if step]
        return tree, place, "/".join(steps[-1:] if tree.folder else steps[-2:])
    place = whole_path(Path(path))
    try:
        if Path(path).is_dir():
            return folders.walk(Path(path)), place, Path(place).name
        if not Path(path).exists():
            raise BadItem(f"there is nothing at {path}", str(path))
    except (OSError, ValueError) as error:
        raise BadItem(f"cannot read {path}: {error}", str(path)) from None
    name = "/".join(Path(place).parts[1:][-2:])
    return Tree(False, [(Path(path), Path(place).name)]), place, name


def _not_read(path: Path | PurePosixPath) -> str | None:
    """Why a file of this name is not read: its ending, with what would read it; None if it is."""
    ending = tables.ending(path)
    if tables.is_table(path) or kind_of(path) is not None or (ending == PDF and _reads_pdf()):
        return None
    needed = NEEDS.get(ending)
    return f"{ending} (needs {needed})" if needed else ending or "without ending"


def _reads_pdf() -> bool:
    try:
        import pypdfium2  # noqa: F401
    except ImportError:
        return False
    return True


def _unknown(file: File, name: str) -> str:
    needed = NEEDS.get(_path(file).suffix.lower())
    if needed:
        return f"{name}: {file} needs {needed}: pip install 'freeret[formats]'"
    known = " ".join([*tables.ENDINGS, PDF, known_endings()])
    return f"{name}: cannot tell what {file} is; known: {known}"


def _path(file: File) -> Path | PurePosixPath:
    return file if isinstance(file, Path) else PurePosixPath(file.path)


def _source(file: File) -> str:
    return whole_path(file) if isinstance(file, Path) else str(file)


def _values(value: Any) -> list[Any]:
    """The media of a cell: one, several or none."""
    if isinstance(value, list | tuple):
        return [one for one in value if one not in (None, "")]
    return [] if value is None or value == "" else [value]
