"""The judges by name: every frame, and the likelihood of the query."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from probes.items import Item
from probes.measure.framing import FRAMES, judge
from probes.measure.judges.likelihood import likelihood, pair_prompt
from probes.model.backbone import Backbone
from probes.prompts import Prompted

LIKELIHOOD = "likelihood"
JUDGES: tuple[str, ...] = (*FRAMES, LIKELIHOOD)


def judged_by(
    name: str,
    backbone: Backbone,
    pairs: Sequence[tuple[Item, Item]],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " pairs"]:
    """The margin of each (query, candidate) pair by a judge of JUDGES, higher for a better match.

    Args:
        name: A frame, whose margin is the log-odds of a match, or "likelihood", whose margin is the
            pointwise mutual information (see `probes.measure.judges.likelihood`).
        backbone: The model that judges.
        pairs: Those of one query share what they begin with.
        progress: Title of a progress bar; None shows no bar.
    """
    if name == LIKELIHOOD:
        return likelihood(backbone, pairs, progress=progress)
    return judge(backbone, FRAMES[name], pairs, progress=progress)


def judge_prompt(name: str, query: Item, candidate: Item) -> Prompted:
    """The exchange in which a judge reads a pair."""
    if name == LIKELIHOOD:
        return pair_prompt(query, candidate)
    return FRAMES[name].apply(query, candidate)
