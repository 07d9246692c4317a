"""Read result files and ablations, by path or by the folder that holds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from freeret.evaluate.ablation.file import Ablations
from freeret.evaluate.results.file import Result
from probes.errors import BadFile
from probes.files import read_json


@dataclass(frozen=True)
class Saved:
    """What some files hold, with their paths."""

    results: list[tuple[Path, Result]]
    ablations: list[tuple[Path, Ablations]]


def read_saved(paths: Sequence[Path]) -> Saved:
    """Read results of `freeret eval` and ablations of `freeret ablate`.

    Args:
        paths: Files, or folders: of these, everything below that is one or the other.

    Raises:
        BadFile: A file is neither or cannot be read, or a folder holds none.
    """
    saved = Saved([], [])
    for path in paths:
        if not path.is_dir():
            if not _add(saved, path):
                raise BadFile(
                    f"{path} is neither a result of `freeret eval` nor an ablation of "
                    "`freeret ablate`"
                )
        elif not sum([_add(saved, file) for file in sorted(path.rglob("*.json"))]):
            raise BadFile(
                f"{path} holds no result of `freeret eval` and no ablation of `freeret ablate`"
            )
    return saved


def _add(saved: Saved, file: Path) -> bool:
    """Whether a file is a result or an ablation, which are told apart by their keys."""
    data = read_json(file)
    if isinstance(data, dict) and {"run", "system"} & data.keys():
        saved.results.append((file, Result.load(file)))
    elif isinstance(data, dict) and {"recipe", "depths"} <= data.keys():
        saved.ablations.append((file, Ablations.load(file)))
    else:
        return False
    return True
