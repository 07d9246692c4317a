"""Suites by name: `beir:FOLDER`, `sts:FILE`, `mmeb:FOLDER`, …, as loaders of datasets."""

import difflib
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.loaders import mbeir, mixed, pictures, scenes
from freeret.evaluate.loaders.beir import check_beir, load_beir
from freeret.evaluate.loaders.folder import check_folder, load_folder
from freeret.evaluate.loaders.irds import check_ir_dataset, load_ir_dataset
from freeret.evaluate.loaders.mbeir import find_mbeir, load_mbeir
from freeret.evaluate.loaders.mixed import load_mixed
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb import v2 as mmeb_v2
from freeret.evaluate.loaders.mmeb.images import find_mmeb, load_mmeb
from freeret.evaluate.loaders.mmeb.v2 import find_mmeb_v2, load_mmeb_v2
from freeret.evaluate.loaders.pictures import check_kind, load_pictures
from freeret.evaluate.loaders.scenes import load_scenes
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
    "pictures": "captioned pictures that come with freeret: all, photographs or drawings",
    "scenes": "number of pools of drawn scenes, with seven tasks and three kinds of hard negatives "
    "each: scenes:3, or scenes:3x24 for pools of 24",
    "scenes-mixed": "number of pools that mix captions, pictures and both: scenes-mixed:3",
}

__all__ = [
    "SUITES", "find_mbeir", "find_mmeb", "find_mmeb_v2", "load_beir", "load_folder",
    "load_ir_dataset", "load_mbeir", "load_mmeb", "load_mmeb_v2", "load_sts", "suite",
]  # fmt: skip


def suite(spec: str) -> list[Loader]:
    """The loaders of a suite, `KIND:WHERE`, one per dataset.

    Raises BadSetting for an unknown kind, BadFile when its files do not exist. They are read, and
    may be found damaged, only when the loader is called.
    """
    kind, colon, where = spec.partition(":")
    if not colon or kind not in SUITES or not where:
        listed = "\n".join(f"  {kind}:…  {text}" for kind, text in SUITES.items())
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
        case "pictures":
            chosen = check_kind(where)
            return [functools.partial(load_pictures, chosen, task) for task in pictures.TASKS]
        case "scenes":
            return _pools(spec, (*scenes.TASKS, *scenes.FAILURES), load_scenes)
        case "scenes-mixed":
            return _pools(spec, mixed.TASKS, load_mixed)
        case "folder":
            check_folder(where)
            return [lambda: load_folder(where)]
        case "mbeir":
            return _several(where, mbeir.NAMES, find_mbeir, load_mbeir)
        case "mmeb":
            return _several(where, mmeb.NAMES, find_mmeb, load_mmeb)
        case "mmeb-v2":
            return _several(where, mmeb_v2.NAMES, find_mmeb_v2, load_mmeb_v2)
        case _:
            raise AssertionError(f"the suite {kind!r} has no loader here")


def _pools(spec: str, tasks: Sequence[str], load: Callable[..., Dataset]) -> list[Loader]:
    """Each task over each of several pools of scenes, which are 100 each unless the suite says
    otherwise."""
    pools, _, size = spec.partition(":")[2].partition("x")
    if not pools.isdecimal() or not (size or "100").isdecimal():
        kind = spec.partition(":")[0]
        raise BadSetting(f"{spec}: give a number of pools, such as {kind}:3")
    return [
        functools.partial(load, seed, task, int(size or 100))
        for seed, task in itertools.product(range(int(pools)), tasks)
    ]


def _several(
    where: str,
    known: Sequence[str],
    find: Callable[[Path], list[str]],
    load: Callable[[Path, str], Dataset],
) -> list[Loader]:
    """Each dataset of a folder, or the one that is named behind its path.

    Raises BadSetting for a misspelled name of a dataset.
    """
    path = Path(where)
    if path.parent.is_dir() and not path.exists():
        spelled = {name.casefold(): name for name in known}
        for match in difflib.get_close_matches(path.name.casefold(), spelled, n=1):
            if spelled[match] != path.name:
                meant = path.parent / spelled[match]
                raise BadSetting(f"there is no dataset {path.name!r}; did you mean {meant}?")
    root, names = (path.parent, [path.name]) if path.name in known else (path, find(path))
    return [lambda name=name: load(root, name) for name in names]
