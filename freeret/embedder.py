"""Stage 1: one vector per item, the hidden state at the last position of a prompt.

Embedder(backbone, site="attn[-1]", prompt=ControlPrompt())      the paper's h^Attn_L
Embedder(backbone, site="norm", prompt="e5v")                    E5-V (arXiv 2407.12580)
Embedder(backbone, site="norm", prompt="prompteol")              PromptEOL (arXiv 2307.16645)
Embedder.from_recipe(backbone, recipe)                           the choice of the probes

At `attn[-1]` the state is read before the last MLP, which turns it towards the next word; the
paper's control prompt also discourages function words (arXiv 2509.24621).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from freeret.recipe import Recipe
from probes import Backbone, Item, Site, as_items
from probes.arguments import check_choice, check_count
from probes.errors import BadItem, BadSetting
from probes.geometry import unit
from probes.media.towers import to_host
from probes.model.batches.ahead import blockwise
from probes.model.batches.states import device_states
from probes.model.encoding import Row
from probes.model.encoding.splitting import passages_of
from probes.model.vocabulary import words_of
from probes.prompts import Prompt, Side, as_prompt, has_task

NORM = Site.parse("norm")


class Embedder:
    """Embeds items of any modality that the backbone reads.

    Vectors are raw: the geometry of a corpus (`probes.Geometry`) is applied to them afterwards, so
    that it can change without encoding again.

    Args:
        backbone: The model.
        site: Where the state is read, such as `attn[-1]` or `norm`.
        prompt: A name in `probes.prompts.NAMED`, a prompt, or a list of them, whose unit vectors
            are averaged (MetaEOL, arXiv 2402.18458).
        passage: Read documents of text in passages of about this many words, whose unit vectors are
            averaged; None reads them whole.

    Raises:
        BadSetting: The backbone has no such site, there is no such prompt, or the list is empty.
    """

    def __init__(
        self,
        backbone: Backbone,
        site: str | Site = "attn[-1]",
        prompt: str | Prompt | list[str | Prompt] = "control",
        passage: int | None = None,
    ):
        self.backbone = backbone
        self.site = Site.parse(site)
        self.site.resolve(backbone.num_layers)
        self.prompts = [as_prompt(p) for p in (prompt if isinstance(prompt, list) else [prompt])]
        if not self.prompts:
            raise BadSetting("prompt is an empty list; name at least one")
        if passage is not None:
            check_count("passage", passage)
        self.passage = passage

    def __repr__(self) -> str:
        return f"Embedder({self.backbone!r}, site='{self.site}', {self.prompts})"

    @classmethod
    def from_recipe(cls, backbone: Backbone, recipe: Recipe) -> "Embedder":
        """Stage 1 of a recipe, its task prior included. Raises BadSetting as `for_task` does."""
        return cls(backbone, recipe.site, recipe.prompt, recipe.passage).for_task(recipe.task)

    def for_task(self, task: str | None) -> "Embedder":
        """The same extraction with another task prior.

        Args:
            task: A key of `probes.prompts.TASKS` or free text; None changes nothing.

        Raises:
            BadSetting: No prompt of this embedder states a task.
        """
        if task is None:
            return self
        if not any(has_task(prompt) for prompt in self.prompts):
            names = ", ".join(prompt.name for prompt in self.prompts)
            raise BadSetting(
                f"the prompt {names} states no task, so task={task!r} would change nothing; "
                "use a recipe with the control prompt"
            )
        prompts: list[str | Prompt] = [as_prompt(prompt, task) for prompt in self.prompts]
        return Embedder(self.backbone, self.site, prompts, self.passage)

    def encode(
        self, items: Any, side: Side = "document", *, progress: bool = False
    ) -> Float[Tensor, "n hidden"]:
        """Embed items.

        Args:
            items: Anything that `as_items` reads; a lone item is a list of one.
            side: Whether they are queries or documents, which prompts may word differently.
            progress: Whether to show a progress bar.

        Returns:
            Raw vectors `[n, hidden]`, float32 on the CPU, in the order given.

        Raises:
            BadItem: An item cannot be read; the error names it.
        """
        check_choice("side", side, ("query", "document"))
        return blockwise(
            self.backbone,
            lambda item: self.rows(item, side),
            as_items(items),
            lambda rows, bar: self._states(rows, [self.site], bar)[:, 0],
            "embedding" if progress else None,
        )

    def rows(self, item: Item, side: Side = "document") -> list[Row]:
        """The item tokenised under each prompt, one row for each passage of it. Raises BadItem with
        its id."""
        pieces = [item]
        if self.passage is not None and side == "document":
            pieces = passages_of(item, self.passage)
        try:
            return [
                self.backbone.row(prompt.apply(piece, side), item.name)
                for prompt in self.prompts
                for piece in pieces
            ]
        except BadItem as error:
            raise BadItem(str(error), error.item or item.id) from error

    def encode_rows(
        self, rows: Sequence[Sequence[Row]], *, progress: str | None = None
    ) -> Float[Tensor, "n hidden"]:
        """Raw vectors of items that `rows` has tokenised; `progress` names the bar."""
        return self._states(rows, [self.site], progress)[:, 0].cpu()

    def launch(
        self, items: Sequence[Item], rows: Sequence[Sequence[Row]], *, progress: str | None = None
    ) -> Callable[[], tuple[Float[Tensor, "n hidden"], list[str]]]:
        """Compute raw vectors of items and the words that lexical search finds them by, in one
        forward, without waiting for a GPU where no item holds media.

        Args:
            progress: Label of a progress bar.

        Returns:
            Waits and returns raw vectors `[n, hidden]` as `encode_rows` returns them, and for each
            item its text and the content words that the model reads in its media
            (`probes.model.vocabulary`).
        """
        media = [bool(item.media) for item in items]
        states = self._states(rows, [self.site, NORM] if any(media) else [self.site], progress)
        vectors, texts = to_host(states[:, 0]), [item.text for item in items]
        if any(media):
            texts = texts_with_words(self.backbone, items, states[media, 1])
        return lambda: (vectors(), texts)

    def words(self, items: Sequence[Item], side: Side = "document") -> list[str]:
        """The words of items as `launch` returns them; only items with media need a
        forward. Raises BadItem."""
        states = blockwise(
            self.backbone,
            lambda item: self.rows(item, side),
            [item for item in items if item.media],
            lambda rows, bar: self._states(rows, [NORM], bar),
        )
        return texts_with_words(self.backbone, items, states[:, 0])

    def _states(
        self, rows: Sequence[Sequence[Row]], sites: Sequence[Site], progress: str | None
    ) -> Float[Tensor, "n sites hidden"]:
        """States of items on the device; those of several prompts or passages are averaged as unit
        vectors."""
        if all(len(of_item) == 1 for of_item in rows):
            return device_states(self.backbone, [row for (row,) in rows], sites, progress=progress)
        counts = [len(of_item) // len(self.prompts) for of_item in rows]
        by_prompt = []
        for number in range(len(self.prompts)):
            of_prompt = [
                row
                for of_item, count in zip(rows, counts, strict=True)
                for row in of_item[number * count : (number + 1) * count]
            ]
            states = device_states(self.backbone, of_prompt, sites, progress=progress)
            by_prompt.append(states.split(counts))
        return torch.stack([_mean(torch.cat(parts)) for parts in zip(*by_prompt, strict=True)])

    def encode_query(self, items: Any, *, progress: bool = False) -> Float[Tensor, "n hidden"]:
        """`encode` with the side "query"."""
        return self.encode(items, "query", progress=progress)

    def encode_document(self, items: Any, *, progress: bool = False) -> Float[Tensor, "n hidden"]:
        """`encode` with the side "document"."""
        return self.encode(items, "document", progress=progress)

    @staticmethod
    def similarity(
        a: Float[Tensor, "n hidden"], b: Float[Tensor, "m hidden"]
    ) -> Float[Tensor, "n m"]:
        """Cosines of all pairs `[n, m]`, in float32. Raises BadSetting for unequal dimensions."""
        if a.shape[1] != b.shape[1]:
            raise BadSetting(
                f"vectors of {a.shape[1]} and of {b.shape[1]} dimensions cannot be compared"
            )
        return unit(a) @ unit(b).T

    @property
    def symmetric(self) -> bool:
        """Whether the prompts of queries and of documents have the same wording."""
        item = Item("x")
        return all(p.apply(item, "query") == p.apply(item, "document") for p in self.prompts)

    @property
    def dimension(self) -> int:
        return self.backbone.hidden_size

    def identity(self) -> dict[str, Any]:
        """The settings of this stage that decide a vector, for fingerprints on disk."""
        return {
            "site": str(self.site.resolve(self.backbone.num_layers)),
            "prompts": [prompt.settings() for prompt in self.prompts],
            "truncate_dim": None,  # removed option; kept because existing stores record it
            **({} if self.passage is None else {"passage": self.passage}),
        }


def texts_with_words(
    backbone: Backbone, items: Sequence[Item], states: Float[Tensor, "media hidden"]
) -> list[str]:
    """The text of each item, followed by the words that the model reads in its media.

    Args:
        states: States at `norm` of those of the items that hold media.
    """
    read = iter(words_of(backbone, states))
    return [f"{i.text}\n{next(read)}".strip() if i.media else i.text for i in items]


def _mean(states: Float[Tensor, "rows sites hidden"]) -> Float[Tensor, "sites hidden"]:
    """The mean of unit vectors, site by site; a lone row as it is."""
    return states[0] if len(states) == 1 else unit(states).mean(0)


def not_finite(items: Sequence[Item], vectors: Float[Tensor, "items hidden"]) -> dict[int, BadItem]:
    """Errors of the items whose vectors hold NaN or infinity, by position."""
    positions = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    return {
        i: BadItem(
            f"{items[i].name}: its vector is not finite (the model overflows on it; try another "
            "dtype)",
            items[i].id,
        )
        for i in positions
    }
