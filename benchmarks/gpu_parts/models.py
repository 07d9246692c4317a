"""Two vision-language models at their published sizes, with random weights made on the device.

Speed and memory depend on the shapes of a model and not on the values of its weights, so that a
benchmark needs none from anywhere. The processor is the real class with the published settings; its
tokenizer is trained on the sentences that come with `probes`, so that English costs about as many
tokens as in the released one.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from probes import FRAMES, Backbone, ControlPrompt
from probes.data import matches, paraphrases

WORDS = 8_000
"""The most tokens of the tokenizer; the embedding matrix has the published size all the same."""
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
SMOL_TOKENS = (
    *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", "<video>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)


@dataclass(frozen=True)
class Sizes:
    """What a family's config takes, and the settings of its processor."""

    text: Mapping[str, Any]
    tower: Mapping[str, Any]
    pictures: Mapping[str, Any]
    merged: int
    """Patches along each side of a picture that become one token."""


QWEN_7B = Sizes(
    # Qwen/Qwen2.5-VL-7B-Instruct, config.json and preprocessor_config.json
    text={
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128_000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    },
    tower={
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
        "tokens_per_second": 2,
    },
    pictures={"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}},
    merged=2,
)
SMOL_256M = Sizes(
    # HuggingFaceTB/SmolVLM-256M-Instruct: launches of kernels cost more than their arithmetic
    text={
        "model_type": "llama",
        "vocab_size": 49_280,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    },
    tower={
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 512,
        "patch_size": 16,
    },
    pictures={"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}},
    merged=4,
)
TINY_TEXT: dict[str, Any] = {
    "vocab_size": WORDS + 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
TINY_QWEN = Sizes(
    text={
        **QWEN_7B.text,
        **TINY_TEXT,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3]},
    },
    tower={
        **QWEN_7B.tower,
        **{"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2},
        **{"out_hidden_size": 64, "fullatt_block_indexes": [1]},
    },
    pictures={"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16}},
    merged=2,
)
TINY_SMOL = Sizes(
    text={**SMOL_256M.text, **TINY_TEXT},
    tower={
        **SMOL_256M.tower,
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "image_size": 64},
    },
    pictures={"size": {"longest_edge": 128}, "max_image_size": {"longest_edge": 64}},
    merged=4,
)


@dataclass(frozen=True)
class Made:
    """A model with its processor, as a backbone and as plain transformers on the same weights."""

    backbone: Backbone
    plain: Any
    """The same weights in modules of their own, which nothing has wrapped."""
    processor: Any
    parameters: int
    text_weights: int
    """In matrices of the decoder's layers: 2 FLOPs each for a token."""
    last_mlp: int
    """Those of the last MLP, which a state at `attn[-1]` does not need."""
    head: int
    """Those of the LM head."""
    block_weights: int
    """In matrices of the tower's blocks: 2 FLOPs each for a patch."""
    merger_weights: int
    """In matrices behind the blocks: 2 FLOPs each for a token of a picture."""
    patches_per_token: int
    image_token: int


def qwen(device: str, dtype: torch.dtype, sizes: Sizes) -> Made:
    """Qwen2.5-VL."""
    tok = tokenizer("<|vision_start|><|image_pad|><|vision_end|>", (), **QWEN_TOKENS)
    ids = {f"{name}_id": tok.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}
    config = hf.Qwen2_5_VLConfig(
        text_config=dict(sizes.text), vision_config=dict(sizes.tower), **ids
    )
    processor = hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(**sizes.pictures),
        tokenizer=tok,
        video_processor=hf.Qwen2VLVideoProcessor(),
        chat_template=tok.chat_template,
    )
    model = weights(hf.Qwen2_5_VLForConditionalGeneration, config, device, dtype)
    tower = model.model.visual
    blocks = [tower.patch_embed, tower.blocks]
    return made(model, processor, blocks, [tower.merger], sizes, tok.image_token_id)


def smolvlm(device: str, dtype: torch.dtype, sizes: Sizes) -> Made:
    """SmolVLM."""
    tok = tokenizer("<image>", SMOL_TOKENS)
    image_token = tok.convert_tokens_to_ids("<image>")
    config = hf.SmolVLMConfig(
        text_config=dict(sizes.text),
        vision_config=dict(sizes.tower),
        scale_factor=sizes.merged,
        image_token_id=image_token,
    )
    side = sizes.tower["image_size"] // sizes.tower["patch_size"] // sizes.merged
    processor = hf.SmolVLMProcessor(
        image_processor=hf.SmolVLMImageProcessor(**sizes.pictures),
        tokenizer=tok,
        video_processor=hf.SmolVLMVideoProcessor(num_frames=8, fps=1, **sizes.pictures),
        image_seq_len=side * side,
        chat_template=tok.chat_template,
    )
    model = weights(hf.SmolVLMForConditionalGeneration, config, device, dtype)
    tower, connector = model.model.vision_model, model.model.connector
    return made(model, processor, [tower], [connector], sizes, image_token)


def made(
    model: Any, processor: Any, blocks: list[Any], merger: list[Any], sizes: Sizes, token: int
) -> Made:
    layers = model.get_decoder().layers
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return Made(
        backbone=Backbone.load(copy.deepcopy(model, shared), processor=processor, name="random"),
        plain=model.eval().requires_grad_(False),
        processor=processor,
        parameters=sum(weight.numel() for weight in model.parameters()),
        text_weights=_matrices(*layers),
        last_mlp=_matrices(layers[-1].mlp),
        head=model.get_output_embeddings().weight.numel(),
        block_weights=_matrices(*blocks),
        merger_weights=_matrices(*merger),
        patches_per_token=sizes.merged**2,
        image_token=token,
    )


def _matrices(*modules: Any) -> int:
    weights = [w for module in modules for w in module.parameters() if w.ndim >= 2]
    return sum(weight.numel() for weight in weights)


def weights(architecture: Any, config: Any, device: str, dtype: torch.dtype) -> Any:
    """A model with the initial weights of its class, made on the device and in its dtype."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return architecture(config)
    finally:
        torch.set_default_dtype(default)


def tokenizer(picture: str, special: tuple[str, ...], **named: str) -> Any:
    """Byte-level BPE trained on the bundled sentences and the wording of the prompts; `picture` is
    what the chat template (ChatML) writes for one."""
    sentences = [row[key] for row in paraphrases() for key in ("sentence", "paraphrase")]
    sentences += [row[key] for row in matches() for key in ("query", "candidate")]
    prompts = [ControlPrompt().instructions("document"), *(f.options for f in FRAMES.values())]
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = BpeTrainer(
        vocab_size=WORDS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=control,
        show_progress=False,
    )
    backend.train_from_iterator([*sentences, *prompts * 9], trainer)
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", *special],
        model_specific_special_tokens=named,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=(
            "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
            "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
            f"{{{{ p['text'] if p['type'] == 'text' else {picture!r} }}}}"
            "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        ),
    )
