"""How well an extraction retrieves, and which of several extractions is taken."""

from collections.abc import Sequence
from dataclasses import dataclass

from probes.geometry import GeometryKind
from probes.model.sites import PAPER_SITE, Site
from probes.stats import Interval, mean_of_means


@dataclass(frozen=True)
class DiagnosticScore:
    """Retrieval quality of an extraction: a prompt with its task, a site and a geometry."""

    prompt: str
    site: str
    geometry: GeometryKind
    precision: Interval
    """Precision@1 of a sentence's paraphrase among all paraphrases."""
    reciprocal_rank: Interval
    """Mean reciprocal rank of a sentence's paraphrase among all paraphrases."""
    beats_near_miss: Interval
    """Share of sentences whose paraphrase scores above the near-miss."""
    passages: Interval | None = None
    """Mean reciprocal rank of the passage that a question or a request asks for; None where the
    prompt is not among the better half of them, which reads passages."""
    pictures: Interval | None = None
    """Mean reciprocal rank of a caption's picture, with equal weights among drawn scenes and among
    photographs and drawings; None on a backbone that reads no pictures."""
    hybrid: Interval | None = None
    """Mean reciprocal rank of paraphrases and passages by vectors and words together, with the
    weight of the lexical score that serves this extraction best; None without passages."""
    task: str | None = None
    """The task that the prompt states in place of its default; None: the default."""

    @property
    def wording(self) -> str:
        """The prompt, with its task where that is not the default."""
        return self.prompt if self.task is None else f"{self.prompt}, {self.task}"

    @property
    def quality(self) -> float:
        """The mean reciprocal rank with equal weights on texts and pictures, by which extractions
        are ranked: it is less noisy than the precision. Texts count by vectors alone and by vectors
        and words together, in equal parts: words hide much of what vectors miss, but not all
        searches have them."""
        return self._quality.mean

    @property
    def noise(self) -> float:
        """Standard error of `quality`, or a little more than that."""
        return (self._quality.high - self._quality.low) / 2 / 1.96

    @property
    def _quality(self) -> Interval:
        texts = self.reciprocal_rank
        if self.passages is not None and self.hybrid is not None:
            alone = mean_of_means([texts, self.passages])
            # Both are of the same answers: the interval of their mean is no wider than this.
            texts = Interval(*((a + b) / 2 for a, b in zip(alone, self.hybrid, strict=True)))
        return texts if self.pictures is None else mean_of_means([texts, self.pictures])


def best_first(scores: Sequence[DiagnosticScore]) -> list[DiagnosticScore]:
    """The extractions that can be chosen, by their quality: those that were measured on passages,
    or all where none was."""
    contenders = [score for score in scores if score.hybrid is not None] or scores
    return sorted(contenders, key=lambda s: -s.quality)


def within_one_standard_error(scores: Sequence[DiagnosticScore]) -> list[DiagnosticScore]:
    """The extractions among which only the site is left to choose, the best one first.

    Each choice follows the one-standard-error rule (Breiman et al., 1984): sites with a mean are
    left out, unless the best of them is better than every other extraction by more than its
    standard error. Prompt, task and geometry are those of the best extraction that is left, and
    its quality is at most one standard error above that of each site.
    """
    ranked = best_first(scores)
    best = ranked[0]
    plain = [s for s in ranked if not Site.parse(s.site).mean]
    if plain and plain[0].quality >= best.quality - best.noise:
        ranked, best = plain, plain[0]
    return [
        s
        for s in ranked
        if (s.prompt, s.task, s.geometry) == (best.prompt, best.task, best.geometry)
        and s.quality >= best.quality - best.noise
    ]


def select_extraction(scores: Sequence[DiagnosticScore]) -> DiagnosticScore:
    """The extraction that the diagnostic supports: of those within one standard error of the best,
    the one whose site is closest to the paper's attn[-1], since the paper's evidence for that site
    is broader than this short diagnostic. Reranking is measured at it, and the recipe uses it.
    """
    paper = Site.parse(PAPER_SITE).distance_to_end

    def preference(score: DiagnosticScore) -> tuple[int, float]:
        return abs(Site.parse(score.site).distance_to_end - paper), -score.quality

    return min(within_one_standard_error(scores), key=preference)
