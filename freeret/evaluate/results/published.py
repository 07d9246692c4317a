"""Values that the paper reports, and which measured means they can be compared with."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath
from typing import Any, Literal

from pydantic import BaseModel

from freeret.evaluate.configuration import Configuration, from_end
from freeret.evaluate.loaders.mmeb import images as mmeb
from freeret.evaluate.loaders.mmeb.video import CLASSIFICATION, RETRIEVAL
from freeret.evaluate.results.file import Result

SUITES: dict[str, tuple[str, ...]] = {
    "MMEB": mmeb.NAMES,
    "video classification": tuple(CLASSIFICATION),
    "video retrieval": tuple(RETRIEVAL),
}
"""Suite -> all its datasets."""
GROUPS = {name: (name,) for name in SUITES} | {"MMEB": tuple(mmeb.GROUPS)}
"""Suite -> the groups that its datasets are counted under."""


class Published(BaseModel):
    """One value of the paper: the mean of the main metric (Precision@1) over a suite."""

    suite: Literal["MMEB", "video classification", "video retrieval"]
    method: str
    configuration: Configuration | None
    """The method in comparable terms; None: nothing here is comparable."""
    model: str
    value: float


class _File(BaseModel):
    source: str
    values: list[Published]


@functools.cache
def published() -> _File:
    """The committed table and its source."""
    text = (files("freeret.evaluate.results") / "published.json").read_text(encoding="utf-8")
    return _File.model_validate_json(text)


@dataclass(frozen=True)
class Measurement:
    """A mean over the datasets of a suite that a run or an ablation measured."""

    suite: str
    name: str
    """Of the run or the ablated choice."""
    model: str
    configuration: Configuration | None
    """None for a system that has no counterpart in the paper."""
    cell: str

    def reproduces(self, value: Published) -> bool:
        """Whether model, prompt, site, geometry and stage 2 are those of a published value."""
        return (
            value.configuration is not None
            and (self.suite, self.configuration) == (value.suite, value.configuration)
            and is_checkpoint(self.model, value.model)
        )


def suite_members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Published suite -> those of its datasets that were measured.

    Args:
        groups: Measured dataset -> the group that it is counted under.
    """
    members = {
        suite: [name for name in names if groups.get(name) in GROUPS[suite]]
        for suite, names in SUITES.items()
    }
    return {suite: names for suite, names in members.items() if names}


def counterparts(suite: str, names: Sequence[str], result: Result) -> str:
    """The published values of a run's model and configuration on a whole suite, else ""."""
    if set(SUITES.get(suite, ())) != set(names):
        return ""
    run = Measurement(suite, result.run, model_label(result), configuration(result), "")
    same = [value for value in published().values if run.reproduces(value)]
    return ", ".join(f"{value.value:.3f} ({value.model})" for value in same)


def is_checkpoint(label: str, model: str) -> bool:
    """Whether the name of a loaded model, a hub id or a folder, is that of a model of the paper.

    The paper's are the instruction-tuned checkpoints; a quantised one is another model.
    """
    words = {
        word.casefold().removesuffix("-instruct")
        for part in PurePath(label).parts
        for word in part.split("--")  # the folders of the hub's cache
    }
    return model.casefold() in words


def model_label(result: Result) -> str:
    """The model of a run by the name that it was loaded under, else the run's name."""
    return loaded_name(result.fingerprint, result.loading) or result.run


def loaded_name(fingerprint: Mapping[str, Any] | None, loading: Mapping[str, Any] | None) -> str:
    """The model of a fingerprint, with its quantisation; "" where there is no model."""
    name = str((fingerprint or {}).get("model", ""))
    quantize = (loading or {}).get("quantize")
    return f"{name} ({quantize})" if name and quantize else name


def configuration(result: Result) -> Configuration | None:
    """What a run is in comparable terms; None for one of several prompts or without a backbone,
    and where stage 2 mixes both stages."""
    system, layers = result.system, (result.fingerprint or {}).get("layers")
    prompts = system.get("prompts", [])
    if layers is None or len(prompts) != 1 or system.get("truncate_dim") is not None:
        return None
    stage1 = (_prompt_name(prompts[0]), from_end(system["site"], layers), system["geometry"])
    lexical = (system.get("recipe") or {}).get("lexical", 0.0)
    if result.stage2 is None:
        return Configuration(*stage1, lexical=lexical)
    if result.stage2["fusion"] is not None:
        return None
    return Configuration(*stage1, result.stage2["frame"], result.stage2["depth"], lexical)


def _prompt_name(settings: Mapping[str, Any]) -> str:
    """`control` for the whole control prompt, whatever its task; else a name of its own."""
    if settings["kind"] != "control":
        return settings["name"]
    extras = settings.get("hierarchical") or settings.get("echo")
    whole = settings["task"] and settings["grounding"] and settings["denoise"] and not extras
    return "control" if whole else "control without a prior"
