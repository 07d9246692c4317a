"""Systems that average final hidden states: mean pooling, last token, Echo, ReAlign."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from freeret.evaluate.datasets import Dataset
from freeret.evaluate.systems.realign import EPSILON, SHRINKAGE, opening, summarize
from freeret.evaluate.systems.vectors import Prompts, Space, VectorSystem, by_signature
from probes import Backbone, Item
from probes.errors import BadSetting
from probes.model.batches.run import run_batches
from probes.model.encoding import Batch
from probes.prompts import Prompted, Side


@dataclass(frozen=True)
class Pooled(VectorSystem):
    """The final hidden state, averaged over positions.

    Without a chat template or a prompt, `mean` takes all positions, `last` the last one, and `echo`
    those of the second copy of the text. `realign` takes all positions before the model's turn,
    under its prompt in the chat template, and whitens each side on its own.
    """

    name: Literal["mean", "last", "echo", "realign"]
    backbone: Backbone = field(repr=False)
    recipe: None = None

    @property
    def geometry(self) -> Space:
        return "realign" if self.name == "realign" else "none"

    def encode(
        self,
        items: Sequence[Item],
        side: Side = "document",
        task: str = "",
        *,
        progress: bool = False,
    ) -> Tensor:
        """Raises BadSetting for Echo of anything but text."""
        rows = [self.backbone.row(self._wording(item), item.name) for item in items]
        if not rows:
            return torch.empty(0, self.backbone.hidden_size)
        positions = self._positions()

        def forward(batch: Batch) -> list[Tensor]:
            inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": 1}
            with self.backbone.lock, torch.no_grad():
                output = self.backbone.model(**inputs, output_hidden_states=True)
            states = output.hidden_states[-1].float().cpu()  # the final norm's output
            return [
                state[-length:][positions(length)].mean(0)
                for state, length in zip(states, batch.lengths, strict=True)
            ]

        title = self.name if progress else None
        return torch.stack(
            run_batches(self.backbone, rows, forward, share_prefix=False, progress=title)
        )

    def prompts_for(self, dataset: Dataset) -> Prompts:
        if self.name != "realign":
            return {}
        wording = self.backbone.encoder.wording
        return by_signature(dataset, lambda item, _: [wording(summarize(item))])

    def identity(self) -> dict[str, Any]:
        if self.name != "realign":
            return {"pooling": self.name}
        return {
            "pooling": self.name,
            "prompt": summarize(Item("x")).user[-1],
            "shrinkage": SHRINKAGE,
            "epsilon": EPSILON,
        }

    def _wording(self, item: Item) -> Item | Prompted:
        if self.name == "realign":
            return summarize(item)
        if self.name != "echo":
            return item
        if item.media:
            raise BadSetting(f"Echo repeats text, and {item.name} holds {item.media[0].kind}")
        return Item(f"Rewrite the sentence: {item.text}, rewritten sentence: {item.text}")

    def _positions(self) -> Callable[[int], slice]:
        """A function from the length of a row to the positions that are averaged."""
        if self.name == "echo":
            frame = len(self.backbone.row(self._wording(Item("a")))) - 2 * self._tokens(" a")
            return lambda length: slice(-max(1, (length - frame) // 2), None)
        if self.name == "realign":
            tail = opening(self.backbone)
            return lambda length: slice(length - tail)
        return lambda length: slice(None if self.name == "mean" else -1, None)

    def _tokens(self, text: str) -> int:
        return len(self.backbone.encoder.plain.tokenize(text))
