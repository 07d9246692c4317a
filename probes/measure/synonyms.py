"""Cosines of synonym pairs by site, with controls: is similarity meaning, or only anisotropy?

The paper reports the mean cosine of synonym pairs by layer. Where states are anisotropic any pair
is similar, so the same words are also re-paired into controls of equal frequency and part of
speech. The sensitivity index d′ is the distance between the two distributions of cosines:

    d′ = (μ_synonyms - μ_controls) / sqrt((σ²_synonyms + σ²_controls) / 2)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from probes.data import synonyms
from probes.display import Results
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.run import run_batches
from probes.model.sites import Site, as_sites
from probes.model.trace import record
from probes.prompts import Prompt, as_prompt
from probes.stats import Interval, Spread, d_prime, mean_interval


@dataclass(frozen=True)
class SynonymSimilarity:
    """Mean cosines of synonyms and controls at a site, and their separation d′."""

    site: str
    synonyms: Interval
    controls: Interval
    separation: Interval
    synonym_spread: Spread | None = None
    """How the cosines of synonyms are distributed. Reports of earlier versions do not say."""
    control_spread: Spread | None = None


def best_site(similarities: Sequence[SynonymSimilarity]) -> SynonymSimilarity:
    """The site at which synonyms and controls lie furthest apart."""
    return max(similarities, key=lambda similarity: similarity.separation.mean)


def synonym_similarity(
    backbone: Backbone,
    sites: str | Site | Sequence[str | Site] | None = None,
    *,
    prompt: str | Prompt = "prompteol",
    seed: int = 0,
    progress: bool = False,
) -> Results[SynonymSimilarity]:
    """Measure the cosines of the bundled synonym pairs and of their controls.

    Args:
        backbone: The model to measure.
        sites: Sites or their names; by default all, in order of execution.
        prompt: The prompt that each word is put under, or its name in `probes.NAMED`.
        seed: Seed of the bootstrap intervals, which resample pairs.
        progress: Whether to show a progress bar.

    Returns:
        A result for each site.

    Raises:
        BadSetting: There is no site or prompt of this name.
    """
    template = as_prompt(prompt)
    chosen = as_sites(sites or "all", backbone.num_layers)
    for site in chosen:
        site.single(backbone.num_layers)  # raises for a site with a mean
    pairs = synonyms()
    words = sorted({word for pair in pairs for word in (pair["a"], pair["b"])})
    rows = [backbone.row(template.apply(Item(word)), word) for word in words]

    def forward(batch: Any) -> list[torch.Tensor]:
        states = record(backbone, batch, chosen)
        # On the CPU, since the layers of a model may be on several devices.
        stacked = torch.stack([states[site].float().cpu() for site in chosen], dim=1)
        return list(torch.nn.functional.normalize(stacked, dim=-1))

    by_word = run_batches(backbone, rows, forward, progress="synonyms" if progress else None)
    units = dict(zip(words, by_word, strict=True))
    cosines = torch.stack([(units[p["a"]] * units[p["b"]]).sum(-1) for p in pairs]).double().numpy()
    real = np.array([pair["kind"] == "synonym" for pair in pairs])
    return Results(
        SynonymSimilarity(
            str(site),
            mean_interval(column[real], seed),
            mean_interval(column[~real], seed),
            d_prime(column[real], column[~real], seed),
            Spread.of(column[real]),
            Spread.of(column[~real]),
        )
        for site, column in zip(chosen, cosines.T, strict=True)
    )
