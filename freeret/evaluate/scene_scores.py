"""How settings fare on the scene tasks: Precision@1 by task, and a share for each known failure."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from freeret.evaluate.loaders.scenes import FAILURES, TASKS, Ground
from freeret.evaluate.metrics import score_run
from freeret.evaluate.rankings import to_run
from probes import Backbone, Geometry
from probes.geometry import CorpusGeometry, GeometryKind
from probes.measure.reference import Reference, at_column, reference_vectors
from probes.model.batching import prompted_states
from probes.prompts import Prompt, Side, as_prompt
from probes.stats import Interval, mean_interval


@dataclass(frozen=True)
class Setting:
    """What is put to the backbone, where it is read, and how vectors are compared."""

    prompt: str
    site: str
    geometry: GeometryKind


PRESETS: dict[str, Setting] = {
    "E5-V": Setting("e5v", "norm", "none"),
    "E5-V, centred": Setting("e5v", "norm", "centre"),
    "FreeRet": Setting("control", "attn[-1]", "none"),
    "FreeRet, centred": Setting("control", "attn[-1]", "centre"),
}
"""The paper's two extractions, raw and with the mean of each modality subtracted."""


@dataclass(frozen=True)
class SceneScores:
    """One setting over all grounds: mean and 95% interval over queries."""

    setting: Setting
    tasks: dict[str, Interval]
    """Precision@1 by task."""
    failures: dict[str, Interval]
    """Share of hard negatives that score below the right one, text→image and image→text; chance
    is one half."""

    def to_json(self) -> dict[str, Any]:
        values = {**self.tasks, **self.failures}
        return {**asdict(self.setting), **{name: v.to_list() for name, v in values.items()}}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "SceneScores":
        found = {name: Interval(*data[name]) for name in (*TASKS, *FAILURES) if name in data}
        return cls(
            Setting(data["prompt"], data["site"], data["geometry"]),
            {name: value for name, value in found.items() if name in TASKS},
            {name: value for name, value in found.items() if name in FAILURES},
        )


def score_scenes(
    backbone: Backbone,
    grounds: Sequence[Ground],
    settings: Sequence[Setting],
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[SceneScores]:
    """Every setting on every ground, in the order given. One forward a prompt and item."""
    found: dict[Setting, tuple[dict[str, list], dict[str, list]]] = {
        setting: ({task: [] for task in TASKS}, {failure: [] for failure in FAILURES})
        for setting in settings
    }
    for prompt in dict.fromkeys(setting.prompt for setting in settings):
        asked = [setting for setting in settings if setting.prompt == prompt]
        sites = list(dict.fromkeys(setting.site for setting in asked))
        references = reference_states(backbone, prompt, sites)
        for ground in grounds:
            states = embed_ground(backbone, ground, prompt, sites, progress=progress)
            for setting in asked:
                column, kind = sites.index(setting.site), setting.geometry
                at_site = {name: s[:, column] for name, s in states.items()}
                here = {task: at_column(r, column) for task, r in references.items()}
                tasks, failures = found[setting]
                for task, values in precisions(ground, at_site, kind, here).items():
                    tasks[task].append(values)
                for failure, values in discernment(ground, at_site, kind, here).items():
                    failures[failure].append(values)

    def over_all(values: dict[str, list]) -> dict[str, Interval]:
        return {name: mean_interval(np.concatenate(v), seed) for name, v in values.items() if v}

    return [SceneScores(setting, *map(over_all, found[setting])) for setting in settings]


def embed_ground(
    backbone: Backbone,
    ground: Ground,
    prompt: str | Prompt,
    sites: Sequence[str],
    *,
    progress: bool = False,
) -> dict[str, Float[Tensor, "items sites hidden"]]:
    """Raw states of every set of a ground, float32."""
    found = {}
    for name, items in ground.items.items():
        task, side = _instruction(name)
        put = as_prompt(prompt, task)
        title = f"{put.name}: {name}" if progress else None
        found[name] = prompted_states(backbone, put, items, side, sites, progress=title)
    return found


def reference_states(
    backbone: Backbone, prompt: str | Prompt, sites: Sequence[str]
) -> dict[str, Reference]:
    """Raw states `[items, sites, hidden]` of the reference items, by the task that they are
    embedded under."""

    def of(task: str, side: Side) -> Reference:
        put = as_prompt(prompt, task)
        return reference_vectors(
            lambda items, _: prompted_states(backbone, put, items, side, sites), symmetric=True
        )

    return {task: of(task, side) for task, side in (CHANGE, CAPTION)}


def precisions(
    ground: Ground,
    vectors: dict[str, Float[Tensor, "items hidden"]],
    kind: GeometryKind,
    references: dict[str, Reference],
) -> dict[str, Float[np.ndarray, " queries"]]:
    """Precision@1 of each query by task."""
    found = {}
    for dataset, (asking, searched) in zip(ground.datasets(), ground.tasks.values(), strict=True):
        geometry = _fit(ground, vectors, kind, asking, searched, references)
        queries = _map(geometry, ground, vectors, asking, "query")
        documents = _map(geometry, ground, vectors, searched, "document")
        scores = queries @ documents.T
        run = to_run(dataset, lambda i, places, s=scores: s[i] if places is None else s[i][places])
        found[dataset.name] = score_run(dataset, run, "P@1").values
    return found


def discernment(
    ground: Ground,
    vectors: dict[str, Float[Tensor, "items hidden"]],
    kind: GeometryKind,
    references: dict[str, Reference],
) -> dict[str, Float[np.ndarray, " negatives"]]:
    """1 where the right answer scores above the hard negative, both directions, by failure."""
    found: dict[str, list[np.ndarray]] = {failure: [] for failure in ground.hard}
    if not found:
        return {}
    for asking, searched in (("captions", "pictures"), ("pictures", "captions")):
        geometry = _fit(ground, vectors, kind, asking, searched, references)
        queries = _map(geometry, ground, vectors, asking, "query")
        right = (queries * _map(geometry, ground, vectors, searched, "document")).sum(-1)
        for failure, scenes in ground.hard.items():
            wrong = _map(geometry, ground, vectors, f"{failure} {searched}", "document")
            beaten = right[scenes] > (queries[scenes] * wrong).sum(-1)
            found[failure].append(beaten.double().numpy())
    return {failure: np.concatenate(values) for failure, values in found.items()}


CAPTION: tuple[str, Side] = ("caption", "document")
CHANGE: tuple[str, Side] = ("composed change", "query")


def _instruction(name: str) -> tuple[str, Side]:
    """Which task of the control prompt a set is embedded under, and from which side."""
    return CHANGE if name == "changes" else CAPTION


def _fit(
    ground: Ground,
    vectors: dict[str, Tensor],
    kind: GeometryKind,
    asking: str,
    searched: str,
    references: dict[str, Reference],
) -> Geometry:
    """The geometry of the pool, with a mean for the queries: as in `FreeRet`, no query sees
    another."""
    pool = ground.items[searched]
    ids = [item.id or "" for item in pool]
    signatures = [item.signature for item in pool]
    reference = references[_instruction(searched)[0]]
    geometry = CorpusGeometry.of(kind, ids, signatures, vectors[searched], reference)
    asked = {item.signature for item in ground.items[asking]}
    return geometry.with_queries(asked, references[_instruction(asking)[0]])


def _map(
    geometry: Geometry, ground: Ground, vectors: dict[str, Tensor], name: str, side: Side
) -> Tensor:
    items = ground.items[name]
    return geometry.map(vectors[name], [item.signature for item in items], side)
