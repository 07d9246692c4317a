"""The logit lens at every site and position of one prompt: which word does each state hold?

For the state h at a site and a position, the lens (nostalgebraist, 2020) gives the distribution p
of a model that ended there: the final norm and the LM head applied to h. Beside its top words stand

    entropy = −Σ p ln p        alpha = cos(before, h)        beta = cos(h, w_y*)

where `before` is the state before the sublayer that leads to the site, and w_y* the LM-head row of
the word y* that the model itself predicts at that position, at the end of its forward pass. Both
cosines are those of the lexicalization curves (FreeRet, arXiv 2509.24621, §3.2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from probes.arguments import check_count
from probes.display import data_frame
from probes.errors import BadSetting, NotRecorded
from probes.files import write_atomic
from probes.measure.lexicalization import alpha_of, beta_of
from probes.microscope.page import lens_html
from probes.microscope.places import Names, Places, picture_places
from probes.microscope.tokens import content_places, spelled
from probes.model.backbone import Backbone
from probes.model.encoding.rows import Positions
from probes.model.sites import Site, all_sites, as_sites
from probes.model.trace import record
from probes.model.vocabulary import BLOCK, vocabulary_of
from probes.prompts import Source

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 10
"""Positions that a notebook shows, counted from the end of the prompt: all of a long prompt would
make the notebook large."""


@dataclass(frozen=True, eq=False)
class LensTable:
    """What the logit lens reads at each site and position of one prompt.

    Arrays are `[sites, positions]`, in order of execution and of the prompt; `words` and
    `probability` are `[sites, positions, top]`, the most likely word first.
    """

    backbone: str
    num_layers: int
    sites: tuple[Site, ...]
    positions: tuple[int, ...]
    """The place of each column in the prompt, counted from 0."""
    length: int
    """Tokens of the whole prompt."""
    tokens: tuple[str, ...]
    """The token at each position, as `probes.microscope.tokens.spelled` writes it."""
    predicted: tuple[str, ...]
    """y*: the word that the model predicts at each position."""
    words: ndarray
    probability: ndarray
    """p of each word, among all words of the vocabulary."""
    entropy: ndarray
    """Entropy of p in nats: 0 where one word is certain, ln(vocabulary) where all are alike."""
    alpha: ndarray
    """Not a number at `embed`, which no sublayer leads to."""
    beta: ndarray
    content: bool
    """Whether the words are content words alone."""
    pictures: tuple[Places | Names | str, ...]
    """Where the tokens of each picture stand in it, or which names of its contents they are, or why
    that cannot be said."""

    def __repr__(self) -> str:
        return (
            f"LensTable({self.backbone!r}, {len(self.sites)} sites, {len(self.positions)} of "
            f"{self.length} positions, the last predicts {self.predicted[-1]!r})"
        )

    def row(self, site: str | Site) -> int:
        """The index of a site, such as `attn[-1]`, in all arrays. Raises NotRecorded where it was
        not read."""
        wanted = Site.parse(site).resolve(self.num_layers)
        if wanted not in self.sites:
            names = ", ".join(map(str, self.sites))
            raise NotRecorded(f"{site} was not read; the table has {names}")
        return self.sites.index(wanted)

    def columns(self, positions: Sequence[int]) -> list[int]:
        """The indices of positions of the prompt. Raises NotRecorded where one was not read."""
        place = {position: index for index, position in enumerate(self.positions)}
        missing = sorted(set(positions) - place.keys())
        if missing:
            raise NotRecorded(f"position {missing[0]} was not read; give positions='all'")
        return [place[position] for position in positions]

    def _repr_html_(self) -> str:
        return lens_html(self, self.positions[-SHOWN:])

    def save(self, path: str | Path) -> Path:
        """Write a page of all sites and positions, whole or not at all, that needs no other file.

        Args:
            path: A file that ends in .html.

        Raises:
            BadSetting: It has another ending.
        """
        path = Path(path)
        if path.suffix != ".html":
            raise BadSetting(f"a lens table is saved as a .html file, not as {path.name!r}")
        return write_atomic(path, lens_html(self, self.positions, page=True))

    def cells(self) -> Iterator[dict[str, Any]]:
        """Every site and position: site, position, token, predicted, entropy, alpha, beta, and
        `top`, pairs of a word and its probability. Values that are not numbers are None."""
        for i, site in enumerate(self.sites):
            for j, position in enumerate(self.positions):
                alpha = float(self.alpha[i, j])
                yield {
                    "site": str(site),
                    "position": position,
                    "token": self.tokens[j],
                    "predicted": self.predicted[j],
                    "entropy": float(self.entropy[i, j]),
                    "alpha": None if np.isnan(alpha) else alpha,
                    "beta": float(self.beta[i, j]),
                    "top": list(
                        zip(self.words[i, j].tolist(), self.probability[i, j].tolist(), strict=True)
                    ),
                }

    def to_dataframe(self) -> "DataFrame":
        """A pandas data frame with a row for each site, position and rank of a word, and the
        columns site, position, token, predicted, entropy, alpha, beta, rank (1 is the top), word
        and probability. Raises BadSetting where pandas is not installed."""
        return data_frame(
            {key: value for key, value in cell.items() if key != "top"}
            | {"rank": rank, "word": word, "probability": probability}
            for cell in self.cells()
            for rank, (word, probability) in enumerate(cell["top"], start=1)
        )


def lens(
    backbone: Backbone,
    source: Source,
    *,
    sites: str | Site | Sequence[str | Site] = "all",
    positions: Positions = "all",
    top: int = 10,
    content: bool = False,
) -> LensTable:
    """Read one prompt with the logit lens.

    Logits are reduced to the top words and the entropy block by block, so that those of the whole
    vocabulary are never held for many positions.

    Args:
        backbone: The model to read.
        source: One text or other item, in any form that `Backbone.encode` takes, or a prompted
            exchange such as `E5V.apply("a cat")`.
        sites: Where to read, such as `["attn[-1]", "norm"]`; by default at every site.
        positions: Which tokens of the prompt: all of them, the last, or a slice of them.
        top: Number of words of each state.
        content: Whether only content words count: words of at least three letters that a single
            token spells out (`probes.model.vocabulary.Vocabulary`), in lower case, without English
            function words.

    Returns:
        A table of sites × positions, which shows itself in a notebook.

    Raises:
        BadItem: The source cannot be read.
        BadSetting: There are several sources, or the backbone has no such site or position.
        OutOfMemory: The prompt does not fit in memory.
    """
    check_count("top", top)
    row = backbone.row(source)
    order = all_sites(backbone)
    wanted = {site.single(backbone.num_layers) for site in as_sites(sites, backbone.num_layers)}
    shown = [i for i, site in enumerate(order) if site in wanted]
    if not shown:
        raise BadSetting("nothing to read: name at least one site")
    needed = {order[j] for i in shown for j in (i, max(i - 1, 0))}
    states = record(backbone, backbone.collate([row]), [*needed, "norm"], positions=positions)
    columns = [column for _, column in states.read[0]]
    if not columns:
        raise BadSetting(f"the prompt has {len(row)} tokens, and none at {positions}")
    ends = [logits.argmax(-1).cpu() for logits in _lens(backbone, states["norm"], order[-1])]
    word = torch.cat(ends)
    word_rows = backbone.word_rows(word).cpu()

    places = torch.tensor(content_places(vocabulary_of(backbone))) if content else None
    read = [_read(backbone, states[order[i]], order[i], top, places) for i in shown]
    words, probability, entropy = zip(*read, strict=True)
    alpha = [
        alpha_of(states[order[i - 1]].cpu(), states[order[i]].cpu()).numpy()
        if i
        else np.full(len(columns), np.nan)
        for i in shown
    ]
    beta = [beta_of(states[order[i]].cpu(), word_rows).numpy() for i in shown]
    return LensTable(
        backbone=backbone.name,
        num_layers=backbone.num_layers,
        sites=tuple(order[i] for i in shown),
        positions=tuple(columns),
        length=len(row),
        tokens=tuple(spelled(backbone, [row.ids[column] for column in columns])),
        predicted=tuple(spelled(backbone, word.tolist())),
        words=np.array(words, dtype=object),
        probability=np.array(probability),
        entropy=np.array(entropy),
        alpha=np.array(alpha),
        beta=np.array(beta),
        content=content,
        pictures=tuple(picture_places(backbone, row)),
    )


def _lens(backbone: Backbone, states: Tensor, site: Site) -> Iterator[Tensor]:
    """The logits of each block of states."""
    for block in states.split(BLOCK):
        yield backbone.lens(block, site)


def _read(
    backbone: Backbone, states: Tensor, site: Site, top: int, places: Tensor | None
) -> tuple[list[list[str]], ndarray, ndarray]:
    """The top words of each state, their probabilities, and the entropy. `places` are those of the
    only words that count, in the vocabulary of content words."""
    words: list[list[str]] = []
    probability, entropy = [], []
    for logits in _lens(backbone, states, site):
        logs = logits.log_softmax(-1)
        entropy.append(torch.special.entr(logs.exp()).sum(-1).cpu())
        if places is not None:
            vocabulary = vocabulary_of(backbone)
            counted = vocabulary.logits(logs)[:, places.to(logs.device)]
            best, ids = counted.topk(min(top, len(places)))
            words += [[vocabulary.words[i] for i in row] for row in places[ids.cpu()].tolist()]
        else:
            best, ids = logs.topk(min(top, logs.shape[-1]))
            words += [spelled(backbone, row) for row in ids.tolist()]
        probability.append(best.exp().cpu())
    return words, torch.cat(probability).numpy(), torch.cat(entropy).numpy()
