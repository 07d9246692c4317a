"""Files at object-store URLs, through pyarrow's filesystems with the credentials they find.

s3://bucket/folder   gs://bucket/folder   abfs://container@account.dfs.core.windows.net/folder
file:///folder       s3://…?region=eu-west-1&endpoint_override=host:port   gs://…?retry_limit_seconds=30
"""

import io
import posixpath
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from freeret.sources.folders import Tree, set_aside
from probes import Item
from probes.errors import BadItem
from probes.media.formats import kind_of
from probes.media.parts import Part, text_part
from probes.media.sources import Limits, check_size

AHEAD = 2**23
"""Bytes of a table per request: each request to an object store takes a round trip."""
URL_CHARACTERS = "%/:?[]@!$&'()*+,;=~"
"""Characters with a meaning in a URL; others in an object's name (a space, #, 日) are quoted."""


@dataclass(frozen=True)
class RemoteFile:
    """One file at a URL. Pickling it takes the credentials along."""

    filesystem: FileSystem
    path: str
    scheme: str

    def __str__(self) -> str:
        """Its URL without credentials and options."""
        return f"{self.scheme}://{self.path}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:
        """Its bytes as from `Path.open`, fetched piece by piece. Raises OSError."""
        stream: Any = self.filesystem.open_input_stream(
            self.path, compression=None, buffer_size=AHEAD
        )
        return io.BufferedReader(stream)

    def beside(self, path: str) -> "RemoteFile":
        """The file at a path relative to the folder of this one."""
        whole = posixpath.normpath(posixpath.join(posixpath.dirname(self.path), path))
        return RemoteFile(self.filesystem, whole, self.scheme)

    def content(self, limits: Limits) -> bytes:
        """All its bytes. Raises BadItem for a file over the limit, OSError."""
        with self.filesystem.open_input_file(self.path) as file:
            check_size(file.size(), limits)
            return file.read()

    def item(self, id: str, limits: Limits) -> Item:
        """The whole file as one item. Media are kept as bytes, for a path would lead nowhere.

        Raises:
            BadItem: It is not text, or media over the limit, which are not fetched.
            OSError: It cannot be fetched.
        """
        kind, name = kind_of(PurePosixPath(self.path)) or "text", f"item {id!r}"
        if kind == "text":
            with self.open() as file:
                part = text_part(file, f"{name}: {self}", id)
        else:
            part = Part(kind, self.media(kind, name, id, limits))
        return Item(parts=[part], id=id, source=str(self))

    def media(self, kind: str, name: str, id: str, limits: Limits) -> bytes:
        """The bytes of a picture, video or audio. Raises BadItem, OSError."""
        try:
            content = self.content(limits)
        except BadItem as error:
            raise BadItem(f"{name}: cannot read the {kind}: {error}", id) from None
        return content


def find(url: str) -> Tree:
    """The files of a folder at a URL, or the single file there. Raises BadItem when there is
    neither, or when the URL cannot be parsed or reached."""
    shown, url = without_secrets(url), quote(url, safe=URL_CHARACTERS)
    try:
        filesystem, path = FileSystem.from_uri(url)
        here = filesystem.get_file_info(path)
        folder = here.type == FileType.Directory
        listed = filesystem.get_file_info(FileSelector(path, recursive=True)) if folder else [here]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadItem(f"cannot read {shown}: {why(error).replace(url, shown)}", shown) from None
    if here.type == FileType.NotFound:
        raise BadItem(f"there is nothing at {shown}; list it with the store's own tools", shown)
    scheme, tree = url.partition("://")[0], Tree(folder)
    for info in listed:
        if info.type != FileType.File:
            continue
        below = info.path.removeprefix(path).lstrip("/") if folder else info.base_name
        reason = next(filter(None, map(set_aside, below.split("/"))), None) if folder else None
        if reason is not None:
            tree.passed_over[reason] += 1
        else:
            tree.files.append((RemoteFile(filesystem, info.path, scheme), below))
    tree.files.sort(key=lambda file: file[1].split("/"))  # the order of Path
    return tree


def why(error: Exception) -> str:
    """An error of listing or reading in one line, with the remedy."""
    reason = (str(error) or repr(error)).splitlines()[0][:300]
    if isinstance(error, FileNotFoundError):
        return f"it was there when files were listed and is gone ({reason}); run it again"
    if isinstance(error, OSError):
        return f"{reason}; check permissions, credentials, region and network"
    return f"{reason}; known are s3://, gs://, abfs:// and file:///"


def without_secrets(url: str) -> str:
    """The URL without its password, and without options, which may hold a secret."""
    return re.sub(r"://([^/?@:]*):[^@]*@", r"://\1@", url).partition("?")[0]
