"""Paraphrase diagnostic: which prompt, site and geometry retrieve the paraphrase of a sentence?

200 sentences, each with a paraphrase and a near-miss written for this project, are embedded under
every prompt at every late site. Each sentence is a query against all 200 paraphrases. A second,
harder measure compares the paraphrase with the near-miss of the same sentence, which shares far
more words with it. A backbone that reads pictures also retrieves the picture of a caption among
drawn scenes. No relevance judgements of any benchmark are used.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.data import paraphrases
from probes.geometry import GEOMETRY_KINDS, CorpusGeometry, GeometryKind
from probes.items import Item
from probes.measure.reference import captions, no_reference
from probes.model.backbone import Backbone
from probes.model.batches.remembering import remembered_states
from probes.model.batches.states import prompted_states
from probes.model.sites import PAPER_SITE, Site, late_sites
from probes.prompts import NAMED, Prompt, Side, as_prompt
from probes.scenes.generator import SEEN, distinct_scenes
from probes.stats import Interval, mean_interval


@dataclass(frozen=True)
class DiagnosticScore:
    """Retrieval quality of an extraction: a prompt, a site and a geometry."""

    prompt: str
    site: str
    geometry: GeometryKind
    precision: Interval
    """Precision@1 among all paraphrases."""
    reciprocal_rank: Interval
    """Mean reciprocal rank among all paraphrases. Extractions are ranked by it, since it is less
    noisy than the precision."""
    beats_near_miss: Interval
    """Share of sentences whose paraphrase scores above the near-miss."""
    pictures: Interval | None = None
    """Mean reciprocal rank of a caption's picture among those of SCENES drawn scenes; None on a
    backbone that reads no pictures."""

    @property
    def quality(self) -> float:
        """The mean reciprocal rank, with equal weight on texts and pictures; extractions are ranked
        by it."""
        return sum(float(interval.mean) for interval in self._intervals) / len(self._intervals)

    @property
    def noise(self) -> float:
        """Standard error of `quality`, the mean of one or two independent means."""
        errors = [float(i.high - i.low) / 2 / 1.96 for i in self._intervals]
        return math.hypot(*errors) / len(errors)

    @property
    def _intervals(self) -> list[Interval]:
        return [i for i in (self.reciprocal_rank, self.pictures) if i is not None]


def within_one_standard_error(scores: Sequence[DiagnosticScore]) -> list[DiagnosticScore]:
    """The extractions with the prompt and geometry of the best one whose quality is within one
    standard error of its quality, the best one first."""
    best = max(scores, key=lambda s: s.quality)
    peers = [
        s
        for s in scores
        if (s.prompt, s.geometry) == (best.prompt, best.geometry)
        and s.quality >= best.quality - best.noise
    ]
    return sorted(peers, key=lambda s: -s.quality)


def select_extraction(scores: Sequence[DiagnosticScore]) -> DiagnosticScore:
    """The extraction that the diagnostic supports, by the one-standard-error rule (Breiman et al.,
    1984).

    Prompt and geometry are those of the highest quality. Of the sites whose quality is within one
    standard error of it, the one closest to the paper's attn[-1] is taken: the paper's evidence for
    that site is broader than this short diagnostic.

    Args:
        scores: What `diagnose` returned.

    Returns:
        One of `scores`. Reranking is measured at this extraction, and the recipe uses it.
    """
    paper = Site.parse(PAPER_SITE).distance_to_end
    return min(
        within_one_standard_error(scores),
        key=lambda s: (abs(Site.parse(s.site).distance_to_end - paper), -s.quality),
    )


SCENES = 100
"""Number of drawn scenes, each with a caption and a picture."""

SIDES: dict[str, Side] = {"sentence": "query", "paraphrase": "document", "near_miss": "document"}


def embed_diagnostic(
    backbone: Backbone, prompt: Prompt, sites: Sequence[str], *, progress: bool = False
) -> dict[str, Tensor]:
    """Raw states `[texts, sites, hidden]` of sentences (as queries), and of paraphrases and
    near-misses (as documents), by the names in SIDES."""
    vectors = {}
    for column, side in SIDES.items():
        texts = [Item(row[column]) for row in paraphrases()]
        rows = [backbone.row(prompt.apply(text, side), text.name) for text in texts]
        title = f"{prompt.name}: {column}" if progress else None
        vectors[column] = remembered_states(backbone, rows, sites, progress=title)
    return vectors


def embed_scenes(
    backbone: Backbone, prompt: Prompt, sites: Sequence[str], *, progress: bool = False
) -> dict[str, Tensor]:
    """Raw states `[scenes, sites, hidden]` of captions (as queries) and pictures (as documents),
    and of the reference captions; empty for a backbone that reads no pictures."""
    if "image" not in backbone.modalities:
        return {}
    vectors = {}
    for (name, side), items in scene_items().items():
        title = f"{prompt.name}: {name}" if progress else None
        vectors[name] = prompted_states(backbone, prompt, items, side, sites, progress=title)
    return vectors


@functools.cache
def scene_items() -> dict[tuple[str, Side], list[Item]]:
    """Captions and pictures of the same scenes, drawn once for all prompts, and the reference
    captions, from which the mean of caption queries is estimated."""
    rng = Random(0)
    scenes = distinct_scenes(rng, SCENES, SEEN)
    return {
        ("caption", "query"): [Item(scene.caption()) for scene in scenes],
        ("picture", "document"): [Item(images=[scene.draw(rng=rng)]) for scene in scenes],
        ("reference caption", "query"): captions(),
    }


def diagnose(
    backbone: Backbone,
    prompts: Mapping[str, Prompt] | str | Sequence[str] = NAMED,
    sites: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    progress: bool = False,
) -> list[DiagnosticScore]:
    """Measure the retrieval quality of every extraction: each prompt, site and geometry.

    Args:
        backbone: The model to measure.
        prompts: Prompts by name, or names in NAMED; by default all of NAMED.
        sites: Names of sites; by default those of the last five layers, and `norm`.
        seed: Seed of the bootstrap intervals, which resample sentences.
        progress: Whether to show progress bars.

    Returns:
        A score for each extraction.

    Raises:
        BadSetting: There is no prompt or site of this name.
    """
    sites = [sites] if isinstance(sites, str) else sites
    chosen = list(sites or late_sites(min(5, backbone.num_layers)))
    if not isinstance(prompts, Mapping):
        names = [prompts] if isinstance(prompts, str) else prompts
        prompts = {name: as_prompt(name) for name in names}
    scores = []
    for name, prompt in prompts.items():
        vectors = embed_diagnostic(backbone, prompt, chosen, progress=progress)
        vectors |= embed_scenes(backbone, prompt, chosen, progress=progress)
        for column, site in enumerate(chosen):
            at_site = {key: value[:, column] for key, value in vectors.items()}
            scores += [_evaluate(name, site, kind, at_site, seed) for kind in GEOMETRY_KINDS]
    return scores


def _evaluate(
    prompt: str, site: str, kind: GeometryKind, vectors: dict[str, Tensor], seed: int
) -> DiagnosticScore:
    sentences, partners, near = diagnostic_in_geometry(kind, vectors)
    scores = sentences @ partners.T
    rank = ranks_on_diagonal(scores)
    return DiagnosticScore(
        prompt,
        site,
        kind,
        mean_interval(rank == 1, seed),
        mean_interval(1 / rank, seed),
        mean_interval((scores.diagonal() > (sentences * near).sum(-1)).numpy(), seed),
        _evaluate_pictures(kind, vectors, seed),
    )


def diagnostic_in_geometry(
    kind: GeometryKind, vectors: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Map sentences, paraphrases and near-misses at one site to the geometry of a corpus of the
    paraphrases and the near-misses.

    Args:
        vectors: Raw vectors `[texts, hidden]` under the names of SIDES.

    Returns:
        Three tensors of unit vectors, `[texts, hidden]`.
    """
    documents = torch.cat([vectors["paraphrase"], vectors["near_miss"]])
    geometry = CorpusGeometry.of(
        kind, _ids(documents), ["text"] * len(documents), documents, no_reference
    )
    sentences, partners, near = (
        geometry.map(vectors[column], ["text"] * len(vectors[column]), side)
        for column, side in SIDES.items()
    )
    return sentences, partners, near


def ranks_on_diagonal(scores: Float[Tensor, "n pool"]) -> Float[np.ndarray, " n"]:
    """The rank of the diagonal entry in each row, 1 for the best; ties count against it."""
    return (scores >= scores.diagonal()[:, None]).sum(1).double().numpy()


def _evaluate_pictures(
    kind: GeometryKind, vectors: dict[str, Tensor], seed: int
) -> Interval | None:
    if "picture" not in vectors:
        return None
    pictures = vectors["picture"]
    queries_of_text = torch.cat([vectors["sentence"], vectors["reference caption"]])

    def reference(side: Side, signature: str) -> Tensor | None:
        return queries_of_text if (side, signature) == ("query", "text") else None

    signatures = ["image"] * len(pictures)
    geometry = CorpusGeometry.of(kind, _ids(pictures), signatures, pictures, reference)
    geometry = geometry.with_queries(["text"], reference)
    queries = geometry.map(vectors["caption"], ["text"] * len(vectors["caption"]), "query")
    pool = geometry.map(pictures, signatures, "document")
    return mean_interval(1 / ranks_on_diagonal(queries @ pool.T), seed)


def _ids(vectors: Tensor) -> list[str]:
    return [str(place) for place in range(len(vectors))]
