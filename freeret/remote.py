"""Files at object-store URLs, reached by pyarrow's filesystems with the credentials they find.

s3://bucket/folder   gs://bucket/folder   abfs://container@account.dfs.core.windows.net/folder
file:///folder       s3://…?region=eu-west-1&endpoint_override=host:port   gs://…?retry_limit_seconds=30
"""

import io
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow.fs import FileSelector, FileSystem, FileType

from probes import Item
from probes.errors import BadItem
from probes.items import SUFFIXES, Kind, Part
from probes.media import Limits, check_size, reading

AHEAD = 2**23
"""Bytes of a table asked for at once; every request to an object store waits."""
URL_CHARACTERS = "%/:?[]@!$&'()*+,;=~"
"""What has a meaning in a URL already; a space, a # or 日 in the name of an object has none."""


@dataclass(frozen=True)
class RemoteFile:
    """One file at a URL. It can be pickled, and takes its credentials along."""

    filesystem: FileSystem
    path: str
    scheme: str

    def __str__(self) -> str:
        """Its URL, without credentials and options."""
        return f"{self.scheme}://{self.path}"

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix

    def open(self, encoding: str, newline: str | None = None) -> io.TextIOWrapper:
        """Its text, as `Path.open` gives it; a part at a time is fetched. Raises OSError."""
        stream: Any = self.filesystem.open_input_stream(
            self.path, compression=None, buffer_size=AHEAD
        )
        return io.TextIOWrapper(stream, encoding=encoding, newline=newline)

    def item(self, id: str, limits: Limits) -> Item:
        """All of it as one item; media become their bytes, for a path would lead nowhere.

        Raises BadItem, for media that are too large before they are fetched; OSError.
        """
        suffix = self.suffix.lower()
        kind: Kind = next(kind for kind, known in SUFFIXES.items() if suffix in known)
        if kind == "text":
            try:
                with self.open(encoding="utf-8") as lines:
                    return Item(lines.read(), id=id)
            except UnicodeDecodeError:
                raise BadItem(f"item {id!r}: {self} is not UTF-8 text") from None
        with self.filesystem.open_input_file(self.path) as file:
            size = file.size()
            with reading(f"item {id!r}", kind):
                check_size(size, limits)
            return Item(parts=[Part(kind, file.read())], id=id)


def find(url: str) -> tuple[bool, list[tuple[RemoteFile, str]]]:
    """Whether a folder is at the URL, and its files in sorted order, each with its path below; or
    the one file that is there, with its name. Raises BadItem when there is neither, and when the
    URL cannot be understood or reached."""
    shown, url = _without_secrets(url), quote(url, safe=URL_CHARACTERS)
    try:
        filesystem, path = FileSystem.from_uri(url)
        here = filesystem.get_file_info(path)
        folder = here.type == FileType.Directory
        found = filesystem.get_file_info(FileSelector(path, recursive=True)) if folder else [here]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadItem(f"cannot read {shown}: {why(error).replace(url, shown)}") from None
    if here.type == FileType.NotFound:
        raise BadItem(f"there is nothing at {shown}; list it with the store's own tools")
    scheme = url.partition("://")[0]
    files = [
        (
            RemoteFile(filesystem, info.path, scheme),
            info.path.removeprefix(path).lstrip("/") if folder else info.base_name,
        )
        for info in found
        if info.type == FileType.File
    ]
    return folder, sorted(files, key=lambda file: file[1].split("/"))  # the order of Path


def why(error: Exception) -> str:
    """What went wrong while something was listed or read, and what to do, in one line."""
    reason = (str(error) or repr(error)).splitlines()[0][:300]
    if isinstance(error, FileNotFoundError):
        return f"it was there when files were listed and is gone ({reason}); run it again"
    if isinstance(error, OSError):
        return f"{reason}; check permissions, credentials, region and network"
    return f"{reason}; known are s3://, gs://, abfs:// and file:///"


def _without_secrets(url: str) -> str:
    """A URL may carry a password, and options such as a client's secret."""
    return re.sub(r"://([^/?@:]*):[^@]*@", r"://\1@", url).partition("?")[0]
