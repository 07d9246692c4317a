"""What smolsight is made of: LLaVA's model and processor, LeViT's tower, SigLIP's image processor.

All are the stock classes of transformers, so a composed folder loads with `from_pretrained` and no
code from here. A picture is 64×64 pixels, 16 patches, 16 tokens.
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
"""A special token of SmolLM2 that text never holds: its row is named `<image>`, none is added."""
PARTS = ("model.vision_tower.", "model.multi_modal_projector.")

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's turns without its default system turn, which a picture would have to pay for."""


def vision_config() -> LevitConfig:
    """The tower: four convolutions to 4×4 places, then two attention blocks among them."""
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
    config.down_ops = []  # one stage: the places are never thinned out
    config.hidden_size = WIDTH  # where LLaVA looks for the width of what it projects
    return config


def build(
    language_folder: Path, weights: Path | None = WEIGHTS
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """The language model of `language_folder` with the tower and projector of `weights`, in fp32.

    The language model's weights are taken over unchanged. With `weights` None the tower and the
    projector are random. Raises FetchError when the weights are not the ones the card describes.
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
    """SmolLM2's tokenizer with a name for pictures, SigLIP's image processor, LLaVA's processor."""
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
    """Write the whole of smolsight to `folder`, for `from_pretrained`."""
    model, processor = build(language_folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def pixels(pictures: list[Image.Image]) -> Tensor:
    """[N, 3, 64, 64] in [-1, 1], as the image processor makes them from pictures of that size."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


def trained(model: LlavaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The tower's and the projector's weights by name."""
    return {name: t for name, t in model.state_dict().items() if name.startswith(PARTS)}


def load_trained(model: LlavaForConditionalGeneration, weights: dict[str, torch.Tensor]) -> None:
    """Put `trained` weights into a model; every one must be there."""
    missing = model.load_state_dict(weights, strict=False).missing_keys
    absent = [name for name in missing if name.startswith(PARTS)]
    if absent:
        raise FetchError(f"smolsight weights lack {', '.join(absent)}")


def _tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    plain = AutoTokenizer.from_pretrained(folder)
    renamed = (RESERVED_TOKEN, IMAGE_TOKEN)
    spelling = plain.backend_tokenizer.to_str().replace(*renamed)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(spelling),
        bos_token=plain.bos_token,
        eos_token=plain.eos_token,
        pad_token=plain.pad_token,
        unk_token=plain.unk_token,
        extra_special_tokens=[t.replace(*renamed) for t in plain.all_special_tokens],
        model_max_length=plain.model_max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _check(weights: Path) -> None:
    if hashlib.sha256(weights.read_bytes()).hexdigest() != WEIGHTS_SHA256:
        raise FetchError(f"{weights} is not the file its card describes; restore it")
