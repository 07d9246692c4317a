"""The files below a folder in a fixed order, without those that no user wrote."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENVIRONMENT = "pyvenv.cfg"
"""The file that marks a folder as a virtual environment of Python."""
NOT_OF_THE_USER = {
    "__MACOSX", "__pycache__", "node_modules", "lost+found", "$RECYCLE.BIN",
    "System Volume Information",
}  # fmt: skip


@dataclass
class Tree:
    """The files at a path or URL, each with its name below the folder, in the order of names."""

    folder: bool
    """Whether it is a folder, and not a single file."""
    files: list[tuple[Any, str]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    """Number of files and folders that are passed over, by reason."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """Folders that cannot be listed: name below the folder, and reason."""


def set_aside(name: str) -> str | None:
    """The reason to pass over a file or folder of this name, or None."""
    if name.startswith("."):  # also ._a.png of macOS, .~lock.a.odt# and .git
        return "hidden"
    if name.startswith("~$"):
        return "lock files"
    return name if name in NOT_OF_THE_USER else None


def walk(root: Path) -> Tree:
    """Every file below a folder. Links to folders are followed after all real folders, and each
    folder is read once, so loops of links end."""
    tree, seen, links = Tree(folder=True), set[tuple[int, int]](), list[Path]()
    waiting = [root]
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                tree.passed_over["links to folders that are read already"] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            tree.unreadable.append((_below(folder, root), error.strerror or str(error)))
            continue
        if folder != root and any(entry.name == ENVIRONMENT for entry in entries):
            tree.passed_over["virtual environments"] += 1
            continue
        for entry in entries:
            _sort(entry, tree, root, waiting, links)
        links.sort()
    tree.files.sort(key=lambda pair: Path(pair[1]).parts)
    return tree


def _sort(
    entry: os.DirEntry[str], tree: Tree, root: Path, waiting: list[Path], links: list[Path]
) -> None:
    path, reason = Path(entry.path), set_aside(entry.name)
    try:
        if reason is not None:
            tree.passed_over[reason] += 1
        elif entry.is_dir(follow_symlinks=False):
            waiting.append(path)
        elif entry.is_dir():
            links.append(path)
        elif entry.is_file():
            tree.files.append((path, _below(path, root)))
        elif entry.is_symlink():
            tree.passed_over["broken links"] += 1
        else:
            tree.passed_over["devices and sockets"] += 1
    except OSError as error:  # a link through a folder that may not be entered, or to itself
        tree.unreadable.append((_below(path, root), error.strerror or str(error)))


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
