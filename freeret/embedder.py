"""Stage 1: one vector an item, read at a state before it becomes a word.

Embedder(backbone, site="attn[-1]", prompt=ControlPrompt())      the paper's setting
Embedder(backbone, site="norm", prompt="e5v")                    the E5-V extraction
Embedder.from_recipe(backbone, recipe)                           what the probes chose
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from freeret.recipe import Recipe
from probes import Backbone, Item, Site, as_items
from probes.arguments import check_choice, check_count
from probes.errors import BadItem, BadSetting
from probes.geometry import unit
from probes.model.batching import last_states
from probes.model.encoding import Row
from probes.prompts import Prompt, Side, as_prompt, has_task


class Embedder:
    """Embeds items of any modality the backbone reads.

    `prompt` is a name, a prompt, or a list of them, whose unit vectors are averaged (MetaEOL).
    `truncate_dim` keeps the first so many dimensions. Vectors are raw: the geometry of a corpus
    (`probes.Geometry`) is applied after them, so it can change without encoding again.
    """

    def __init__(
        self,
        backbone: Backbone,
        site: str | Site = "attn[-1]",
        prompt: str | Prompt | list[str | Prompt] = "control",
        *,
        truncate_dim: int | None = None,
    ):
        self.backbone = backbone
        self.site = Site.parse(site)
        self.site.resolve(backbone.num_layers)
        self.prompts = [as_prompt(p) for p in (prompt if isinstance(prompt, list) else [prompt])]
        if not self.prompts:
            raise BadSetting("prompt is an empty list; name at least one")
        if truncate_dim is not None:
            check_count("truncate_dim", truncate_dim)
        self.truncate_dim = truncate_dim

    def __repr__(self) -> str:
        return f"Embedder({self.backbone!r}, site='{self.site}', {self.prompts})"

    @classmethod
    def from_recipe(cls, backbone: Backbone, recipe: Recipe, **options: Any) -> "Embedder":
        """Stage 1 of a recipe, its task prior included. Raises BadSetting as `for_task` does."""
        return cls(backbone, recipe.site, recipe.prompt, **options).for_task(recipe.task)

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
        return Embedder(self.backbone, self.site, prompts, truncate_dim=self.truncate_dim)

    def encode(
        self, items: Any, side: Side = "document", *, progress: bool = False
    ) -> Float[Tensor, "n hidden"]:
        """Raw float32 vectors on the CPU, in the order given. Raises BadItem, naming the item."""
        check_choice("side", side, ("query", "document"))
        read = as_items(items)
        rows = [self.rows(item, side) for item in read]
        return self.encode_rows(rows, progress="embedding" if progress else None)

    def rows(self, item: Item, side: Side = "document") -> list[Row]:
        """The item tokenised under each prompt. Raises BadItem with its id."""
        try:
            return [self.backbone.row(p.apply(item, side), item.name) for p in self.prompts]
        except BadItem as error:
            raise BadItem(str(error), error.item or item.id) from error

    def encode_rows(
        self, rows: Sequence[Sequence[Row]], *, progress: str | None = None
    ) -> Float[Tensor, "n hidden"]:
        """Raw vectors of items tokenised by `rows`; `progress` names the bar."""
        if not rows:
            return torch.empty(0, self.dimension)
        by_prompt = [self._run(list(column), progress) for column in zip(*rows, strict=True)]
        if len(by_prompt) == 1:
            return by_prompt[0][:, : self.truncate_dim]
        return torch.stack([unit(v) for v in by_prompt]).mean(0)[:, : self.truncate_dim]

    def encode_query(self, items: Any, *, progress: bool = False) -> Float[Tensor, "n hidden"]:
        return self.encode(items, "query", progress=progress)

    def encode_document(self, items: Any, *, progress: bool = False) -> Float[Tensor, "n hidden"]:
        return self.encode(items, "document", progress=progress)

    @staticmethod
    def similarity(
        a: Float[Tensor, "n hidden"], b: Float[Tensor, "m hidden"]
    ) -> Float[Tensor, "n m"]:
        """Cosine of every pair, in float32. Raises BadSetting for unequal dimensions."""
        if a.shape[1] != b.shape[1]:
            raise BadSetting(f"vectors of {a.shape[1]} and of {b.shape[1]} dimensions")
        return unit(a) @ unit(b).T

    @property
    def symmetric(self) -> bool:
        """Whether queries and documents are put to the model in the same words."""
        item = Item("x")
        return all(p.apply(item, "query") == p.apply(item, "document") for p in self.prompts)

    @property
    def dimension(self) -> int:
        hidden = self.backbone.hidden_size
        return min(self.truncate_dim or hidden, hidden)

    def identity(self) -> dict[str, Any]:
        """What of this stage decides a vector, for the fingerprint."""
        return {
            "site": str(self.site.resolve(self.backbone.num_layers)),
            "prompts": [prompt.settings() for prompt in self.prompts],
            "truncate_dim": self.truncate_dim,
        }

    def _run(self, rows: list[Row], progress: str | None) -> Tensor:
        return last_states(self.backbone, rows, [self.site], progress=progress)[:, 0]


def not_finite(items: Sequence[Item], vectors: Float[Tensor, "items hidden"]) -> dict[int, BadItem]:
    """By place, an error for each item whose vector holds NaN or infinity."""
    places = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    return {
        i: BadItem(
            f"{items[i].name}: its vector is not finite (the model overflows on it; try another "
            "dtype)",
            items[i].id,
        )
        for i in places
    }
