"""The judges by name: every frame, the likelihood of the query, and attention heads."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from probes.errors import BadSetting
from probes.items import Item
from probes.measure.framing import FRAMES, judge
from probes.measure.judges.heads import attention_scores, heads_named
from probes.measure.judges.likelihood import likelihood, pair_prompt
from probes.model.backbone import Backbone
from probes.prompts import Prompted

LIKELIHOOD = "likelihood"
JUDGES: tuple[str, ...] = (*FRAMES, LIKELIHOOD)
"""The judges that any backbone has; heads, such as `heads[15.7, 17.6]`, are those of one."""


def check_judge(name: str) -> str:
    """The name, if there is a judge of this name. Raises BadSetting where there is none."""
    if not isinstance(name, str) or (name not in JUDGES and not heads_named(name)):
        raise BadSetting(
            f"there is no frame {name!r}; frames: {', '.join(JUDGES)}, or attention heads by layer "
            "and number such as 'heads[15.7, 17.6]'"
        )
    return name


def margin_of(name: str) -> str:
    """How sentences call the margin of a judge."""
    if name == LIKELIHOOD:
        return "the mutual information"
    return "the log attention" if heads_named(name) else "the log-odds of a match"


def judged_by(
    name: str,
    backbone: Backbone,
    pairs: Sequence[tuple[Item, Item]],
    *,
    progress: str | None = None,
) -> Float[np.ndarray, " pairs"]:
    """The margin of each (query, candidate) pair by a judge, higher for a better match.

    The margin of a frame is the log-odds of a match, that of "likelihood" the pointwise mutual
    information (`probes.measure.judges.likelihood`), and that of heads a log attention
    (`probes.measure.judges.heads`). `progress` is the title of a progress bar.
    """
    if name == LIKELIHOOD:
        return likelihood(backbone, pairs, progress=progress)
    if heads := heads_named(name):
        return attention_scores(backbone, pairs, heads, progress=progress)
    return judge(backbone, FRAMES[name], pairs, progress=progress)


def judge_prompt(name: str, query: Item, candidate: Item) -> Prompted:
    """The exchange in which a judge reads a pair."""
    if name == LIKELIHOOD or heads_named(name):
        return pair_prompt(query, candidate)
    return FRAMES[name].apply(query, candidate)
