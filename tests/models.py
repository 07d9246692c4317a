"""Tiny models of the real transformers classes, with random weights and a small tokenizer.

`TEXT`, `MULTIMODAL` and `REFUSED` map a name to a builder. A builder makes its model once and hands
the same object to every test, so tests must leave it as it is; `TEXT[name].__wrapped__()` builds a
fresh one. Every model has float32 weights, is in eval mode and is the same in every run.

Weights are drawn so that nothing hides a mistake: each branch of each layer is about as large as
the residual stream, no norm is the identity, no bias is zero, and the vocabulary is larger than the
tokenizer's, as in many released models.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from tests.tiny_tokenizer import chatml, template, tokenizer

VOCAB = 400


# ----------------------------------------------------------------------------------- weights


def build(architecture: Callable[[Any], Any], config: Any) -> Any:
    """`architecture(config)` with weights that depend on the config alone.

    A matrix is drawn with standard deviation 1/√fan-in, so that it keeps the scale of its input;
    vectors (norm weights, biases) are moved by 0.2 from where the class starts them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
        with torch.no_grad():
            for module in model.modules():
                convolves = isinstance(module, torch.nn.modules.conv._ConvNd)
                for weight in module.parameters(recurse=False):
                    if weight.ndim < 2:
                        weight.add_(torch.randn_like(weight), alpha=0.2)
                    else:
                        fan_in = weight[0].numel() if convolves else weight.shape[-1]
                        weight.normal_(std=fan_in**-0.5)
    return model.eval()


# -------------------------------------------------------------------------------- text models

DECODER: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
# A window shorter than a prompt, so that the local layers of Gemma really are local.
GEMMA: dict[str, Any] = {
    "head_dim": 16,
    "query_pre_attn_scalar": 16,
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
GRANITE: dict[str, Any] = {
    "residual_multiplier": 0.22,
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.25,
    "logits_scaling": 2.0,
}
# Mixtral's name for it; Qwen3-MoE, which calls it num_experts, takes this one too.
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}


def causal(model_type: str, **settings: Any) -> Any:
    """The causal language model that transformers keeps under `model_type`."""
    config = hf.AutoConfig.for_model(model_type, **DECODER | settings)
    return build(hf.AutoModelForCausalLM.from_config, config)


def t5() -> Any:
    config = hf.T5Config(vocab_size=VOCAB, d_model=64, d_kv=16, d_ff=96, num_layers=4, num_heads=4)
    return build(hf.T5ForConditionalGeneration, config)


def shared(builder: Callable[..., Any], *args: Any, **settings: Any) -> Callable[[], Any]:
    """A builder without arguments that makes its model once."""
    return functools.cache(functools.partial(builder, *args, **settings))


TEXT: dict[str, Callable[[], Any]] = {
    "llama": shared(causal, "llama"),
    "qwen2": shared(causal, "qwen2"),
    "qwen3": shared(causal, "qwen3", head_dim=16),
    "qwen3-moe": shared(causal, "qwen3_moe", head_dim=16, moe_intermediate_size=48, **EXPERTS),
    "mistral": shared(causal, "mistral"),
    "mixtral": shared(causal, "mixtral", **EXPERTS),
    "phi3": shared(causal, "phi3"),
    "granite": shared(causal, "granite", **GRANITE),
    "gemma2": shared(causal, "gemma2", **GEMMA),
    "gemma3-text": shared(causal, "gemma3_text", **GEMMA),
    "olmo2": shared(causal, "olmo2"),
    "gpt2": shared(causal, "gpt2"),
    "opt": shared(causal, "opt", ffn_dim=96, word_embed_proj_dim=64),
}

REFUSED: dict[str, Callable[[], Any]] = {
    "gpt-neox-parallel": shared(causal, "gpt_neox", use_parallel_residual=True),
    "phi": shared(causal, "phi"),
    "cohere": shared(causal, "cohere"),
    "falcon-parallel": shared(causal, "falcon", parallel_attn=True, new_decoder_architecture=False),
    "gpt-j": shared(causal, "gptj", rotary_dim=8),
    "t5": shared(t5),
}


# -------------------------------------------------------------------------- multimodal models
#
# A picture of 32 x 32 pixels is 4 x 4 patches; families that merge patches make 2 x 2 tokens of it.

SQUARE = {"height": 32, "width": 32}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
SIGLIP: dict[str, Any] = TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False}
LLAMA: dict[str, Any] = DECODER | {"model_type": "llama"}
QWEN2: dict[str, Any] = DECODER | {"model_type": "qwen2"}

QWEN_BLOCKS: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8}
QWEN2_TOWER: dict[str, Any] = QWEN_BLOCKS | {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}
LATER_BLOCKS: dict[str, Any] = QWEN_BLOCKS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "out_hidden_size": 64,
}
QWEN25_TOWER: dict[str, Any] = LATER_BLOCKS | {"window_size": 32, "fullatt_block_indexes": [1]}
QWEN3_TOWER: dict[str, Any] = LATER_BLOCKS | {
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}
MIXED_MROPE = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True}
QWEN_TEXT: dict[str, Any] = DECODER | {"rope_parameters": MROPE}
QWEN3_TEXT: dict[str, Any] = DECODER | {"rope_parameters": MIXED_MROPE, "head_dim": 16}
QWEN_PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
QWEN_TOKENS: dict[str, Any] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}


def qwen_images() -> Any:
    return hf.Qwen2VLImageProcessor(patch_size=8, size=QWEN_PIXELS)


def qwen_videos(processor: str = "Qwen2VLVideoProcessor") -> Any:
    return getattr(hf, processor)(patch_size=8, size=QWEN_PIXELS, cap_pixels_per_frame=False)


def qwen_vl(
    family: str, text: dict[str, Any], tower: dict[str, Any], **videos: str
) -> tuple[Any, Any]:
    """Qwen2-VL, Qwen2.5-VL or Qwen3-VL, whose classes begin with `family`."""
    tok = tokenizer(**QWEN_TOKENS)
    ids = {f"{name}_id": tok.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}
    config = getattr(hf, f"{family}Config")(text_config=text, vision_config=tower, **ids)
    model = build(getattr(hf, f"{family}ForConditionalGeneration"), config)
    return model, getattr(hf, f"{family}Processor")(
        image_processor=qwen_images(),
        tokenizer=tok,
        video_processor=qwen_videos(**videos),
        chat_template=chatml(
            image="<|vision_start|><|image_pad|><|vision_end|>",
            video="<|vision_start|><|video_pad|><|vision_end|>",
        ),
    )


def qwen25_omni() -> tuple[Any, Any]:
    """The Thinker of Qwen2.5-Omni, the part that reads."""
    tok = tokenizer(
        image_token="<|IMAGE|>",
        video_token="<|VIDEO|>",
        audio_token="<|AUDIO|>",
        vision_bos_token="<|vision_bos|>",
        vision_eos_token="<|vision_eos|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    )
    # The class does not declare this, yet its positions are counted from it.
    vision: dict[str, Any] = {"vision_start_token_id": tok.vision_bos_token_id}
    config = hf.Qwen2_5OmniThinkerConfig(
        text_config=QWEN_TEXT,
        vision_config=QWEN25_TOWER,
        audio_config={
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "output_dim": 64,
            "n_window": 25,
        },
        image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id,
        audio_token_index=tok.audio_token_id,
        audio_start_token_id=tok.audio_bos_token_id,
        audio_end_token_id=tok.audio_eos_token_id,
        user_token_id=tok.convert_tokens_to_ids("user"),
        **vision,
    )
    processor = hf.Qwen2_5OmniProcessor(
        image_processor=qwen_images(),
        video_processor=qwen_videos(),
        feature_extractor=hf.WhisperFeatureExtractor(feature_size=16, chunk_length=4),
        tokenizer=tok,
        chat_template=chatml(
            image="<|vision_bos|><|IMAGE|><|vision_eos|>",
            video="<|vision_bos|><|VIDEO|><|vision_eos|>",
            audio="<|audio_bos|><|AUDIO|><|audio_eos|>",
        ),
    )
    # The class holds a frame size of its own, which wins over the video processor's.
    processor.videos_kwargs = {"size": QWEN_PIXELS}
    return build(hf.Qwen2_5OmniThinkerForConditionalGeneration, config), processor


def internvl() -> tuple[Any, Any]:
    tok = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    config = hf.InternVLConfig(
        text_config=QWEN2,
        vision_config=TOWER | {"patch_size": [8, 8], "layer_scale_init_value": 1.0},
        image_token_id=tok.context_image_token_id,
        image_seq_length=4,
    )
    return build(hf.InternVLForConditionalGeneration, config), hf.InternVLProcessor(
        image_processor=hf.GotOcr2ImageProcessor(size=SQUARE, max_patches=4),
        tokenizer=tok,
        video_processor=hf.InternVLVideoProcessor(size=SQUARE),
        image_seq_length=4,
        chat_template=chatml(image="<IMG_CONTEXT>\n", video="<video>\n"),
    )


def llava() -> tuple[Any, Any]:
    tok = tokenizer(bos="<s>", image_token="<image>")
    config = hf.LlavaConfig(
        text_config=LLAMA,
        vision_config=TOWER | {"model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=tok.image_token_id,
        image_seq_length=16,
    )
    turn = (
        "{%- if message['role'] != 'system' %}{{- message['role'] | upper + ': ' }}{%- endif %}"
        "CONTENT{{- '\n' if message['role'] == 'user' else ' ' }}"
    )
    return build(hf.LlavaForConditionalGeneration, config), hf.LlavaProcessor(
        image_processor=hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE),
        tokenizer=tok,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template(turn, cue="ASSISTANT:", image="<image>\n"),
    )


def llava_onevision() -> tuple[Any, Any]:
    tok = tokenizer(image_token="<image>", video_token="<video>")
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    config = hf.LlavaOnevisionConfig(
        text_config=QWEN2,
        vision_config=SIGLIP,
        image_token_index=tok.image_token_id,
        video_token_index=tok.video_token_id,
        image_grid_pinpoints=grid,
    )
    processor = hf.LlavaOnevisionProcessor(
        image_processor=hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grid),
        tokenizer=tok,
        video_processor=hf.LlavaOnevisionVideoProcessor(size=SQUARE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chatml(image="<image>\n", video="<video>\n"),
    )
    return build(hf.LlavaOnevisionForConditionalGeneration, config), processor


IDEFICS_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    "<video>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
IDEFICS_TILES: dict[str, Any] = {
    "size": {"longest_edge": 64},
    "max_image_size": {"longest_edge": 32},
}


def idefics(family: str, **videos: Any) -> tuple[Any, Any]:
    """Idefics3 or SmolVLM, whose classes begin with `family`."""
    tok = tokenizer(special=IDEFICS_TOKENS)
    image_token_id = tok.convert_tokens_to_ids("<image>")
    config = getattr(hf, f"{family}Config")(
        text_config=LLAMA, vision_config=TOWER, image_token_id=image_token_id
    )
    model = build(getattr(hf, f"{family}ForConditionalGeneration"), config)
    turn = "{{- message['role'] | capitalize + ': ' }}CONTENT{{- '<end_of_utterance>\n' }}"
    media = {"image": "<image>"} | ({"video": "<video>"} if videos else {})
    return model, getattr(hf, f"{family}Processor")(
        image_processor=getattr(hf, f"{family}ImageProcessor")(**IDEFICS_TILES),
        tokenizer=tok,
        image_seq_len=4,
        chat_template=template(turn, cue="Assistant:", start="<|im_start|>", **media),
        **videos,
    )


def smolvlm() -> tuple[Any, Any]:
    videos = hf.SmolVLMVideoProcessor(**IDEFICS_TILES, num_frames=8, fps=1)
    return idefics("SmolVLM", video_processor=videos)


def gemma3_vl() -> tuple[Any, Any]:
    tok = tokenizer(
        bos="<bos>",
        special=("<start_of_turn>", "<end_of_turn>"),
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        image_token="<image_soft_token>",
    )
    config = hf.Gemma3Config(
        text_config=DECODER | GEMMA,
        vision_config=SIGLIP | {"patch_size": 4},
        mm_tokens_per_image=16,
        boi_token_index=tok.boi_token_id,
        eoi_token_index=tok.eoi_token_id,
        image_token_index=tok.image_token_id,
    )
    # Gemma has no system turn: what it says opens the user's.
    turn = (
        "{%- if message['role'] == 'system' %}"
        "{{- '<start_of_turn>user\n' }}CONTENT{{- '\n\n' }}"
        "{%- else %}"
        "{%- if loop.previtem is not defined or loop.previtem['role'] != 'system' %}"
        "{{- '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\n' }}"
        "{%- endif %}CONTENT{{- '<end_of_turn>\n' }}"
        "{%- endif %}"
    )
    return build(hf.Gemma3ForConditionalGeneration, config), hf.Gemma3Processor(
        image_processor=hf.Gemma3ImageProcessor(size=SQUARE),
        tokenizer=tok,
        image_seq_length=16,
        chat_template=template(
            turn, cue="<start_of_turn>model\n", start="<bos>", image="<start_of_image>"
        ),
    )


MULTIMODAL: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2-vl": shared(qwen_vl, "Qwen2VL", QWEN_TEXT, QWEN2_TOWER),
    "qwen2.5-vl": shared(qwen_vl, "Qwen2_5_VL", QWEN_TEXT, QWEN25_TOWER),
    "qwen3-vl": shared(
        qwen_vl, "Qwen3VL", QWEN3_TEXT, QWEN3_TOWER, processor="Qwen3VLVideoProcessor"
    ),
    "qwen2.5-omni": shared(qwen25_omni),
    "internvl": shared(internvl),
    "llava": shared(llava),
    "llava-onevision": shared(llava_onevision),
    "idefics3": shared(idefics, "Idefics3"),
    "smolvlm": shared(smolvlm),
    "gemma3-vl": shared(gemma3_vl),
}
