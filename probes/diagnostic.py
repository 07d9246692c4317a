"""Paraphrase diagnostic: which prompt, site and geometry finds the partner of a sentence?

200 sentences, each with a paraphrase and a near-miss written for this project, are embedded under
every prompt at every late site. A sentence must find its paraphrase among all 200 paraphrases; the
near-misses are the harder second figure: the paraphrase must also beat the sentence's own
near-miss, which shares far more words with it. A backbone that reads pictures must also find the
picture of a caption among drawn scenes. No judgement of any benchmark is used.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from probes.backbone import Backbone
from probes.data import paraphrases
from probes.geometry import KINDS, Geometry, Kind
from probes.items import Item
from probes.own import own_captions
from probes.prompts import NAMED, Prompt, Side, as_prompt
from probes.scenes import SEEN, distinct_scenes
from probes.sites import late_sites
from probes.states import prompted_states
from probes.stats import Interval, mean_interval


@dataclass(frozen=True)
class Setting:
    """How one combination fares."""

    prompt: str
    site: str
    geometry: Kind
    precision: Interval
    """Precision@1 among all paraphrases."""
    reciprocal_rank: Interval
    """Mean reciprocal rank among all paraphrases: what settings are ranked by, it is steadier."""
    beats_near_miss: Interval
    """Share of sentences whose paraphrase scores above their near-miss."""
    pictures: Interval | None = None
    """Mean reciprocal rank of a caption's picture among those of SCENES drawn scenes; None on a
    backbone that reads no pictures."""

    @property
    def quality(self) -> float:
        """What settings are ranked by: the mean reciprocal rank, over texts and pictures alike."""
        both = [self.reciprocal_rank] + ([self.pictures] if self.pictures else [])
        return sum(float(found.mean) for found in both) / len(both)


SCENES = 60

SIDES: dict[str, Side] = {"sentence": "query", "paraphrase": "document", "near_miss": "document"}


def embed_diagnostic(
    backbone: Backbone, prompt: Prompt, sites: Sequence[str], *, progress: bool = False
) -> dict[str, Tensor]:
    """Raw states `[texts, sites, hidden]` of the sentences (as queries), paraphrases and
    near-misses (as documents)."""
    vectors = {}
    for column, side in SIDES.items():
        texts = [Item(row[column]) for row in paraphrases()]
        title = f"{prompt.name}: {column}" if progress else None
        vectors[column] = prompted_states(backbone, prompt, texts, side, sites, progress=title)
    return vectors


def embed_scenes(
    backbone: Backbone, prompt: Prompt, sites: Sequence[str], *, progress: bool = False
) -> dict[str, Tensor]:
    """Raw states `[scenes, sites, hidden]` of captions (as queries) and pictures (as documents),
    and of the project's own captions; nothing for a backbone that reads no pictures."""
    if not backbone.sees:
        return {}
    vectors = {}
    for (name, side), items in _scenes().items():
        title = f"{prompt.name}: {name}" if progress else None
        vectors[name] = prompted_states(backbone, prompt, items, side, sites, progress=title)
    return vectors


@functools.cache
def _scenes() -> dict[tuple[str, Side], list[Item]]:
    """Captions and pictures of the same scenes, drawn once for all prompts, and the captions that
    every corpus of pictures is searched with in mind."""
    rng = Random(0)
    scenes = distinct_scenes(rng, SCENES, SEEN)
    return {
        ("caption", "query"): [Item(scene.caption()) for scene in scenes],
        ("picture", "document"): [Item(images=[scene.draw(rng=rng)]) for scene in scenes],
        ("own caption", "query"): own_captions(),
    }


def diagnose(
    backbone: Backbone,
    prompts: Mapping[str, Prompt] | str | Sequence[str] = NAMED,
    sites: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[Setting]:
    """Every prompt x site x geometry. Sites default to those of the last five layers and `norm`.

    Prompts may be names in NAMED.
    """
    sites = [sites] if isinstance(sites, str) else sites
    chosen = list(sites or late_sites(min(5, backbone.num_layers)))
    if not isinstance(prompts, Mapping):
        names = [prompts] if isinstance(prompts, str) else prompts
        prompts = {name: as_prompt(name) for name in names}
    settings = []
    for name, prompt in prompts.items():
        vectors = embed_diagnostic(backbone, prompt, chosen, progress=progress)
        vectors |= embed_scenes(backbone, prompt, chosen, progress=progress)
        for column, site in enumerate(chosen):
            at_site = {key: value[:, column] for key, value in vectors.items()}
            settings += [_evaluate(name, site, kind, at_site, seed) for kind in KINDS]
    return settings


def _evaluate(prompt: str, site: str, kind: Kind, vectors: dict[str, Tensor], seed: int) -> Setting:
    documents = torch.cat([vectors["paraphrase"], vectors["near_miss"]])
    geometry = Geometry.fit(kind, {"text": documents})
    sentences, partners, near = (
        geometry.map(vectors[column], ["text"] * len(vectors[column]), side)
        for column, side in SIDES.items()
    )
    scores = sentences @ partners.T
    rank = _ranks(scores)
    return Setting(
        prompt,
        site,
        kind,
        mean_interval(rank == 1, seed),
        mean_interval(1 / rank, seed),
        mean_interval((scores.diagonal() > (sentences * near).sum(-1)).numpy(), seed),
        _evaluate_pictures(kind, vectors, seed),
    )


def _evaluate_pictures(kind: Kind, vectors: dict[str, Tensor], seed: int) -> Interval | None:
    if "picture" not in vectors:
        return None
    captions, pictures = vectors["caption"], vectors["picture"]
    own = torch.cat([vectors["sentence"], vectors["own caption"]])
    geometry = Geometry.fit(kind, {"image": pictures}, {"text": own})
    asked = geometry.map(captions, ["text"] * len(captions), "query")
    pool = geometry.map(pictures, ["image"] * len(pictures), "document")
    return mean_interval(1 / _ranks(asked @ pool.T), seed)


def _ranks(scores: Tensor) -> np.ndarray:
    """Of the partner on the diagonal, row by row; ties count against."""
    return (scores >= scores.diagonal()[:, None]).sum(1).double().numpy()
