"""The finished parts of an ablation of one dataset, on disk so that a killed one resumes."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from freeret.evaluate.journal import Journal, MarginFile
from freeret.evaluate.results.kept import slug


@dataclass(frozen=True)
class Scratch:
    """A folder of journals: `grid.jsonl`, a row per prompt; `margins-<frame>.jsonl`, a row per
    query; and `first.trec`, the ranking that stage 2 judges."""

    folder: Path
    identity: str
    """Of the dataset and everything that decides a score; journals of another are dropped."""

    @property
    def grid(self) -> Journal:
        return Journal(self.folder / "grid.jsonl", self.identity)

    def margins(self, frame: str) -> MarginFile:
        return MarginFile(self.folder / f"margins-{slug(frame)}.jsonl", self.identity)

    @property
    def first(self) -> Path:
        return self.folder / "first.trec"

    def seconds(self) -> float:
        """Time that the kept parts took."""
        files = self.folder.glob("*.jsonl")
        return sum((Journal(file, self.identity).seconds for file in files), 0.0)

    def remove(self) -> None:
        """Delete the folder: all of it has gone into a result."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # other datasets are still in work
            self.folder.parent.rmdir()
