"""The architecture of smolsight: LLaVA's model and processor, a tower of this project (`tower.py`),
SigLIP's image processor.

The tower writes into the language model's input space, so LLaVA's projector is the identity. A
picture is 224×224 pixels and 16 tokens.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from probes.embedded.smolsight import CONCEPTS, WEIGHTS, WEIGHTS_SHA256
from probes.embedded.smolsight.tower import IMAGE_SIZE, TOKENS, SightConfig, SightTower
from probes.embedded.smolsight.trunk import published_weights
from probes.errors import FetchError

IMAGE_TOKEN = "<image>"
RESERVED_TOKEN = "<empty_output>"
"""A special token of SmolLM2 that never occurs in text: renamed `<image>`, so none is added."""
TOWER = "model.vision_tower."
TRAINED = ("scenes.", "is_scene.", "concepts.others.")
"""The parts of the tower that are trained here; the rest is the trunk and the words."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's turns without its default system turn, which would only lengthen every prompt."""


def build(
    language_folder: Path, trunk: Path | None, weights: Path | None = WEIGHTS
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The language model in a folder with the tower, in fp32 and eval mode, and its processor.

    Args:
        language_folder: The language model, whose weights are copied unchanged.
        trunk: The published weights of EfficientNet-Lite0; None for random ones.
        weights: The parts of the tower that are trained here; None for random ones.

    Raises:
        FetchError: The weights are not the ones that the model card describes.
    """
    language = AutoModelForCausalLM.from_pretrained(language_folder, dtype=torch.float32)
    processor = build_processor(language_folder)
    names: list[str] = json.loads(CONCEPTS.read_text())
    pieces, spelling = spell(names, processor.tokenizer)
    config = LlavaConfig(
        vision_config=SightConfig(
            len(names), len(pieces), spelling.shape[1], language.config.hidden_size
        ),
        text_config=language.config,
        image_token_index=processor.image_token_id,
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        projector_hidden_act="linear",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    projector: Any = model.model.multi_modal_projector
    for layer in (projector.linear_1, projector.linear_2):
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    tower = tower_of(model)
    tower.concepts.spelling.copy_(spelling)
    embeddings: Any = language.get_input_embeddings()
    tower.concepts.words.weight.data.copy_(embeddings.weight[pieces])
    if trunk is not None:
        tower.concepts.trunk.load_state_dict(published_weights(trunk))
    if weights is not None:
        _check(weights)
        load_trained(model, load_file(weights))
    return model.eval(), processor


def tower_of(model: LlavaForConditionalGeneration) -> SightTower:
    """The vision tower of a model made by `build`."""
    tower: Any = model.model.vision_tower
    return tower


def spell(names: list[str], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """The pieces of words that occur in names, as token ids [words], and the names spelled by
    their places in that list, [names, length], with -1 behind the end."""
    tokens = [
        torch.tensor(tokenizer(f" {name}", add_special_tokens=False).input_ids) for name in names
    ]
    pieces, places = torch.cat(tokens).unique(return_inverse=True)
    spelled = places.split([len(of_name) for of_name in tokens])
    return pieces, pad_sequence(spelled, batch_first=True, padding_value=-1)


def build_processor(language_folder: Path) -> LlavaProcessor:
    """LLaVA's processor with SigLIP's image processor and SmolLM2's tokenizer with `<image>`."""
    return LlavaProcessor(
        image_processor=SiglipImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=_tokenizer(language_folder),
        patch_size=IMAGE_SIZE // 4,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def compose(language_folder: Path, trunk: Path, folder: Path) -> None:
    """Write all of smolsight to `folder`, for `from_pretrained`."""
    model, processor = build(language_folder, trunk)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def pixels(pictures: list[Image.Image]) -> Tensor:
    """Pixel values [N, 3, 224, 224] in [-1, 1] of pictures of that size, equal to those of the
    image processor."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(model: LlavaForConditionalGeneration) -> dict[str, Tensor]:
    """The weights that are trained here, by their name in the tower."""
    state = tower_of(model).state_dict()
    return {name: t for name, t in state.items() if name.startswith(TRAINED)}


def load_trained(model: LlavaForConditionalGeneration, weights: dict[str, Tensor]) -> None:
    """Load `trained` weights into a model. Raises FetchError if any is missing."""
    missing = tower_of(model).load_state_dict(weights, strict=False).missing_keys
    absent = [name for name in missing if name.startswith(TRAINED)]
    if absent:
        raise FetchError(f"smolsight weights lack {', '.join(absent)}")


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    plain = AutoTokenizer.from_pretrained(folder)
    renaming = (RESERVED_TOKEN, IMAGE_TOKEN)
    serialized = plain.backend_tokenizer.to_str().replace(*renaming)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(serialized),
        bos_token=plain.bos_token,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        unk_token=plain.unk_token,
        extra_special_tokens=[t.replace(*renaming) for t in plain.all_special_tokens],
        model_max_length=plain.model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _check(weights: Path) -> None:
    if hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise FetchError(f"{weights} is not the file its card describes; restore it")
