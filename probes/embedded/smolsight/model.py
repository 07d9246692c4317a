"""The architecture of smolsight: LLaVA's model and processor, LeViT's tower, SigLIP's image
processor.

All are stock classes of transformers, so a composed folder loads with `from_pretrained` and needs
no code from here. A picture is 64×64 pixels, 16 patches, 16 tokens.
"""

import hashlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LevitConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from probes.embedded.smolsight import WEIGHTS, WEIGHTS_SHA256
from probes.errors import FetchError

IMAGE_SIZE, PATCH_SIZE = 64, 16
WIDTH = 192
TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
IMAGE_TOKEN = "<image>"
RESERVED_TOKEN = "<empty_output>"
"""A special token of SmolLM2 that never occurs in text: renamed `<image>`, so none is added."""
PARTS = ("model.vision_tower.", "model.multi_modal_projector.")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's turns without its default system turn, which would only lengthen every prompt."""


def vision_config() -> LevitConfig:
    """The tower: four convolutions to a 4×4 grid, then two attention blocks over it."""
    config = LevitConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_sizes=[WIDTH, WIDTH],
        depths=[2],
        num_attention_heads=[WIDTH // 32],
        key_dim=[32],
        attention_ratio=[2],
        mlp_ratio=[2],
    )
    config.down_ops = []  # one stage: the grid is never downsampled
    config.hidden_size = WIDTH  # where LLaVA looks for the width of the features
    return config


def build(
    language_folder: Path, weights: Path | None = WEIGHTS
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """Compose the language model of `language_folder` with a tower and projector, in fp32.

    Args:
        language_folder: The language model, whose weights are copied unchanged.
        weights: The tower and projector; None for random ones.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        FetchError: The weights are not the ones that the model card describes.
    """
    language = AutoModelForCausalLM.from_pretrained(language_folder, dtype=torch.float32)
    processor = build_processor(language_folder)
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=language.config,
        image_token_index=processor.image_token_id,
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.tie_weights()
    model.generation_config = language.generation_config
    if weights is not None:
        _check(weights)
        load_trained(model, load_file(weights))
    return model.eval(), processor


def build_processor(language_folder: Path) -> LlavaProcessor:
    """LLaVA's processor with SigLIP's image processor and SmolLM2's tokenizer with `<image>`."""
    return LlavaProcessor(
        image_processor=SiglipImageProcessor(
            size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
        ),
        tokenizer=_tokenizer(language_folder),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=CHAT_TEMPLATE,
    )


def compose(language_folder: Path, folder: Path) -> None:
    """Write all of smolsight to `folder`, for `from_pretrained`."""
    model, processor = build(language_folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def pixels(pictures: list[Image.Image]) -> Tensor:
    """Pixel values [N, 3, 64, 64] in [-1, 1], equal to those of the image processor."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(model: LlavaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The weights of the tower and the projector, by name."""
    return {name: t for name, t in model.state_dict().items() if name.startswith(PARTS)}


def load_trained(model: LlavaForConditionalGeneration, weights: dict[str, torch.Tensor]) -> None:
    """Load `trained` weights into a model. Raises FetchError if any is missing."""
    missing = model.load_state_dict(weights, strict=False).missing_keys
    absent = [name for name in missing if name.startswith(PARTS)]
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
