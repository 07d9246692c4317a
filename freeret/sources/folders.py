"""What a folder holds, in a fixed order, and what of it is passed over because no user wrote it."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENT = "pyvenv.cfg"
"""The file that makes a folder a virtual environment of Python."""
NOT_OF_THE_USER = {
    "__MACOSX", "__pycache__", "node_modules", "lost+found", "$RECYCLE.BIN",
    "System Volume Information",
}  # fmt: skip


@dataclass
class Found:
    """The files at a path or URL, each with its name below the folder, in the order of names."""

    folder: bool
    files: list[tuple[Any, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files and folders were not looked at, by the reason."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Folders that cannot be listed, by their names below, each with what is wrong."""


def set_aside(name: str) -> str | None:
    """Why a file or folder of this name is passed over, or None."""
    if name.startswith("."):  # also ._a.png of macOS, .~lock.a.odt# and .git
        return "hidden"
    if name.startswith("~$"):
        return "lock files"
    return name if name in NOT_OF_THE_USER else None


def walk(root: Path) -> Found:
    """Every file below a folder. Links to folders are followed after all others, and each folder
    is read once, so that links which form a loop end."""
    found, seen, links = Found(folder=True), set[tuple[int, int]](), list[Path]()
    waiting = [root]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            about = folder.stat()
            if (about.st_dev, about.st_ino) in seen:
                found.passed_over["links to folders that are read already"] += 1
                continue
            seen.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            found.unreadable.append((_below(folder, root), error.strerror or str(error)))
            continue
        if folder != root and any(entry.name == ENVIRONMENT for entry in entries):
            found.passed_over["virtual environments"] += 1
            continue
        for entry in entries:
            _sort(entry, found, root, waiting, links)
        links.sort()
    found.files.sort(key=lambda pair: Path(pair[1]).parts)
    return found


def _sort(
    entry: os.DirEntry[str], found: Found, root: Path, waiting: list[Path], links: list[Path]
) -> None:
    path, reason = Path(entry.path), set_aside(entry.name)
    try:
        if reason is not None:
            found.passed_over[reason] += 1
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(path)
        elif entry.is_dir():
            links.append(path)
        elif entry.is_file():
            found.files.append((path, _below(path, root)))
        elif entry.is_symlink():
            found.passed_over["broken links"] += 1
        else:
            found.passed_over["devices and sockets"] += 1
    except OSError as error:  # a link through a folder that may not be entered, or to itself
        found.unreadable.append((_below(path, root), error.strerror or str(error)))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
