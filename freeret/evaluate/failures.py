"""Why datasets were not evaluated, told once per reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from probes.errors import BadFile, BadItem, FreeRetError, one_line

HINT = 'leave bad items out with --skip-bad (on_error="skip")'


class MissingData(BadFile):
    """A dataset of which a table or media files are missing.

    Args:
        dataset: Its name.
        reason: What is missing and where it was looked for.
        source: What to get, from where.
    """

    def __init__(self, dataset: str, reason: str, source: str):
        self.dataset, self.reason, self.source = dataset, reason, source
        super().__init__(f"{dataset}: {reason}; {source}")


@dataclass(frozen=True)
class Failure:
    """A dataset that was not measured, and why."""

    dataset: str
    """Its name; "" where loading failed before the name was known."""
    reason: str
    remedy: str = ""

    @classmethod
    def of(cls, error: BaseException, dataset: str = "") -> "Failure":
        """The failure that an error means for a dataset."""
        if isinstance(error, MissingData):
            return cls(error.dataset, error.reason, error.source)
        return cls(dataset, one_line(error), HINT if isinstance(error, BadItem) else "")


class Unfinished(FreeRetError):
    """Some datasets were not measured; the others were, and their results are in `files`."""

    def __init__(self, failures: Sequence[Failure], files: Sequence[Path]):
        self.failures, self.files = list(dict.fromkeys(failures)), list(files)
        by_reason: dict[str, list[str]] = {}
        for failure in self.failures:
            by_reason.setdefault(failure.reason, []).append(failure.dataset)
        lines = [
            f"{', '.join(filter(None, names))}: {reason}" if any(names) else reason
            for reason, names in by_reason.items()
        ]
        remedies = list(dict.fromkeys(f.remedy for f in self.failures if f.remedy))
        if len(self.failures) == 1:
            super().__init__(f"could not evaluate {'; '.join([*lines, *remedies])}")
        else:
            listed = "\n  ".join([*lines, *remedies])
            super().__init__(f"could not evaluate {len(self.failures)} datasets:\n  {listed}")
