"""More multimodal families of the installed transformers, as tiny random models with their real
processors: `ZOO` maps a name to a builder, as `models.MULTIMODAL` does.

`family` makes a model of the real class small by the names of its config's fields, and its processor
from the real parts; a line of the table says what is special about one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import transformers as hf
from models import DECODER, QWEN_PIXELS, SQUARE, VOCAB, build, chatml, shared, tokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
LATENT = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
TEXT_SIZES: dict[str, Any] = DECODER | {
    "head_dim": 16,
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 48,
    **dict.fromkeys(EXPERTS, 4),
    "num_experts_per_tok": 2,
    "moe_k": 2,
    **dict.fromkeys(LATENT, 16),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
TOWER_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "depth": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
    "vision_use_head": False,
}


def shrunk(config: Any, sizes: Mapping[str, Any], **settings: Any) -> Any:
    """A config of the class of `config`, with the sizes that the class knows, and `settings`."""
    kind = type(config)
    known = {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}
    small = {name: size for name, size in sizes.items() if name in known}
    layers = small.get("num_hidden_layers", 0)
    for name in ("layer_types", "mlp_layer_types"):  # some layers of each kind
        kinds = list(dict.fromkeys(getattr(config, name, None) or ()))
        if kinds and layers:
            small[name] = (kinds * layers)[:layers]
    return kind(**small | settings)


def family(
    kind: str,
    tokens: Mapping[str, str],
    *,
    text: Mapping[str, Any] = {},
    tower: Mapping[str, Any] = {},
    others: Mapping[str, Mapping[str, Any]] = {},
    settings: Mapping[str, Any] = {},
    parts: Mapping[str, Any] = {},
    processor: str | None = None,
    marks: Mapping[str, str] | None = None,
    special: Sequence[str] = (),
    bos: str | None = None,
) -> tuple[Any, Any]:
    """A model of the class that transformers keeps under `kind`, and its processor.

    `tokens` are special tokens by the attribute that the tokenizer has for each; the config's ids of
    the same names follow them. `text`, `tower` and `settings` go to the two sub-configs and to the
    config; `parts` to the processor, where a callable is called first; `marks` says what the chat
    template writes for each kind of content, if it is not the token alone.
    """
    tok = tokenizer(special=tuple(special), bos=bos, **tokens)
    default = CONFIG_MAPPING[kind]()
    subs: dict[str, Any] = {}
    if "text_config" in type(default).sub_configs:
        subs["text_config"] = shrunk(default.text_config, TEXT_SIZES, **text)
    if tower is not None and "vision_config" in type(default).sub_configs:
        eyes = default.vision_config or type(default).sub_configs["vision_config"]()
        subs["vision_config"] = shrunk(eyes, TOWER_SIZES, **tower)
    for name, given in others.items():
        made = getattr(default, name) or type(default).sub_configs[name]()
        subs[name] = shrunk(made, TOWER_SIZES, **given)
    known = {name for base in type(default).__mro__ for name in getattr(base, "__annotations__", {})}
    ids = {
        f"{name}{suffix}": tok.convert_tokens_to_ids(token)
        for name, token in tokens.items()
        for suffix in ("_id", "_index")
        if f"{name}{suffix}" in known
    }
    config = type(default)(**subs | ids | dict(settings))
    model = build(getattr(hf, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[kind]), config)
    written = marks or {"image": tokens["image_token"]}
    made = {name: part() if callable(part) else part for name, part in parts.items()}
    return model, getattr(hf, processor or PROCESSOR_MAPPING_NAMES[kind])(
        tokenizer=tok, chat_template=chatml(**written), **made
    )


# --------------------------------------------------------------------- Qwen's way with pictures

QWEN: dict[str, str] = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_MARKS = {
    kind: f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video")
}


GLM: dict[str, str] = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
GLM_MARKS = {
    kind: f"<|begin_of_{kind}|><|{kind}|><|end_of_{kind}|>" for kind in ("image", "video")
}


def images(name: str = "Qwen2VLImageProcessor", **settings: Any) -> Callable[[], Any]:
    """An image processor, by default for patches of 8 pixels and few of them."""
    given = settings or {"patch_size": 8, "size": QWEN_PIXELS}
    return lambda: getattr(hf, name)(**given)


def qwen_parts(name: str = "Qwen2VL", videos: str = "Qwen3VL", **more: Any) -> dict[str, Any]:
    return {
        "image_processor": images(f"{name}ImageProcessor"),
        "video_processor": images(f"{videos}VideoProcessor"),
        **more,
    }


def mrope(*sections: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 1e4}
        | more
    }


ZOO: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen3-vl-moe": shared(
        family, "qwen3_vl_moe", QWEN, marks=QWEN_MARKS, parts=qwen_parts(),
        text=mrope(4, 2, 2, mrope_interleaved=True),
    ),
    "qwen3.5": shared(
        family, "qwen3_5", QWEN, marks=QWEN_MARKS, parts=qwen_parts(),
        text=mrope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5),
    ),
    "qwen3.5-moe": shared(
        family, "qwen3_5_moe", QWEN, marks=QWEN_MARKS, parts=qwen_parts(),
        text=mrope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5),
    ),
    "lfm3-vl": shared(family, "lfm3_vl", QWEN, marks=QWEN_MARKS, parts=qwen_parts()),
    "cosmos3-edge": shared(
        family, "cosmos3_edge", QWEN, marks=QWEN_MARKS, parts=qwen_parts("Cosmos3Edge", "Cosmos3Edge"),
        text=mrope(4, 2, 2),
    ),
    "cosmos3-omni": shared(
        family, "cosmos3_omni", QWEN, marks=QWEN_MARKS, parts=qwen_parts(), processor="Qwen3VLProcessor",
        text=mrope(4, 2, 2, mrope_interleaved=True),
    ),
    "exaone4.5": shared(
        family, "exaone4_5", QWEN, marks=QWEN_MARKS, parts=qwen_parts(videos="Qwen2VL"),
    ),
    "hyperclovax-v2": shared(
        family, "hyperclovax_vision_v2", QWEN, marks=QWEN_MARKS, parts=qwen_parts(videos="Qwen2VL"),
        text={"residual_multiplier": 0.5, "logits_scaling": 2.0, "embedding_multiplier": 2.0},
    ),
    "video-llama3": shared(
        family, "video_llama_3", QWEN, marks=QWEN_MARKS, parts=qwen_parts("VideoLlama3", "VideoLlama3"),
    ),
    "paddleocr-vl": shared(
        family, "paddleocr_vl", QWEN, marks={"image": QWEN_MARKS["image"]},
        parts={"image_processor": images("PaddleOCRVLImageProcessor")}, text=mrope(2, 3, 3),
    ),
    "glm4v": shared(
        family, "glm4v", GLM, marks=GLM_MARKS, parts=qwen_parts("Glm4v", "Glm4v"),
        text=mrope(2, 3, 3),
    ),
    "glm4.6v": shared(
        family, "glm46v", GLM, marks=GLM_MARKS, parts=qwen_parts("Glm46V", "Glm46V"),
        text=mrope(2, 3, 3),
    ),
    "glm4.5v": shared(
        family, "glm4v_moe", GLM, marks=GLM_MARKS, parts=qwen_parts("Glm4v", "Glm4v"),
        text=mrope(2, 1, 1, partial_rotary_factor=0.5), 
    ),
    "glm-ocr": shared(
        family, "glm_ocr", GLM, marks=GLM_MARKS, parts=qwen_parts("Glm46V", "Glm46V"),
        text=mrope(2, 3, 3), processor="Glm46VProcessor",
    ),
    "ernie4.5-vl": shared(
        family, "ernie4_5_vl_moe", GLM, marks=GLM_MARKS, parts=qwen_parts("Ernie4_5_VLMoe", "Ernie4_5_VLMoe"),
        text=mrope(3, 3, 2) | {"moe_intermediate_size": [48, 32], "mlp_layer_types": ["dense", "sparse"] * 2},
    ),
    "hunyuan-vl": shared(
        family, "hunyuan_vl", GLM, marks={"image": GLM_MARKS["image"]},
        parts={"image_processor": images("HunYuanVLImageProcessor")},
        text=mrope(2, 2, 2, 2) | {"pad_token_id": 0}, tower={"max_image_size": 64, "text_hidden_size": 64},
    ),
    "kimi-k2.5": shared(
        family, "kimi_k25", QWEN, special=["<|media_begin|>", "<|media_content|>", "<|media_end|>"], marks={"image": "<|image_pad|>", "video": "<|video_pad|>"},
        parts={"image_processor": images("Kimi_K25ImageProcessor", patch_size=8, size={"max_height": 64, "max_width": 64}), "video_processor": images("Kimi_K25VideoProcessor", patch_size=8, size={"max_height": 64, "max_width": 64})}, text={"n_group": 1, "topk_group": 1, "num_key_value_heads": 4}, tower={"pos_emb_height": 4, "pos_emb_width": 4}, settings={"projection_hidden_size": 32},
    ),
    "step3.7": shared(
        family, "step3p7", {"image_token": "<im_patch>"},
        special=["<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>"],
        parts={"image_processor": images("Step3p7ImageProcessor", size=SQUARE, patch_size=16, max_image_size=128, vision_patch_size=4)}, text={"pad_token_id": 0, "sliding_window": 32, "share_expert_dim": 48}, tower={"patch_size": 4, "max_position_embeddings": 64},
    ),
    "dots3-note": shared(
        family, "dots3_note", {"image_token": "<|imgpad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_comp_pad|>"},
        parts=qwen_parts(feature_extractor=lambda: hf.WhisperFeatureExtractor(feature_size=16, chunk_length=4)), text={"num_key_value_heads": 4, "pad_token_id": 0, "head_dim": 32, "shared_experts_intermediate_size": 48, "index_topk": 8, "index_head_dim": 16, "index_n_heads": 2}, tower={"adapter_in_dim": 32, "adapter_out_dim": 64},
        others={"audio_config": {"adapter_input_size": 32, "adapter_out_dim": 64, "head_dim": 16, "downsample_hidden_size": 16, "conv_output_size": 16*2, "feature_size": 16}},
    ),
}
