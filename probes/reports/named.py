"""Saved reports by name: where the file of each is, and how to call several of them apart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from probes.data import REPORTS


def report_file(name: str | Path) -> Path:
    """The file of a report, by its path, the folder that `freeret probe` wrote, or the alias of an
    embedded backbone, whose report is shipped."""
    path = Path(name)
    if path.is_dir():
        return path / "report.json"
    shipped = REPORTS / f"{name}.json"
    return shipped if not path.exists() and shipped.is_file() else path


def titles(fingerprints: Sequence[Mapping[str, Any]], files: Sequence[Path | None]) -> list[str]:
    """What to call each of several reports, by the fingerprints of their backbones and by their
    files, None for a report in memory.

    They are the names of the models. Where two are the same, the first of these that differ: the
    names with their revisions, the folders of the files, their paths, the names with numbers.
    """
    names = [Path(each["model"]).name for each in fingerprints]
    revised = [
        f"{name} {each['revision']}" if each.get("revision") else name
        for name, each in zip(names, fingerprints, strict=True)
    ]
    options = [names, revised]
    paths = [file for file in files if file is not None]
    if len(paths) == len(files):
        options.append([path.absolute().parent.name for path in paths])
        options.append([str(path.with_suffix("")) for path in paths])
    numbered = [f"{name} ({number})" for number, name in enumerate(names, start=1)]
    return next((o for o in options if len(set(o)) == len(o)), numbered)
