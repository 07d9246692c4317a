"""Everything that can be compared, under one tiny interface: a name, an identity, a run.

| name                | what it is                                                             |
|---------------------|------------------------------------------------------------------------|
| `recipe`            | what the probes chose for this backbone, or a recipe file              |
| `paper`             | FreeRet as the paper fixes it: control prompt, h^Attn_L, A/B question  |
| `e5v`               | E5-V (arXiv 2407.12580): its prompt, read at the final norm            |
| `prompteol`         | PromptEOL (arXiv 2307.16645)                                           |
| `metaeol`           | MetaEOL (arXiv 2402.18458): several task prompts, averaged             |
| `hierarchical`      | the task in the system turn (arXiv 2508.00955)                         |
| `realign`           | whitening (ReAlign, arXiv 2512.19115) of the E5-V extraction           |
| `echo`              | Echo (arXiv 2402.15449): the text twice, averaged over the second      |
| `mean`, `last`      | no prompt: the mean of all positions, the last position                |
| `bm25`              | BM25 over words                                                        |
| `st:NAME`           | a sentence-transformers model by its name                              |
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any, Literal, Protocol, runtime_checkable

import bm25s
import numpy as np
import torch
from torch import Tensor

from freeret.embedder import Embedder
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.metrics import to_run
from freeret.evaluate.vectors import rank
from freeret.recipe import Recipe
from probes import Backbone, Item, TemplatePrompt
from probes.batching import run_batches
from probes.encoding import Batch
from probes.errors import BadSetting
from probes.geometry import Kind
from probes.prompts import Prompt, Side, as_prompt
from probes.reference import reference_vectors

logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs every step when imported

Ranking = dict[str, dict[str, float]]
Prompts = dict[str, dict[str, list[str]]]
"""Side -> modality signature -> the prompts as they are tokenised, `{text}` or `{image}` standing
for content; empty for a system that puts content as it is."""


class System(Protocol):
    """Anything that ranks documents."""

    @property
    def name(self) -> str: ...

    @property
    def backbone(self) -> Backbone | None: ...

    @property
    def recipe(self) -> Recipe | None:
        """What stage 2 needs to know; None where there is no stage 2."""
        ...

    def run(self, dataset: Dataset, *, progress: bool = False) -> Ranking:
        """Scores of the best documents of each query."""
        ...

    def identity(self) -> dict[str, Any]:
        """Everything that decides a score."""
        ...

    def prompts_for(self, dataset: Dataset) -> Prompts:
        """What is put to the model around the content of this dataset's items."""
        ...


@runtime_checkable
class Vectors(System, Protocol):
    """A system that is one vector an item, compared by cosine in a geometry."""

    @property
    def geometry(self) -> Kind: ...

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raw float32 vectors `[items, hidden]`; `task` is that of the dataset."""
        ...


def run_vectors(system: Vectors, dataset: Dataset, progress: bool) -> Ranking:
    """Encode both sides, and rank. Raises what `encode` raises."""

    def encode(items: Sequence[Item], side: Side) -> Tensor:
        return system.encode(items, side, dataset.task, progress=progress)

    queries, documents = encode(dataset.queries, "query"), encode(dataset.documents, "document")
    return rank(dataset, queries, documents, system.geometry, reference_vectors(encode))


META_EOL: list[str | Prompt] = [
    TemplatePrompt(f"metaeol: {what}", before=f'{ask}\nInput: "', after='"\nIn one word: ')
    for what, ask in {
        "topic": "Classify the input: name its general category.",
        "sentiment": "Judge the input: name the feeling that it conveys.",
        "paraphrase": "Restate the input: name the meaning that every paraphrase of it shares.",
        "extraction": "Extract from the input: name the entity or fact that matters most.",
    }.items()
]
"""MetaEOL's four meta-tasks, in words of our own."""


@dataclass(frozen=True)
class Prompted:
    """Stage 1: one state a prompt, in a geometry; with a recipe that has a frame, stage 2 too."""

    name: str
    backbone: Backbone = field(repr=False)
    prompts: list[str | Prompt]
    site: str
    geometry: Kind
    recipe: Recipe | None = None

    @classmethod
    def of(cls, name: str, backbone: Backbone, recipe: Recipe) -> "Prompted":
        return cls(name, backbone, [recipe.prompt], recipe.site, recipe.geometry, recipe)

    def run(self, dataset: Dataset, *, progress: bool = False) -> Ranking:
        return run_vectors(self, dataset, progress)

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raises BadItem, naming the item."""
        prompts: list[str | Prompt] = [as_prompt(prompt, task) for prompt in self.prompts]
        return Embedder(self.backbone, self.site, prompts).encode(items, side, progress=progress)

    def prompts_for(self, dataset: Dataset) -> Prompts:
        sides: dict[Side, list[Item]] = {"query": dataset.queries, "document": dataset.documents}
        return {
            side: {
                signature: [
                    self.backbone.encoder.wording(as_prompt(p, dataset.task).apply(item, side))
                    for p in self.prompts
                ]
                for signature, item in {item.signature: item for item in items}.items()
            }
            for side, items in sides.items()
        }

    def identity(self) -> dict[str, Any]:
        stage1 = Embedder(self.backbone, self.site, self.prompts).identity()
        recipe = None if self.recipe is None else asdict(self.recipe)
        return {**stage1, "geometry": self.geometry, "recipe": recipe}


@dataclass(frozen=True)
class Pooled:
    """No chat template, no prompt: the final hidden state, averaged over the last positions.

    `mean` takes all of them, `last` one, `echo` those of the second copy of the text.
    """

    name: Literal["mean", "last", "echo"]
    backbone: Backbone = field(repr=False)
    recipe: None = None
    geometry: Kind = "none"

    def run(self, dataset: Dataset, *, progress: bool = False) -> Ranking:
        return run_vectors(self, dataset, progress)

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
        around = len(self.backbone.row(self._wording(Item("a")))) - 2 * self._tokens(" a")

        def forward(batch: Batch) -> list[Tensor]:
            inputs = {**batch.inputs, "use_cache": False, "logits_to_keep": 1}
            with self.backbone.lock, torch.no_grad():
                output = self.backbone.model(**inputs, output_hidden_states=True)
            spans = [self._span(length, around) for length in batch.lengths]
            states = output.hidden_states[-1].float().cpu()  # the final norm's output
            return [state[-span:].mean(0) for state, span in zip(states, spans, strict=True)]

        title = self.name if progress else None
        return torch.stack(
            run_batches(self.backbone, rows, forward, share_prefix=False, progress=title)
        )

    def prompts_for(self, dataset: Dataset) -> Prompts:
        return {}

    def identity(self) -> dict[str, Any]:
        return {"pooling": self.name}

    def _wording(self, item: Item) -> Item:
        if self.name != "echo":
            return item
        if item.media:
            raise BadSetting(f"Echo repeats text, and {item.name} holds {item.media[0].kind}")
        return Item(f"Rewrite the sentence: {item.text}, rewritten sentence: {item.text}")

    def _span(self, length: int, around: int) -> int:
        if self.name == "echo":
            return max(1, (length - around) // 2)
        return length if self.name == "mean" else 1

    def _tokens(self, text: str) -> int:
        return len(self.backbone.encoder.tokenize(text))


@dataclass(frozen=True)
class BM25:
    """BM25 (k1 = 1.5, b = 0.75) over words, English stopwords left out."""

    name: str = "bm25"
    backbone: None = None
    recipe: None = None

    def run(self, dataset: Dataset, *, progress: bool = False) -> Ranking:
        """Raises BadSetting when an item holds more than text."""
        for item in (*dataset.queries, *dataset.documents):
            if item.media:
                raise BadSetting(f"BM25 reads text, and {item.name} holds {item.media[0].kind}")
        index = bm25s.BM25()
        index.index(self._words(dataset.documents), show_progress=False)
        asked = self._words(dataset.queries)

        def score(query: int, places: Tensor | None) -> Tensor:
            known = [word for word in asked[query] if word in index.vocab_dict]
            scores = index.get_scores(known) if known else np.zeros(len(dataset.documents))
            found = torch.from_numpy(np.asarray(scores, dtype=np.float32))
            return found if places is None else found[places]

        return to_run(dataset, score)

    def prompts_for(self, dataset: Dataset) -> Prompts:
        return {}

    def identity(self) -> dict[str, Any]:
        return {"library": "bm25s", "version": version("bm25s"), "stopwords": "en"}

    def _words(self, items: Sequence[Item]) -> list[list[str]]:
        texts = [item.text for item in items]
        return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)  # type: ignore[return-value]


@dataclass(frozen=True)
class SentenceTransformers:
    """A model of the sentence-transformers library, by its name or folder. Text only."""

    model: str
    backbone: None = None
    recipe: None = None
    geometry: Kind = "none"

    @property
    def name(self) -> str:
        return f"st-{self.model.strip('/').rsplit('/', 1)[-1]}"

    def run(self, dataset: Dataset, *, progress: bool = False) -> Ranking:
        return run_vectors(self, dataset, progress)

    def encode(
        self, items: Sequence[Item], side: Side, task: str, *, progress: bool = False
    ) -> Tensor:
        """Raises BadSetting when the package or the model is missing, or an item is not text."""
        for item in items:
            if item.media:
                raise BadSetting(f"{self.name} reads text, {item.name} is not only text")
        encoder = _sentence_transformer(self.model)
        encode = encoder.encode_query if side == "query" else encoder.encode_document
        texts = [item.text for item in items]
        return torch.from_numpy(np.array(encode(texts, show_progress_bar=progress))).float()

    def prompts_for(self, dataset: Dataset) -> Prompts:
        return {}

    def identity(self) -> dict[str, Any]:
        return {"sentence-transformers": self.model, "version": version("sentence-transformers")}


@functools.lru_cache(maxsize=1)
def _sentence_transformer(model: str) -> Any:
    """Kept from dataset to dataset, and from block to block."""
    try:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model)
    except ImportError:
        raise BadSetting(
            "sentence-transformers is not installed: pip install 'freeret[eval]'"
        ) from None
    except (OSError, ValueError) as error:
        raise BadSetting(f"sentence-transformers has no model {model!r}: {error}") from None


NAMES = (
    "recipe", "paper", "e5v", "prompteol", "metaeol", "hierarchical", "realign", "echo", "mean",
    "last", "bm25",
)  # fmt: skip


def system(name: str, backbone: Callable[[], Backbone], recipe: Callable[[], Recipe]) -> System:
    """A system by its name; backbone and recipe are made only where they are needed.

    Raises BadSetting for an unknown name.
    """
    prompted: dict[str, tuple[list[str | Prompt], Kind]] = {
        "e5v": (["e5v"], "none"),
        "prompteol": (["prompteol"], "none"),
        "hierarchical": (["hierarchical"], "none"),
        "metaeol": (META_EOL, "none"),
        "realign": (["e5v"], "whiten"),
    }
    if name in prompted:
        prompts, geometry = prompted[name]
        return Prompted(name, backbone(), prompts, "norm", geometry)
    match name.split(":", 1):
        case ["recipe"]:
            return Prompted.of(name, backbone(), recipe())
        case ["paper"]:
            return Prompted.of(name, backbone(), Recipe.paper())
        case ["mean" | "last" | "echo" as pooling]:
            return Pooled(pooling, backbone())
        case ["bm25"]:
            return BM25()
        case ["st", model] if model:
            return SentenceTransformers(model)
    raise BadSetting(f"there is no system {name!r}; there are {', '.join(NAMES)}, st:MODEL")
