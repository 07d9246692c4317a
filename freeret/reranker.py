"""Stage 2: the same model judges query and candidate together; the score is p(match).

    Reranker(backbone, frame="mcq").rank("query", ["document", …], top_k=10)

The prompt of a query's candidates begins alike (instruction, options, query): that prefix is
computed once, and of the LM head only the label rows are read.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from tqdm.auto import tqdm

from freeret.recipe import Recipe
from probes import FRAMES, Backbone, Frame, Item, as_item, as_items
from probes.arguments import check_choice, check_count
from probes.errors import BadItem, BadSetting, UnsupportedBackbone
from probes.measure.framing import SWAPPED, Layout, content_free_margin, judge


@dataclass(frozen=True)
class Ranked:
    """A candidate's place: its index in the list given, its item, and p(match)."""

    index: int
    score: float
    item: Item


class Reranker:
    """Judges pairs with one frame.

    `order="swap"` averages the log-odds of both orders of the options; `calibrate` subtracts the
    log-odds without content (Zhao et al. 2021). `instruction` says what a match is.
    """

    def __init__(
        self,
        backbone: Backbone,
        frame: str | Frame = "mcq",
        *,
        order: Literal["plain", "swap"] = "plain",
        calibrate: bool = False,
        instruction: str | None = None,
        layout: Layout = "options first",
    ):
        if not isinstance(frame, Frame) and frame not in FRAMES:
            raise BadSetting(f"there is no frame {frame!r}; frames: {', '.join(FRAMES)}")
        check_choice("order", order, ("plain", "swap"))
        check_choice("layout", layout, get_args(Layout))
        chosen = frame if isinstance(frame, Frame) else FRAMES[frame]
        self.backbone, self.instruction = backbone, instruction
        self.layout: Layout = layout
        if order == "swap" and chosen.name not in SWAPPED:
            raise BadSetting(f"frame {chosen.name!r} has no other order in SWAPPED")
        self.frames = [chosen] + ([SWAPPED[chosen.name]] if order == "swap" else [])
        self.shift = 0.0
        if calibrate:
            margins = [content_free_margin(backbone, f, instruction, layout) for f in self.frames]
            self.shift = float(np.mean(margins))

    def __repr__(self) -> str:
        return f"Reranker({self.backbone!r}, {', '.join(frame.name for frame in self.frames)})"

    @classmethod
    def from_recipe(cls, backbone: Backbone, recipe: Recipe, **options: Any) -> "Reranker":
        """Raises UnsupportedBackbone when the recipe says that this backbone cannot rerank."""
        if recipe.frame is None:
            raise UnsupportedBackbone(f"reranking is off by recipe: {recipe.why_not_reranked}")
        return cls(backbone, recipe.frame, **options)

    def margins(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> Float[np.ndarray, " pairs"]:
        """log p(match) - log p(no match) of each (query, candidate); pairs of one query that
        stand together share its computation."""
        listed = isinstance(pairs, Sequence) and not isinstance(pairs, str)
        if not listed or not all(isinstance(p, Sequence) and len(p) == 2 for p in pairs):
            raise BadItem("pairs are a list of (query, candidate)")
        found: list[np.ndarray] = []
        with tqdm(
            total=len(pairs), desc="reranking", unit="pair", disable=not progress, delay=2
        ) as bar:
            for group in by_query(pairs):
                together = [(as_item(query), as_item(candidate)) for query, candidate in group]
                margins = [
                    judge(self.backbone, frame, together, self.instruction, self.layout)
                    for frame in self.frames
                ]
                found.append(self.combine(margins))
                bar.update(len(together))
        return np.concatenate(found) if found else np.empty(0)

    def combine(self, margins: Sequence[Any]) -> Any:
        """The mean of the margins under each frame, less the margin without content when
        calibrated."""
        return np.mean(margins, axis=0) - self.shift

    def predict(
        self, pairs: Sequence[tuple[Any, Any]], *, progress: bool = False
    ) -> Float[np.ndarray, " pairs"]:
        """p(match) of each pair, in [0, 1]; good for ranking, not a calibrated probability."""
        return expit(self.margins(pairs, progress=progress))

    def rank(self, query: Any, documents: Any, top_k: int | None = None) -> list[Ranked]:
        """Documents from best to worst; ties keep the order given."""
        if top_k is not None:
            check_count("top_k", top_k)
        items, asked = as_items(documents), as_item(query)
        scores = self.predict([(asked, item) for item in items])
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), items[i]) for i in order]


def by_query(pairs: Iterable[tuple[Any, Any]]) -> Iterator[list[tuple[Any, Any]]]:
    """The pairs of each query, where they stand together."""
    for _, group in itertools.groupby(pairs, key=lambda pair: _identity(pair[0])):
        yield list(group)


def _identity(query: Any) -> Any:
    return query if isinstance(query, str) else id(query)
