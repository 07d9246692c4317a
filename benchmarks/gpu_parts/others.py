"""What FreeRet is compared with: the loop that a user of transformers would write, and
sentence-transformers, both on the very weights of the backbone."""

import io
import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor

from gpu_parts.models import Made
from probes.prompts import Prompted

FORWARD = {"method": "forward", "method_output_name": "last_hidden_state"}
AS_GIVEN: Any = {"text": FORWARD, ("image", "text"): FORWARD}
"""The prompts already hold the chat template; without this it would be put around them again."""

Prepared = tuple[str, list[bytes]]
"""A rendered prompt, with one placeholder for each of its encoded pictures."""


def rendered(made: Made, prompted: Prompted) -> Prepared:
    """An exchange as the chat template writes it, and the files of its pictures."""
    content, pictures = list[dict[str, str]](), list[bytes]()
    for piece in prompted.user:
        if isinstance(piece, str):
            content.append({"type": "text", "text": piece})
        elif piece.kind == "text":
            content.append({"type": "text", "text": piece.value})
        else:
            content.append({"type": piece.kind})
            pictures.append(piece.value)
    messages = [{"role": "user", "content": content}]
    text = made.processor.apply_chat_template(messages, add_generation_prompt=True)
    return text + prompted.prefill, pictures


def inputs(made: Made, prepared: Sequence[Prepared]) -> Any:
    """A left-padded batch on the device, as the processor makes it."""
    images = [[Image.open(io.BytesIO(data)) for data in some] for _, some in prepared]
    batch = made.processor(
        text=[text for text, _ in prepared],
        images=images if any(images) else None,
        padding=True,
        return_tensors="pt",
    )
    return batch.to(made.plain.device)


@torch.no_grad()
def plain_vectors(made: Made, prepared: Sequence[Prepared], size: int) -> Tensor:
    """The last position's last hidden state of whole prompts, in the order given."""
    vectors = []
    for start in range(0, len(prepared), size):
        batch = inputs(made, prepared[start : start + size])
        states = made.plain(**batch, output_hidden_states=True).hidden_states[-1]
        vectors.append(states[:, -1].float().cpu())
    return torch.cat(vectors)


@torch.no_grad()
def plain_margins(
    made: Made,
    prepared: Sequence[Prepared],
    size: int,
    positive: Sequence[int],
    negative: Sequence[int],
) -> Tensor:
    """log p(positive) - log p(negative) at the last position of whole prompts."""
    margins = []
    for start in range(0, len(prepared), size):
        batch = inputs(made, prepared[start : start + size])
        logits = made.plain(**batch, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        ours, theirs = (logits[:, list(ids)].logsumexp(-1) for ids in (positive, negative))
        margins.append((ours - theirs).cpu())
    return torch.cat(margins)


def sentence_transformer(made: Made) -> SentenceTransformer:
    """sentence-transformers around the loaded model, with its pooling of the last token."""

    class Loaded(Transformer):
        def _load_model(self, *_: Any, **__: Any) -> Any:
            return made.plain.model

    with tempfile.TemporaryDirectory() as folder:
        made.processor.save_pretrained(folder)
        made.plain.config.save_pretrained(folder)
        reader = Loaded(folder, modality_config=AS_GIVEN, module_output_name="token_embeddings")
    pooling = Pooling(made.backbone.hidden_size, "lasttoken")
    return SentenceTransformer(modules=[reader, pooling], device=str(made.backbone.device))


def encoded(model: SentenceTransformer, prepared: Sequence[Prepared], size: int) -> Tensor:
    """Vectors by sentence-transformers, which sorts by length itself; pictures are decoded here."""
    given: list[Any] = [
        {"text": text, "image": [Image.open(io.BytesIO(pictures[0]))]} if pictures else text
        for text, pictures in prepared
    ]
    return model.encode(
        given, batch_size=size, convert_to_tensor=True, show_progress_bar=False
    ).cpu()
