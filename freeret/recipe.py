"""Recipe: prompt, site, geometry and frame.

Chosen from a probe report alone; no benchmark labels are used.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from freeret.choices.judge import choose_judge
from probes import DiagnosticScore, ProbeReport, Site
from probes.errors import BadFile, BadSetting
from probes.files import read_json, write_json, wrong_field
from probes.geometry import GeometryKind
from probes.measure.diagnostic.hybrid import mean_gains, select_weight
from probes.measure.diagnostic.scores import (
    best_first,
    select_extraction,
    within_one_standard_error,
)
from probes.measure.framing import FRAMES
from probes.measure.judges.named import check_judge, margin_of
from probes.measure.lexicalization import PROMPT_KINDS, prompt_kind
from probes.model.sites import PAPER_SITE
from probes.prompts import as_prompt

GEOMETRIES: dict[GeometryKind, str] = {
    "none": "cosine similarity",
    "centre": "cosine similarity after centring",
    "whiten": "cosine similarity after whitening",
}

LEXICAL = 0.2
"""Weight of the lexical score where a search asks for one and the recipe names none."""


@dataclass(frozen=True)
class Provenance:
    """The backbone whose probe report supports a recipe."""

    model: str
    weights: tuple[str, ...]
    """Digests of its weights, in the dtype of the report and as other dtypes round them."""


@dataclass(frozen=True)
class Recipe:
    """The settings of both stages. `frame` names the judge of the second: a frame, "likelihood", or
    None where there is no second stage."""

    prompt: str = "control"
    site: str = PAPER_SITE
    geometry: GeometryKind = "none"
    frame: str | None = "mcq"
    fusion: float | None = None
    """Weight of stage 2's margins against the standardised stage-1 score; None: stage 2 alone
    decides among the reranked."""
    cascade: float | None = None
    """Largest lead of a query's first hit at which stage 2 judges it (see
    `probes.measure.fusion.lead`), in standard deviations; None: all queries are judged."""
    task: str | None = None
    """The task prior, a key of `probes.prompts.TASKS` or free text; None: the prompt's default."""
    passage: int | None = None
    """Documents of text are read in passages of about this many words, whose vectors are averaged;
    None: they are read whole."""
    lexical: float = 0.0
    """Weight of the lexical score (BM25) against the standardised stage-1 score; 0: hits are found
    by vectors alone."""
    reasons: tuple[str, ...] = field(
        default=("the paper's fixed choice",), compare=False, repr=False
    )
    """Sentences that quote the figures behind the choice."""
    why_not_reranked: str = field(default="the recipe names no frame", compare=False, repr=False)
    """The reason where `frame` is None."""
    provenance: Provenance | None = field(default=None, compare=False, repr=False)
    """None for a recipe that no report supports, or that an earlier version saved."""

    def __str__(self) -> str:
        """The recipe in two sentences."""
        task = f" and the task {self.task!r}" if self.task else ""
        margin = margin_of(self.frame or "")
        order = (
            f"by {margin} alone"
            if self.fusion is None
            else f"by the standardised stage-1 score plus {self.fusion} times {margin}"
        )
        judge = f"the frame {self.frame}" if self.frame in FRAMES else self.frame
        stage2 = (
            f"The model reranks the first hits by {judge} and orders them {order}."
            if self.frame
            else "Hits are not reranked."
        )
        cut = f" Long texts are read in passages of {self.passage} words." if self.passage else ""
        words = f", with {self.lexical:g} times BM25 beside it" if self.lexical else ""
        return (
            f"Vectors are read at {self.site} under the {self.prompt} prompt{task}, and compared "
            f"by {GEOMETRIES[self.geometry]}{words}.{cut} {stage2}"
        )

    def _repr_html_(self) -> str:
        from freeret.pages.render import part

        return part("pages/recipe.html", "recipe", self)

    @classmethod
    def paper(cls) -> "Recipe":
        """FreeRet as the paper fixes it: control prompt, h^Attn_L, no geometry, A/B question."""
        return cls()

    @classmethod
    def e5v(cls) -> "Recipe":
        """The E5-V extraction: its prompt, read at the final norm."""
        return cls(
            "e5v",
            "norm",
            "none",
            frame=None,
            reasons=("the E5-V extraction",),
            why_not_reranked="the E5-V extraction has no second stage",
        )

    @classmethod
    def from_report(cls, report: ProbeReport) -> "Recipe":
        """The recipe that a report supports, each part with a sentence that quotes the figures."""
        extraction, why_extraction = _choose_extraction(report)
        lexical, why_lexical = _choose_lexical(report)
        frame, fusion, cascade, why_frame = choose_judge(report)
        reranking = f"Reranking: {why_frame}." if frame else f"No reranking: {why_frame}."
        return cls(
            prompt=extraction.prompt,
            site=extraction.site,
            geometry=extraction.geometry,
            frame=frame,
            fusion=fusion,
            cascade=cascade,
            task=extraction.task,
            lexical=lexical,
            reasons=(
                _describe_lexicalization(report, extraction.prompt),
                *why_extraction,
                *_describe_splitting(report),
                *why_lexical,
                reranking,
            ),
            why_not_reranked=why_frame if frame is None else "",
            provenance=_provenance(report),
        )

    def used_with(self, model: str) -> "Recipe":
        """The same recipe for a model that it was not measured on, which its reasons then say."""
        if self.provenance is None:
            return self
        measured = self.provenance.model
        return replace(
            self,
            reasons=(f"Measured on {measured}, and used with {model}.", *self.reasons),
            why_not_reranked=f"on {measured}, {self.why_not_reranked}",
            provenance=None,
        )

    def hybrid(self) -> "Recipe":
        """The same recipe with a lexical leg: of weight LEXICAL where it has none."""
        return self if self.lexical else replace(self, lexical=LEXICAL)

    def describe(self) -> str:
        """The recipe in one sentence for a reader who is new to all of it."""
        places = {
            PAPER_SITE: "just before its last MLP would turn it into that word",
            "norm": "at its output, where it becomes that word",
        }
        site = Site.parse(self.site)
        place = places.get(str(site.last), f"inside the model, at {site.last}")
        place += ", and over the item's own tokens" if site.mean else ""
        mapped = {
            "none": "",
            "centre": "; the corpus mean is subtracted",
            "whiten": "; the corpus mean is subtracted and the vectors are whitened",
        }[self.geometry]
        judged = (
            "the nearest states are the hits"
            if self.frame is None
            else "the nearest states are the hits, which the model may then judge one by one"
        )
        return (
            f"The model is asked to sum up each item in one word, but the word is not used: its "
            f"state is read {place}{mapped}, and {judged}."
        )

    def save(self, path: str | Path) -> Path:
        """Write a JSON file that `load` reads, its provenance included."""
        return write_json(Path(path), asdict(self))

    def to_json(self) -> dict[str, Any]:
        """The recipe and its reasons, as stores and result files record them. They record the
        backbone in use besides, so the provenance is left out."""
        return {name: value for name, value in asdict(self).items() if name != "provenance"}

    @classmethod
    def load(cls, path: str | Path) -> "Recipe":
        """Read a saved recipe.

        Raises:
            BadFile: The file is missing, cut off, or names what does not exist.
        """
        return cls.from_json(read_json(path), str(path))

    @classmethod
    def from_json(cls, data: Any, source: str = "recipe") -> "Recipe":
        """A recipe from what `to_json` or `save` wrote.

        Args:
            data: The parsed JSON.
            source: What an error calls it, such as its path.

        Raises:
            BadFile: It is no recipe, or names what does not exist.
        """
        try:
            recipe = TypeAdapter(cls).validate_python(data)
            Site.parse(recipe.site)
        except (ValidationError, ValueError) as error:
            raise BadFile(f"{source} is not a recipe ({wrong_field(error)})") from None
        try:
            if recipe.frame is not None:
                check_judge(recipe.frame)
            as_prompt(recipe.prompt)
        except BadSetting as error:
            raise BadFile(
                f"{source} names a prompt or frame that does not exist: {error}"
            ) from None
        return recipe


def _provenance(report: ProbeReport) -> Provenance | None:
    """None for a report that does not say on which weights it was measured."""
    if "weights" not in report.fingerprint:
        return None
    digests = (report.fingerprint["weights"], *report.rounded.values())
    return Provenance(report.fingerprint["model"], tuple(dict.fromkeys(digests)))


def _choose_extraction(report: ProbeReport) -> tuple[DiagnosticScore, list[str]]:
    """The extraction that the diagnostic supports, and the sentences that say why."""
    chosen = select_extraction(report.diagnostic)
    peers = within_one_standard_error(report.diagnostic)
    reference = _find(report, "e5v", "norm", "none")
    paper = _find(report, "control", PAPER_SITE, "none")
    reasons = [
        f"Paraphrases: with the {chosen.prompt} prompt read at {chosen.site} and geometry "
        f"{chosen.geometry}, a sentence ranks its paraphrase with a mean reciprocal rank of "
        f"{chosen.reciprocal_rank}; with the E5-V extraction {reference.reciprocal_rank}, with the "
        f"paper's control prompt read at {PAPER_SITE} {paper.reciprocal_rank}.",
        *_describe_passages(chosen, reference, paper),
        *_describe_pictures(chosen, reference, paper),
        *_describe_task(report, chosen),
        *_describe_mean(report, chosen),
    ]
    if len(peers) > 1:
        among = f"the mean reciprocal ranks of {len(peers)} sites are within one standard error"
        choice = (
            f"the paper's {PAPER_SITE} is one of them"
            if chosen.site == PAPER_SITE
            else f"{chosen.site} is the closest of them to the paper's {PAPER_SITE}"
        )
        reasons.append(f"Site: {among} of the best, and {choice}.")
    return chosen, reasons


def _describe_mean(report: ProbeReport, chosen: DiagnosticScore) -> list[str]:
    """Whether the mean over an item's own tokens surely helps, where it was measured."""
    ranked = best_first(report.diagnostic)
    apart = [[s for s in ranked if Site.parse(s.site).mean == mean] for mean in (True, False)]
    if not all(apart):
        return []
    (best, *_), (plain, *_) = apart
    no = "" if Site.parse(chosen.site).mean else "not "
    return [
        "Mean over the item's own tokens: the best extraction with it has a mean reciprocal rank "
        f"over all query sets of {best.quality:.3f}, the best without it {plain.quality:.3f}. It "
        f"is {no}better by more than one standard error ({best.noise:.3f}), so it is {no}read."
    ]


def _describe_splitting(report: ProbeReport) -> list[str]:
    """What reading long texts in passages gains: an option of whoever indexes, which the recipe
    leaves alone."""
    return [
        f"Long texts: reading them in passages of {one.words} words, whose vectors are averaged, "
        f"changes their mean reciprocal rank by {one.gain}, by vectors alone."
        for one in report.splitting
    ]


def _choose_lexical(report: ProbeReport) -> tuple[float, list[str]]:
    """Weight of the lexical score, 0 where words gain nothing beyond noise; and why."""
    gains, weight = mean_gains(report.hybrid), select_weight(report.hybrid)
    if not gains:
        return 0.0, []
    if not weight:
        weight = max(gains, key=lambda w: gains[w].mean)
        reason = (
            f"No lexical score: its largest gain in mean reciprocal rank (weight {weight:g}), "
            f"{gains[weight]}, does not exceed noise."
        )
        return 0.0, [reason]
    sets = (
        f"{gain.queries} {gain.reciprocal_rank}, {gain.over_vectors.mean:+.3f} over vectors alone "
        f"and {gain.over_words.mean:+.3f} over words alone"
        for gain in report.hybrid
        if gain.weight == weight
    )
    reason = (
        f"Lexical score: BM25 with weight {weight:g} changes the mean reciprocal rank by "
        f"{gains[weight]} ({'; '.join(sets)})."
    )
    return weight, [reason]


def _describe_lexicalization(report: ProbeReport, prompt: str) -> str:
    """Which of the last two steps turns the state under each kind of prompt, the kind closest to
    the chosen prompt first."""
    closest = prompt_kind(prompt)
    kinds = sorted(report.curves, key=lambda kind: kind != closest)
    turns = (
        f"{PROMPT_KINDS[kind]}, {curves.turn} ({curves.alpha_mlp.mean[-1]:.2f}, "
        f"{curves.alpha_norm.mean[0]:.2f})"
        for kind, curves in ((kind, report.curves[kind]) for kind in kinds)
    )
    return (
        "Which of the last two steps turns the state (α of the last MLP, α of the final norm): "
        f"{'; '.join(turns)}."
    )


def _find(report: ProbeReport, prompt: str, site: str, geometry: str) -> DiagnosticScore:
    wanted = (prompt, None, site, geometry)
    return next(s for s in report.diagnostic if (s.prompt, s.task, s.site, s.geometry) == wanted)


def _describe_pictures(
    chosen: DiagnosticScore, reference: DiagnosticScore, paper: DiagnosticScore
) -> list[str]:
    if chosen.pictures is None:
        return []
    return [
        f"Pictures: a caption ranks its picture with a mean reciprocal rank of {chosen.pictures}; "
        f"with the E5-V extraction {reference.pictures}, with the paper's choice {paper.pictures}. "
        "Texts and pictures have equal weight in the choice."
    ]


def _describe_passages(
    chosen: DiagnosticScore, reference: DiagnosticScore, paper: DiagnosticScore
) -> list[str]:
    if chosen.passages is None:
        return []
    others = (
        f", with {name} {score.passages}"
        for name, score in (("the E5-V extraction", reference), ("the paper's choice", paper))
        if score.passages is not None  # the prompts that were best so far read passages
    )
    return [
        f"Passages: a question or a request ranks its passage with a mean reciprocal rank of "
        f"{chosen.passages}{''.join(others)}; with the best lexical weight the mean over "
        f"paraphrases and passages is {chosen.hybrid}."
    ]


def _describe_task(report: ProbeReport, chosen: DiagnosticScore) -> list[str]:
    """What the wordings of the control prompt with other tasks reach, where it is chosen."""
    best: dict[str, float] = {}
    for score in best_first(report.diagnostic):
        if prompt_kind(score.prompt) == "control":
            best.setdefault(score.wording, score.quality)
    if chosen.wording not in best or len(best) == 1:
        return []
    others = (f"{name} {quality:.3f}" for name, quality in best.items() if name != chosen.wording)
    return [
        f"Task: the best extraction with the {chosen.wording} prompt has a mean reciprocal "
        f"rank over all query sets of {best[chosen.wording]:.3f}, with {', with '.join(others)}."
    ]
