"""Stage 2: the same model judges query and candidate together; the score is p(match).

    Reranker(backbone, frame="mcq").rank("query", ["document", …], top_k=10)
    Reranker(backbone, frame="likelihood")         for models that cannot answer the question

The model is asked whether the candidate matches, and p(match) is the softmax over its logits of the
two labels, such as p("A") of a multiple-choice question (arXiv 2509.24621, §3.3). All prompts of a
query share a prefix (in the default layout: instruction, options, query), which is computed once,
several queries share forwards, and only the label rows of the LM head are read.

A small model, or one without instruction tuning, answers at chance and may still predict query
and candidate better from each other: `probes.measure.judges.likelihood`.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from freeret.recipe import Recipe
from probes import FRAMES, Backbone, Frame, Item, as_item, as_items
from probes.arguments import check_choice, check_count
from probes.errors import BadItem, BadSetting, UnsupportedBackbone
from probes.measure.framing import SWAPPED, Layout, content_free_margin, judge
from probes.measure.judges.named import check_judge, judged_by


@dataclass(frozen=True)
class Ranked:
    """One candidate of a ranking."""

    index: int
    """Its position in the list that was given."""
    score: float
    """p(match)."""
    item: Item


class Reranker:
    """Judges pairs of query and candidate with one frame, by likelihood or by attention heads.

    Args:
        backbone: The model.
        frame: The wording of question and labels: a name in FRAMES, or a frame; or "likelihood"
            or heads such as "heads[15.7, 17.6]", to which the other settings do not apply.
        order: "swap" averages the log-odds of both orders of the options, which cancels a
            preference for a position.
        calibrate: Subtract the log-odds of content-free inputs (contextual calibration, Zhao et
            al. 2021), which removes a preference for a label.
        layout: Whether the options stand before the pair or after it.

    Raises:
        BadSetting: There is no such frame, order or layout, the frame has no swapped version, or
            one of these is set for a judge without options.
    """

    def __init__(
        self,
        backbone: Backbone,
        frame: str | Frame = "mcq",
        *,
        order: Literal["plain", "swap"] = "plain",
        calibrate: bool = False,
        layout: Layout = "options first",
    ):
        if not isinstance(frame, Frame):
            check_judge(frame)
        check_choice("order", order, ("plain", "swap"))
        check_choice("layout", layout, get_args(Layout))
        self.backbone = backbone
        self.layout: Layout = layout
        self.shift = 0.0
        self.name = frame.name if isinstance(frame, Frame) else frame
        if not isinstance(frame, Frame) and frame not in FRAMES:
            if order == "swap" or calibrate or layout != "options first":
                raise BadSetting(f"order, calibrate and layout are of frames, not of {frame!r}")
            self.frames: list[Frame] = []
            return
        frame = frame if isinstance(frame, Frame) else FRAMES[frame]
        if order == "swap" and frame.name not in SWAPPED:
            raise BadSetting(f"frame {frame.name!r} has no swapped version; add one to SWAPPED")
        self.frames = [frame] + ([SWAPPED[frame.name]] if order == "swap" else [])
        if calibrate:
            margins = [content_free_margin(backbone, f, None, layout) for f in self.frames]
            self.shift = float(np.mean(margins))

    def __repr__(self) -> str:
        names = ", ".join(frame.name for frame in self.frames) or self.name
        return f"Reranker({self.backbone!r}, {names})"

    @classmethod
    def from_recipe(cls, backbone: Backbone, recipe: Recipe) -> "Reranker":
        """Stage 2 of a recipe. Raises UnsupportedBackbone when the recipe has none."""
        if recipe.frame is None:
            raise UnsupportedBackbone(f"this recipe does not rerank: {recipe.why_not_reranked}")
        return cls(backbone, recipe.frame)

    def margins(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> Float[np.ndarray, " pairs"]:
        """Log-odds of a match: log p(match) - log p(no match). By likelihood, the pointwise mutual
        information of query and candidate; by heads, the log attention to the candidate; in nats.

        Args:
            pairs: (query, candidate) pairs of anything that `as_item` reads. Consecutive pairs of
                one query share its computation, and those of several queries share forwards.
            progress: Whether to show a progress bar.

        Returns:
            One value per pair, float64.

        Raises:
            BadItem: An item cannot be read, or `pairs` is not a list of pairs.
        """
        listed = isinstance(pairs, Sequence) and not isinstance(pairs, str)
        if not listed or not all(isinstance(p, Sequence) and len(p) == 2 for p in pairs):
            raise BadItem("`pairs` is not a list of (query, candidate) pairs")
        items = [(as_item(query), as_item(candidate)) for query, candidate in pairs]
        bar = "reranking" if progress else None
        if not self.frames:
            return judged_by(self.name, self.backbone, items, progress=bar)
        return self.combine(
            [judge(self.backbone, f, items, layout=self.layout, progress=bar) for f in self.frames]
        )

    def combine(self, margins: Sequence[Any]) -> Any:
        """The mean of the margins under each frame, less the content-free margin if calibrated."""
        return np.mean(margins, axis=0) - self.shift

    def predict(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> Float[np.ndarray, " pairs"]:
        """p(match) of each pair, the sigmoid of its margin: good for ranking, not a calibrated
        probability.

        Args:
            pairs: As for `margins`.
            progress: Whether to show a progress bar.
        """
        return expit(self.margins(pairs, progress=progress))

    def rank(self, query: Any, documents: Any, top_k: int | None = None) -> list[Ranked]:
        """Rank the documents of one query.

        Args:
            query: Anything that `as_item` reads.
            documents: Anything that `as_items` reads.
            top_k: The number of documents returned; all by default.

        Returns:
            Documents from best to worst; ties keep the order given.
        """
        if top_k is not None:
            check_count("top_k", top_k)
        items, query = as_items(documents), as_item(query)
        scores = self.predict([(query, item) for item in items])
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), items[i]) for i in order]


def by_query(pairs: Iterable[tuple[Any, Any]]) -> Iterator[list[tuple[Any, Any]]]:
    """Consecutive pairs of the same query, group by group."""
    for _, group in itertools.groupby(pairs, key=lambda pair: _identity(pair[0])):
        yield list(group)


def _identity(query: Any) -> Any:
    return query if isinstance(query, str) else id(query)
