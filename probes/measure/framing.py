"""Answer frames of a binary judgement, and the bias of their labels.

Right/Wrong, Yes/No and A/B are logically equal, yet a model prefers some labels before it has seen
anything. For each frame: the label skew under content-free input (contextual calibration; Zhao et
al., 2021, arXiv 2102.09690), and on labelled pairs the accuracy, the AUC and the mean p(positive).
With the logit z of a label being the log-sum-exp over its spellings, with and without a leading
space, that are a single token (over the first tokens of both spellings where neither is),

    margin = z_positive - z_negative        p(positive) = sigmoid(margin)

In the default layout the prompt puts everything that the candidates of a query share first, so that
it is computed once.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.data import matches
from probes.display import Results
from probes.errors import BadSetting, UnsupportedBackbone
from probes.items import Item
from probes.model.backbone import Backbone
from probes.model.batches.ahead import blockwise
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch, Row
from probes.model.trace import record
from probes.prompts import Prompted
from probes.stats import Interval, mean_interval, paired_auc

Layout = Literal["options first", "options last"]
INSTRUCTION = "Judge whether the candidate matches the query."
CONTENT_FREE = ("N/A", "[MASK]", "…")
"""Content-free inputs: each stands for both query and candidate."""


@dataclass(frozen=True)
class Frame:
    """A wording of the question whether a candidate matches, with the two labels of its answer.

    `options` shows the labels; the positive label means a match.
    """

    name: str
    positive: str
    negative: str
    options: str

    def apply(
        self,
        query: Item,
        candidate: Item,
        instruction: str | None = None,
        layout: Layout = "options first",
    ) -> Prompted:
        """Build the prompt: instruction (by default INSTRUCTION), options, query, candidate and
        answer cue, in that order or with the options last."""
        first, last = (
            (f"{self.options}\n\n", "")
            if layout == "options first"
            else ("", f"\n\n{self.options}")
        )
        return Prompted(
            user=(
                f"{instruction or INSTRUCTION}\n{first}Query: ",
                *query.parts,
                "\n\nCandidate: ",
                *candidate.parts,
                last,
            ),
            prefill="Answer:",
        )


FRAMES: dict[str, Frame] = {
    "mcq": Frame("mcq", "A", "B", "Choose one option.\nA. Match\nB. No match"),
    "mcq_swapped": Frame("mcq_swapped", "B", "A", "Choose one option.\nA. No match\nB. Match"),
    "yes_no": Frame("yes_no", "Yes", "No", "Does it match? Answer Yes or No."),
    "true_false": Frame("true_false", "True", "False", "It matches: answer True or False."),
    "right_wrong": Frame("right_wrong", "Right", "Wrong", "It matches: answer Right or Wrong."),
}

SWAPPED: dict[str, Frame] = {
    "mcq": FRAMES["mcq_swapped"],
    "mcq_swapped": FRAMES["mcq"],
    "yes_no": Frame("yes_no", "Yes", "No", "Does it match? Answer No or Yes."),
    "true_false": Frame("true_false", "True", "False", "It matches: answer False or True."),
    "right_wrong": Frame("right_wrong", "Right", "Wrong", "It matches: answer Wrong or Right."),
}
"""Each frame with its options in the other order."""


@dataclass(frozen=True)
class FrameBias:
    """Label bias and discrimination of a frame on a backbone."""

    frame: str
    skew: float
    """p(positive) under content-free input; 0.5 is no skew."""
    margin: float
    """The margin under content-free input."""
    accuracy: Interval
    """Share of pairs on the right side of p = 0.5."""
    accuracy_calibrated: Interval
    """The same after the content-free margin is subtracted."""
    auc: Interval
    """Area under the ROC curve of the margins, matches against near-misses."""
    mean_p: float
    """Mean p(positive) over all pairs."""
    single_token: bool
    """Whether each label is one token in at least one spelling."""

    @property
    def discriminates(self) -> bool:
        """Whether the interval of the AUC lies above chance, 0.5."""
        return self.auc.low > 0.5


@dataclass(frozen=True)
class Labels:
    """The token ids that spell a frame's two labels on one backbone."""

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    single_token: bool

    @classmethod
    def of(cls, backbone: Backbone, frame: Frame) -> "Labels":
        """The spellings of each label, with and without a leading space, that are a single token;
        where neither is, the first tokens of both. Raises UnsupportedBackbone where the two labels
        begin with the same token."""
        spelled, single = [], True
        for label in (frame.positive, frame.negative):
            tokens = [backbone.encoder.plain.tokenize(form) for form in (label, f" {label}")]
            whole = [t for t in tokens if len(t) == 1]
            single &= bool(whole)
            spelled.append({t[0] for t in whole or tokens})
        positive, negative = spelled
        if positive & negative:
            raise UnsupportedBackbone(
                f"frame {frame.name!r}: {frame.positive!r} and {frame.negative!r} begin with the "
                "same token in this tokenizer; use another frame"
            )
        return cls(tuple(sorted(positive)), tuple(sorted(negative)), single)

    def margin(self, backbone: Backbone, batch: Batch) -> Float[Tensor, " batch"]:
        """The margin of each row, float32; of the LM head only the rows of the labels are read."""
        ids = self.positive + self.negative
        state = record(backbone, batch, ["norm"])["norm"]
        logits = backbone.label_logits(state, ids)
        positive, negative = logits.split([len(self.positive), len(self.negative)], dim=-1)
        return positive.logsumexp(-1) - negative.logsumexp(-1)


def judge(
    backbone: Backbone,
    frame: Frame,
    pairs: Sequence[tuple[Item, Item]],
    instruction: str | None = None,
    layout: Layout = "options first",
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " pairs"]:
    """The margin of each (query, candidate) pair under a frame: log p(positive) - log p(negative).

    Pairs of one query share its computation, and all of them share forwards. Instruction and layout
    are those of `Frame.apply`; `progress` is the title of a progress bar, None shows none.
    """
    labels = Labels.of(backbone, frame)

    def make(pair: tuple[Item, Item]) -> list[Row]:
        return [backbone.row(frame.apply(*pair, instruction, layout), pair[1].name)]

    def run(rows: list[Sequence[Row]], bar: str | None) -> Tensor:
        margins = run_batches(
            backbone,
            [row for (row,) in rows],
            lambda batch: list(labels.margin(backbone, batch)),  # on the device until all are there
            progress=bar,
        )
        return torch.stack(margins).double() if margins else torch.empty(0).double()

    return blockwise(backbone, make, pairs, run, progress).numpy()


def content_free_margin(
    backbone: Backbone,
    frame: Frame,
    instruction: str | None = None,
    layout: Layout = "options first",
) -> float:
    """The mean margin under content-free input, for contextual calibration."""
    return float(judge(backbone, frame, _content_free_pairs(), instruction, layout).mean())


def _content_free_pairs() -> list[tuple[Item, Item]]:
    return [(Item(text), Item(text)) for text in CONTENT_FREE]


Frames = str | Frame | Mapping[str, Frame] | Sequence[str | Frame]


def as_frames(frames: Frames) -> list[Frame]:
    """A list of frames from frames or their names in FRAMES; a lone one is a list of one. Raises
    BadSetting where there is no frame of a name."""
    if isinstance(frames, Mapping):
        frames = list(frames.values())
    if isinstance(frames, str) or not isinstance(frames, Iterable):
        frames = [frames]
    unknown = [name for name in frames if not isinstance(name, Frame) and name not in FRAMES]
    if unknown:
        raise BadSetting(f"there is no frame {unknown[0]!r}; frames: {', '.join(FRAMES)}")
    return [frame if isinstance(frame, Frame) else FRAMES[frame] for frame in frames]


def framing_bias(
    backbone: Backbone,
    frames: Frames = FRAMES,
    *,
    seed: int = 0,
    progress: bool = False,
) -> Results[FrameBias]:
    """Measure the label bias and the discrimination of frames on the bundled labelled pairs.

    Args:
        backbone: The model to measure.
        frames: Frames, or their names in FRAMES; by default all of FRAMES.
        seed: Seed of the bootstrap intervals, which resample queries.
        progress: Whether to show progress bars.

    Returns:
        A result for each frame.

    Raises:
        BadSetting: There is no frame of this name.
        UnsupportedBackbone: The labels of a frame begin with the same token.
    """
    return Results(_bias(backbone, frame, seed, progress) for frame in as_frames(frames))


def best_frame(biases: Sequence[FrameBias]) -> FrameBias:
    """The frame with the highest AUC."""
    return max(biases, key=lambda bias: bias.auc.mean)


def _bias(backbone: Backbone, frame: Frame, seed: int, progress: bool) -> FrameBias:
    rows = sorted(matches(), key=lambda row: (row["query"], row["match"]))
    pairs = [(Item(row["query"]), Item(row["candidate"])) for row in rows]
    real = np.array([row["match"] for row in rows])
    pairs += _content_free_pairs()
    judged = judge(backbone, frame, pairs, progress=f"frame {frame.name}" if progress else None)
    margins, blank = judged[: len(rows)], float(judged[len(rows) :].mean())

    def accuracy(shift: float) -> Interval:
        right = ((margins - shift) > 0) == real
        return mean_interval(right.reshape(-1, 2).mean(1), seed)  # per query, which has two pairs

    return FrameBias(
        frame=frame.name,
        skew=1 / (1 + math.exp(-blank)),
        margin=blank,
        accuracy=accuracy(0.0),
        accuracy_calibrated=accuracy(blank),
        auc=paired_auc(margins[real], margins[~real], seed),
        mean_p=float(torch.sigmoid(torch.tensor(margins)).mean()),
        single_token=Labels.of(backbone, frame).single_token,
    )
