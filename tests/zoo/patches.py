"""Families that cut a picture of any size into patches, as Qwen2-VL does."""

from collections.abc import Callable
from typing import Any

from tests.models import shared
from tests.zoo.building import family, part, pixels, whisper, wrapped

QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_MARKS = wrapped("<|vision_start|>", "<|vision_end|>", "image", "video")
OMNI = {
    **{f"{kind}_token": f"<|{kind}_pad|>" for kind in ("image", "video", "audio")},
    "vision_bos_token": "<|vision_bos|>",
    "vision_start_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
GLM = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}
GLM_MARKS = wrapped("<|begin_of_{}|>", "<|end_of_{}|>", "image", "video", pad="<|{}|>")
KIMI_SIZE: dict[str, Any] = {"patch_size": 8, "size": {"max_height": 64, "max_width": 64}}
MINICPM = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}
MINICPM_SIZE: dict[str, Any] = {"patch_size": 4, "scale_resolution": 64}
MINIMAX = {"image_token": "]<]image[>[", "video_token": "]<]video[>["}
MUSE = {"image_token": "<|patch|>", "video_token": "<|video|>"}
GEMMA4 = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}
GEMMA4_SIZE: dict[str, Any] = {"patch_size": 4, "max_soft_tokens": 70, "pooling_kernel_size": 2}
# The window is longer than a prompt's prefix, and shorter than the longest rows.
GEMMA4_TEXT: dict[str, Any] = {
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "sliding_window": 64,
    "pad_token_id": 0,
    "final_logit_softcapping": 20.0,
}
PER_LAYER: dict[str, Any] = {
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 400,
    "num_experts": None,
    "moe_intermediate_size": None,
}
SCALED: dict[str, Any] = {"residual_multiplier": 0.5, "logits_scaling": 2.0}


def mrope(*sections: int, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 1e4}
    return {"rope_parameters": rope | more}


MIXED = mrope(4, 2, 2, mrope_interleaved=True)
PARTIAL = mrope(2, 1, 1, mrope_interleaved=True, partial_rotary_factor=0.5)


def qwen(kind: str, images: str = "Qwen2VL", videos: str = "Qwen3VL", **more: Any) -> Any:
    """Qwen's tokens and pixels."""
    return shared(family, kind, QWEN, pixels(images, videos), marks=QWEN_MARKS, **more)


def glm(kind: str, reader: str, rope: dict[str, Any], **more: Any) -> Any:
    """GLM's tokens; videos are written with the token of pictures."""
    return shared(family, kind, GLM, pixels(reader, reader), marks=GLM_MARKS, text=rope, **more)


def minicpm(kind: str, reader: str, **more: Any) -> Any:
    sizes: dict[str, Any] = {"patch_size": 4, "insert_layer_id": 0}
    return shared(
        family,
        kind,
        MINICPM,
        pixels(reader, reader, **MINICPM_SIZE),
        marks=wrapped("", "", "image", "video"),
        tower=sizes | {"image_size": 64},
        **sizes | more,
    )


def gemma4(kind: str, reader: str, text: dict[str, Any], tower: dict[str, Any]) -> Any:
    extractor = part(f"{reader}AudioFeatureExtractor", sampling_rate=16_000)
    return shared(
        family,
        kind,
        GEMMA4,
        pixels(reader, reader, **GEMMA4_SIZE) | {"feature_extractor": extractor},
        marks=wrapped("", "", "image", "video", pad="<|{}|>"),
        text=GEMMA4_TEXT | text,
        tower={"patch_size": 4, "pooling_kernel_size": 2} | tower,
    )


PATCHES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen3-vl-moe": qwen("qwen3_vl_moe", text=MIXED),
    "qwen3.5": qwen("qwen3_5", text=PARTIAL),
    "qwen3.5-moe": qwen("qwen3_5_moe", text=PARTIAL),
    "qwen3-omni": shared(
        family,
        "qwen3_omni_moe_thinker",
        OMNI,
        pixels("Qwen2VL", "Qwen2VL") | {"feature_extractor": whisper},
        marks=wrapped("<|vision_bos|>", "<|vision_eos|>", "image", "video"),
        processor="Qwen3OmniMoeProcessor",
        unlisted=["vision_start_token_id"],
        text=MIXED,
        others={
            "audio_config": {
                "num_mel_bins": 16,
                "d_model": 32,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 48,
                "output_dim": 64,
                "n_window": 25,
                "downsample_hidden_size": 16,
            }
        },
    ),
    "lfm3-vl": qwen("lfm3_vl"),
    "cosmos3-edge": qwen("cosmos3_edge", "Cosmos3Edge", "Cosmos3Edge", text=mrope(4, 2, 2)),
    "cosmos3-omni": qwen("cosmos3_omni", text=MIXED, processor="Qwen3VLProcessor"),
    "exaone4.5": qwen("exaone4_5", videos="Qwen2VL"),
    "hyperclovax-v2": qwen("hyperclovax_vision_v2", videos="Qwen2VL", text=SCALED),
    "video-llama3": qwen("video_llama_3", "VideoLlama3", "VideoLlama3"),
    "paddleocr-vl": shared(
        family,
        "paddleocr_vl",
        QWEN,
        pixels("PaddleOCRVL"),
        marks=wrapped("<|vision_start|>", "<|vision_end|>", "image"),
        text=mrope(2, 3, 3),
    ),
    "glm4v": glm("glm4v", "Glm4v", mrope(2, 3, 3)),
    "glm4.5v": glm("glm4v_moe", "Glm4v", mrope(2, 1, 1, partial_rotary_factor=0.5)),
    "glm4.6v": glm("glm46v", "Glm46V", mrope(2, 3, 3)),
    "glm-ocr": glm("glm_ocr", "Glm46V", mrope(2, 3, 3), processor="Glm46VProcessor"),
    "ernie4.5-vl": glm(
        "ernie4_5_vl_moe",
        "Ernie4_5_VLMoe",
        mrope(3, 3, 2)
        | {"moe_intermediate_size": [48, 32], "mlp_layer_types": ["dense", "sparse"] * 2},
    ),
    "hunyuan-vl": shared(
        family,
        "hunyuan_vl",
        GLM,
        pixels("HunYuanVL"),
        marks=wrapped("<|begin_of_{}|>", "<|end_of_{}|>", "image", pad="<|{}|>"),
        text=mrope(2, 2, 2, 2) | {"pad_token_id": 0},
        tower={"max_image_size": 64, "text_hidden_size": 64},
    ),
    "kimi-k2.5": shared(
        family,
        "kimi_k25",
        QWEN,
        pixels("Kimi_K25", "Kimi_K25", **KIMI_SIZE),
        marks=wrapped("", "", "image", "video"),
        special=["<|media_begin|>", "<|media_content|>", "<|media_end|>"],
        text={"n_group": 1, "topk_group": 1, "num_key_value_heads": 4},
        tower={"pos_emb_height": 4, "pos_emb_width": 4},
        projection_hidden_size=32,
    ),
    "muse-glimmer": shared(
        family,
        "muse_glimmer",
        MUSE,
        {
            "image_processor": part("MuseGlimmerImageProcessor", patch_size=8, max_image_tokens=16),
            "video_processor": part("MuseGlimmerVideoProcessor", patch_size=8),
        },
        marks={"image": "<|patch|>", "video": "<|video|>"},
        special=[
            *("<|image_start|>", "<|image_end|>"),
            *("<|vid_start|>", "<|vid_end|>", "<|vid_frame_separator|>"),
        ],
        text={
            "output_multiplier": 0.5,
            "layer_rope_theta": [1e4, 0, 1e4, 0],
            "sliding_window": 64,
        },
        tower={"pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 64},
        out_hidden_size=128,
        projector_hidden_size=32,
    ),
    "minimax-m3-vl": shared(
        family,
        "minimax_m3_vl",
        MINIMAX,
        pixels("MiniMaxM3VL", "MiniMaxM3VL"),
        marks=wrapped("", "", "image", "video", pad="]<]{}[>["),
        special=["]<]start of image[>[", "]<]end of image[>["],
        text={
            "dense_intermediate_size": 96,
            "shared_intermediate_size": 48,
            "rotary_dim": 8,
            "index_n_heads": 2,
            "index_head_dim": 16,
        },
        projector_hidden_size=32,
        merged_hidden_size=256,
    ),
    "minicpm-v4.6": minicpm("minicpmv4_6", "MiniCPMV4_6", image_size=64),
    "minicpm-v4.7": minicpm("minicpmv4_7", "MiniCPMV4_6", image_size=64),
    "minicpm-ocr": minicpm("minicpm_ocr", "MiniCPMOcr"),
    "gemma4": gemma4(
        "gemma4", "Gemma4", PER_LAYER, {"head_dim": 16, "position_embedding_size": 64}
    ),
    "gemma4-unified": gemma4(
        "gemma4_unified",
        "Gemma4Unified",
        {},
        {"mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64},
    ),
}
