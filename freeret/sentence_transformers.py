"""A backbone and its recipe as a model of sentence-transformers (5 or newer).

    import freeret

    model = freeret.sentence_transformer("smollm2-135m")
    model.encode_query("why does bread go stale?")
    model.encode_document(["Loaves go stale …", …], batch_size=256)

It can be passed wherever a `SentenceTransformer` can: MTEB, BERTopic, LangChain, LlamaIndex. Needs
`pip install 'freeret[eval]'`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.standalone import EMPTY, MTEB_TASKS, StandaloneEmbedder
from probes import Backbone, as_items
from probes.arguments import check_count
from probes.errors import BadSetting, Mismatch
from probes.files import read_json, write_json
from probes.model.loading import Loading
from probes.prompts import Side, as_prompt, has_task

try:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    raise BadSetting(
        f"sentence-transformers 5 or newer is needed ({error}): pip install 'freeret[eval]'"
    ) from None


def sentence_transformer(
    backbone: Backbone | str | Path,
    recipe: Recipe | None = None,
    *,
    task: str | None = None,
) -> SentenceTransformer:
    """Make a `SentenceTransformer` whose vectors are those of stage 1.

    Inputs are whatever `Embedder.encode` reads: texts, PIL images, `{"text": …, "image": …}`. A str
    is always text, never a path. `encode_query` and `encode_document` put an item to the model as
    its side of the retrieval task; `encode` embeds documents. A geometry is fitted on the bundled
    reference items, since no corpus is known: a vector does not depend on the other items.

    Where the recipe's prompt states a task, `prompt=` or `prompt_name=` of the encode methods
    replaces that task, by a key of `probes.prompts.TASKS` or in words.

    Args:
        backbone: A backbone, or the name of one to load.
        recipe: Prompt, site and geometry; None: those that the backbone's own report supports.
        task: The task prior; None: the recipe's.

    Returns:
        A model of one module; its vectors have length 1.

    Raises:
        BadSetting: sentence-transformers is missing, or the recipe's prompt states no task and one
            is given.
    """
    backbone = backbone if isinstance(backbone, Backbone) else Backbone.load(backbone)
    recipe = recipe_for(backbone, recipe)
    if task is not None:
        recipe = replace(recipe, task=task)
    prompts = dict(MTEB_TASKS) if task is None and has_task(as_prompt(recipe.prompt)) else {}
    model = SentenceTransformer(
        modules=[Stage1(backbone, recipe)],
        device=str(backbone.device),
        prompts={"query": "", "document": "", **prompts},
        similarity_fn_name="cosine",
    )
    model.model_card_data.model_name = f"freeret/{Path(backbone.name).name}"
    return model


class Stage1(InputModule):
    """The module that embeds: items go in, unit vectors come out."""

    config_file_name = "freeret.json"

    def __init__(self, backbone: Backbone, recipe: Recipe):
        super().__init__()
        self.backbone = backbone
        self.recipe = recipe
        self.model = backbone.model  # so that its device and size are the model's
        self.tokenizer, self.processor = backbone.tokenizer, backbone.processor
        self.embedder = StandaloneEmbedder(backbone, recipe)

    @property
    def modalities(self) -> list[Any]:
        """The kinds of content that are read; `message` stands for any mix of them."""
        return ["text", "message", *self.backbone.modalities[1:]]

    @property
    def max_seq_length(self) -> int:
        """Tokens of an input with its prompt; longer texts are cut."""
        return self.backbone.encoder.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_count("max_seq_length", value)
        self.backbone.encoder.max_tokens = value
        self.embedder.forget_geometries()

    def get_embedding_dimension(self) -> int:
        return self.backbone.hidden_size

    def preprocess(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, inputs: Sequence[Any], prompt: str | None = None, task: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Inputs as items, with the side and the task that they are embedded for.

        Args:
            inputs: Anything that `as_items` reads.
            prompt: The task prior; "" and None leave that of the recipe.
            task: `query` or `document`, as sentence-transformers names the side.
        """
        texts = [EMPTY if isinstance(x, str) and not x.strip() else x for x in inputs]
        side: Side = "query" if task == "query" else "document"
        return {"items": as_items(texts), "side": side, "task": prompt or None}

    @torch.inference_mode(False)
    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add `sentence_embedding`, `[items, hidden]`."""
        vectors = self.embedder.encode(features["items"], features["side"], features["task"])
        return {**features, "sentence_embedding": vectors.to(self.backbone.device)}

    def __repr__(self) -> str:
        r = self.recipe
        return f"Stage1({self.backbone.name}: {r.prompt} at {r.site}, geometry {r.geometry})"

    def get_config_dict(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone.name,
            "loading": self.backbone.loading.given(),
            "weights": self.backbone.fingerprint()["weights"],
            "recipe": self.recipe.to_json(),
        }

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the recipe and the backbone's name; weights stay where they are."""
        write_json(Path(output_path) / self.config_file_name, self.get_config_dict())

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> "Stage1":
        """Read what `save` wrote. Raises Mismatch when the backbone's name now stands for
        other weights."""
        path = Path(model_name_or_path) / subfolder / cls.config_file_name
        saved = read_json(path)
        backbone = Backbone.load(saved["backbone"], Loading(**saved["loading"]))
        if backbone.fingerprint()["weights"] != saved["weights"]:
            raise Mismatch(f"{path}: {backbone.name} has other weights than those saved with")
        return cls(backbone, Recipe.from_json(saved["recipe"], str(path)))
