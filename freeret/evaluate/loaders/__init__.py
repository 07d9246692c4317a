"""From what is typed to datasets: `beir:FOLDER`, `sts:FILE`, `mmeb:FOLDER`, …"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import mbeir
from freeret.evaluate.loaders.beir import check_beir, load_beir
from freeret.evaluate.loaders.folder import check_folder, load_folder
from freeret.evaluate.loaders.irds import check_ir_dataset, load_ir_dataset
from freeret.evaluate.loaders.mbeir import find_mbeir, load_mbeir
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb import v2 as mmeb_v2
from freeret.evaluate.loaders.mmeb.images import find_mmeb, load_mmeb
from freeret.evaluate.loaders.mmeb.v2 import find_mmeb_v2, load_mmeb_v2
from freeret.evaluate.loaders.scenes import TASKS, load_scenes
from freeret.evaluate.loaders.sts import check_sts, load_sts
from probes.errors import BadSetting

Loader = Callable[[], Dataset]

SUITES = {
    "beir": "a BEIR folder, questions and passages",
    "paraphrases": "a BEIR folder whose relevant documents mean the same as the query",
    "ir": "an id of the ir_datasets catalogue",
    "sts": "a file of sentence pairs",
    "mmeb": "the folder of MMEB-eval, or of it and one dataset: mmeb:FOLDER/ChartQA",
    "mmeb-v2": "the folder of MMEB-V2 (images, videos, documents), or of it and one dataset",
    "mbeir": "the folder of M-BEIR, or of it and one dataset: mbeir:FOLDER/cirr_task7",
    "folder": "a folder of your own: documents/ and queries.jsonl",
    "scenes": "how many pools of drawn scenes, seven tasks each: scenes:3",
}

__all__ = [
    "SUITES", "find_mbeir", "find_mmeb", "find_mmeb_v2", "load_beir", "load_folder",
    "load_ir_dataset", "load_mbeir", "load_mmeb", "load_mmeb_v2", "load_sts", "suite",
]  # fmt: skip


def suite(spec: str) -> list[Loader]:
    """The loaders of a suite, `KIND:WHERE`; each is called when its turn comes.

    Raises BadSetting for an unknown kind, BadFile when nothing is there. What is there may still be
    found damaged by its loader.
    """
    kind, colon, where = spec.partition(":")
    if not colon or kind not in SUITES or not where:
        listed = "\n".join(f"  {kind}:…  {said}" for kind, said in SUITES.items())
        raise BadSetting(f"{spec!r} is not a suite; write one of\n{listed}")
    match kind:
        case "beir":
            check_beir(where)
            return [lambda: load_beir(where)]
        case "paraphrases":
            check_beir(where)
            return [lambda: load_beir(where, task="same meaning", metrics=("P@1", "nDCG@10"))]
        case "ir":
            check_ir_dataset(where)
            return [lambda: load_ir_dataset(where)]
        case "sts":
            check_sts(where)
            return [lambda: load_sts(where)]
        case "scenes":
            if not where.isdecimal():
                raise BadSetting(f"scenes:{where}: give a number of pools, such as scenes:3")
            pools = itertools.product(range(int(where)), TASKS)
            return [lambda seed=seed, task=task: load_scenes(seed, task) for seed, task in pools]
        case "folder":
            check_folder(where)
            return [lambda: load_folder(where)]
        case "mbeir":
            return _several(where, mbeir.NAMES, find_mbeir, load_mbeir)
        case "mmeb":
            return _several(where, mmeb.NAMES, find_mmeb, load_mmeb)
        case _:
            return _several(where, mmeb_v2.NAMES, find_mmeb_v2, load_mmeb_v2)


def _several(
    where: str,
    known: Sequence[str],
    find: Callable[[Path], list[str]],
    load: Callable[[Path, str], Dataset],
) -> list[Loader]:
    """Each dataset of a folder, or the one that stands behind its path."""
    path = Path(where)
    root, names = (path.parent, [path.name]) if path.name in known else (path, find(path))
    return [lambda name=name: load(root, name) for name in names]
