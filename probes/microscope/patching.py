"""Activation patching: what of one input, put into another, brings back its answer?

Two inputs are continued by different words, the clean one by y and the corrupted one by y'. The
corrupted input runs again with what one sublayer of the clean one writes in the place of its own,
and the difference d of the logits of y and y' tells how much of the answer this brings back:

    restored = (d patched - d corrupted) / (d clean - d corrupted)

Causal tracing (Meng et al., 2022, arXiv:2202.05262), with the logit difference in place of the
probability (Zhang and Nanda, 2024, arXiv:2309.16042).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probes.arguments import check_choice
from probes.errors import BadSetting
from probes.model.backbone import Backbone
from probes.model.batches.cost import budget
from probes.model.encoding import Row
from probes.model.interventions import Intervention, intervene
from probes.model.sites import Site, all_sites
from probes.model.trace import record
from probes.prompts import Source


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """The restored share of the logit difference, by layer and sublayer."""

    values: Float[ndarray, "layers 2 *tokens"]
    """1 where the answer is the clean one, 0 where the patch changes nothing; after attention, then
    after the MLP. With a third axis, one for each position."""
    tokens: list[str]
    """The tokens of the corrupted input that are patched: the last one, or all."""
    answers: tuple[str, str]
    """y and y'."""
    clean: float
    """The logit difference of the clean input."""
    corrupted: float
    """That of the corrupted input."""
    part: Literal["write", "state"]
    """What is patched."""

    def __repr__(self) -> str:
        right, wrong = self.answers
        place = np.unravel_index(np.argmax(self.values), self.values.shape)
        site = f"{('attn', 'mlp')[place[1]]}[{place[0]}]"
        return (
            f"PatchGrid({right!r} against {wrong!r}, {len(self.values)} layers, "
            f"{len(self.tokens)} positions, most restored by {site}: {self.values[place]:.2f})"
        )


@dataclass(frozen=True)
class _Patch:
    """A state of the clean input, and where it goes."""

    site: Site
    column: int
    """The token of the corrupted input, counted from the beginning."""
    value: Tensor


def patch_grid(
    backbone: Backbone,
    clean: Source,
    corrupted: Source,
    answers: tuple[str, str] | None = None,
    *,
    positions: Literal["last", "all"] = "last",
    part: Literal["write", "state"] = "write",
) -> PatchGrid:
    """Patch every sublayer of a corrupted input from a clean one, one at a time.

    The patched inputs run together in batches: SmolLM2 has 60 sublayers, which is one batch.

    Args:
        backbone: The model.
        clean: The input whose answer is to be brought back, such as "The capital of France is".
        corrupted: One with another answer, such as "The capital of Italy is".
        answers: y and y', each as it continues the prompt, with its space: (" Paris", " Rome"). Of
            a word of several tokens the first counts. By default the words that the model itself
            predicts.
        positions: "last" for the last token, or "all" for each token by itself, for which both
            inputs must have the same number of tokens.
        part: What is patched: the "write" of a sublayer, which leaves what came before it, or the
            whole "state" of the residual stream after it. The MLP of a layer reads nothing but the
            state after attention at its position, so that both states of a layer restore the same.

    Returns:
        The restored shares.

    Raises:
        BadItem: An input cannot be read.
        BadSetting: The inputs differ in length and all positions are asked for; the answers are the
            same; or the inputs do not differ in their logits.
    """
    check_choice("positions", positions, ("last", "all"))
    check_choice("part", part, ("write", "state"))
    source, target = backbone.row(clean, "clean"), backbone.row(corrupted, "corrupted")
    if positions == "all" and len(source) != len(target):
        raise BadSetting(
            f"clean has {len(source)} tokens and corrupted {len(target)}: positions='all' needs "
            "inputs of the same length; choose words of as many tokens, or positions='last'"
        )
    sites = all_sites(backbone)[:-1]
    states = record(backbone, backbone.collate([source]), sites, positions=positions, logits=True)
    before = record(backbone, backbone.collate([target]), [], logits=True).logits
    assert states.logits is not None
    assert before is not None
    right, wrong = _words(backbone, answers, states.logits[-1], before[-1])

    def difference(logits: Tensor) -> Tensor:
        return (logits[:, right] - logits[:, wrong]).double().cpu()

    reference, start = difference(states.logits)[-1].item(), difference(before).item()
    if abs(reference - start) < 1e-6:
        raise BadSetting("clean and corrupted have the same logit difference: nothing is restored")
    columns = range(len(target)) if positions == "all" else range(len(target) - 1, len(target))
    patches = []
    for previous, site in itertools.pairwise(sites):
        values = states[site] - states[previous] if part == "write" else states[site]
        patches += [_Patch(site, *patch) for patch in zip(columns, values, strict=True)]
    most = max(1, budget(backbone) // len(target))
    logits = [
        difference(_patched(backbone, target, patches[i : i + most], part))
        for i in range(0, len(patches), most)
    ]
    restored = (torch.cat(logits) - start) / (reference - start)
    shape = (backbone.num_layers, 2, *([len(columns)] if positions == "all" else []))
    return PatchGrid(
        restored.numpy().reshape(shape),
        [backbone.tokenizer.decode([target.ids[column]]) for column in columns],
        (backbone.tokenizer.decode([right]), backbone.tokenizer.decode([wrong])),
        reference,
        start,
        part,
    )


def _words(
    backbone: Backbone, answers: tuple[str, str] | None, clean: Tensor, corrupted: Tensor
) -> tuple[int, int]:
    """The tokens of y and y'."""
    if answers is None:
        right, wrong = int(clean.argmax()), int(corrupted.argmax())
    else:
        ids = [backbone.encoder.plain.tokenize(answer) for answer in answers]
        if not all(ids):
            raise BadSetting(f"answers are two words, such as (' Paris', ' Rome'), not {answers}")
        right, wrong = ids[0][0], ids[1][0]
    if right == wrong:
        word = backbone.tokenizer.decode([right])
        raise BadSetting(
            f"both answers begin with the token {word!r}: give answers= of different words, or "
            "inputs that the model continues differently"
        )
    return right, wrong


def _patched(
    backbone: Backbone, row: Row, patches: Sequence[_Patch], part: str
) -> Float[Tensor, "patches vocabulary"]:
    """The logits of copies of a row, each with a patch."""
    interventions: dict[Site, Intervention] = {}
    for site in {patch.site for patch in patches}:
        chosen = [number for number, patch in enumerate(patches) if patch.site == site]
        columns = [patches[number].column for number in chosen]
        values = torch.stack([patches[number].value for number in chosen])
        interventions[site] = _put(chosen, columns, values, part)
    with intervene(backbone, interventions):
        logits = record(backbone, backbone.collate([row] * len(patches)), [], logits=True).logits
    assert logits is not None
    return logits


def _put(rows: list[int], columns: list[int], values: Tensor, part: str) -> Intervention:
    def put(before: Tensor, after: Tensor) -> Tensor:
        new = after.clone()
        added = before[rows, columns] if part == "write" else 0
        new[rows, columns] = values.to(after) + added
        return new

    return put
