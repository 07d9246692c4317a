"""Families whose pictures are squares of one size, alone or as tiles."""

from collections.abc import Callable
from typing import Any

from tests.models import IDEFICS_TOKENS, SQUARE, VOCAB, shared
from tests.zoo.building import family, part, pixels, wrapped

IMAGE = {"image_token": "<image>"}
BOTH = IMAGE | {"video_token": "<video>"}
GRID = [[32, 32], [32, 64], [64, 32], [64, 64]]
CLIP: dict[str, Any] = {"size": {"shortest_edge": 32}, "crop_size": SQUARE}
PATCHED: dict[str, Any] = {
    "patch_size": 8,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
NEXT = part("LlavaNextImageProcessor", **CLIP, image_grid_pinpoints=GRID)
PIXTRAL_TOKENS = {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
PIXTRAL = {
    **pixels("Pixtral", patch_size=8, size={"longest_edge": 64}),
    "patch_size": 8,
    "spatial_merge_size": 2,
}
JANUS = {
    "image_token": "<image_placeholder>",
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
}
LFM2 = IMAGE | {
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
MOLMO = {"image_token": "<|image|>", "video_token": "<|video|>", "image_patch": "<im_patch>"}
QIANFAN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "image_token": "<IMG_CONTEXT>",
}
OVIS = ("<image>", *(f"<IMG_{name}>" for name in ("START", "ATOM", "GRID", "COL", "ROW", "END")))
SAM: dict[str, Any] = {
    "output_channels": 16,
    "window_size": 2,
    "global_attn_indexes": [1],
    "mlp_dim": 48,
}

TILES: dict[str, Callable[[], tuple[Any, Any]]] = {
    "llava-next": shared(
        family, "llava_next", IMAGE, PATCHED | {"image_processor": NEXT}, image_grid_pinpoints=GRID
    ),
    "llava-next-video": shared(
        family,
        "llava_next_video",
        BOTH,
        PATCHED | pixels("LlavaNext", "LlavaNextVideo", **CLIP) | {"image_processor": NEXT},
        marks=wrapped("", "", "image", "video", pad="<{}>"),
        image_grid_pinpoints=GRID,
    ),
    "vipllava": shared(
        family, "vipllava", IMAGE, PATCHED | pixels("CLIP", **CLIP), vision_feature_layers=[-2, -1]
    ),
    "video-llava": shared(
        family,
        "video_llava",
        BOTH,
        PATCHED | pixels("VideoLlava", "VideoLlava", **CLIP),
        marks=wrapped("", "", "image", "video", pad="<{}>"),
    ),
    "granite4-vision": shared(
        family,
        "granite4_vision",
        IMAGE,
        PATCHED | {"image_processor": NEXT, "downsample_rate": "2/4"},
        text={"residual_multiplier": 0.5, "logits_scaling": 2.0},
        tower={"hidden_size": 64},
        others={"qformer_config": {"encoder_hidden_size": 64, "hidden_size": 64}},
        image_grid_pinpoints=GRID,
        downsample_rate="2/4",
        deepstack_layer_map=[[-1, 0]],
        spatial_target_layers=[1, 2, 3],
    ),
    "aria": shared(
        family,
        "aria",
        IMAGE,
        pixels("Aria", max_image_size=980, min_image_size=336) | {"size_conversion": {980: 4}},
        text={"pad_token_id": 0},
        tower={"image_size": 980, "patch_size": 140},
        projector_patch_to_query_dict={49: 4},
    ),
    "idefics2": shared(
        family,
        "idefics2",
        IMAGE | {"image_boundary_token": "<fake_token_around_image>"},
        pixels("Idefics2", size={"shortest_edge": 16, "longest_edge": 32}) | {"image_seq_len": 4},
        special=["<end_of_utterance>"],
        text={"pad_token_id": 0},
        others={
            "perceiver_config": {
                "hidden_size": 64,
                "resampler_n_latents": 4,
                "resampler_depth": 1,
                "resampler_n_heads": 4,
                "resampler_head_dim": 16,
            }
        },
    ),
    "granite-docling": shared(
        family,
        "granite_docling",
        IMAGE,
        pixels("GraniteDocling", size=SQUARE, max_patches=4) | {"image_seq_len": 4},
        special=IDEFICS_TOKENS,
        text={
            **{"residual_multiplier": 0.5, "logits_scaling": 2.0},
            **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0),
        },
        tower={"deepstack_visual_indexes": [0, 1, 1], "scale_factor": 2},
        pad_token_id=0,
    ),
    "mistral3": shared(
        family,
        "mistral3",
        {"image_token": "[IMG]", **PIXTRAL_TOKENS},
        PIXTRAL,
        tower={"head_dim": 16},
    ),
    "mistral-large4": shared(
        family,
        "mistral_large4",
        {"image_token": "[IMG]", **PIXTRAL_TOKENS},
        PIXTRAL,
        text={
            "num_key_value_heads": 4,
            "index_topk": 512,
            "index_head_dim": 32,
            "index_n_heads": 2,
            **dict.fromkeys(("indexer_types", "no_rope_layers", "kv_source_layers")),
        },
        tower={"head_dim": 16},
    ),
    "lighton-ocr": shared(
        family, "lighton_ocr", IMAGE | PIXTRAL_TOKENS, PIXTRAL, tower={"head_dim": 16}
    ),
    "ovis2": shared(
        family,
        "ovis2",
        {"image_token": "<IMG_ATOM>"},
        pixels("Ovis2", size=SQUARE, crop_to_patches=True, max_patches=4) | {"image_seq_length": 4},
        marks=wrapped("", "", "image", pad="<{}>"),
        special=OVIS,
        tower={"vocab_size": 40, "hidden_stride": 2},
        hidden_size=64,
        vocab_size=VOCAB,
    ),
    "qianfan-ocr": shared(
        family,
        "qianfan_ocr",
        QIANFAN,
        pixels("GotOcr2", size=SQUARE) | {"image_seq_length": 4},
        marks=wrapped("", "", "image", pad="<{}>"),
        special=["<image>"],
        tower={"image_size": (32, 32), "patch_size": (8, 8)},
    ),
    "deepseek-vl": shared(
        family,
        "deepseek_vl",
        {"image_token": "<image_placeholder>"},
        pixels("DeepseekVL", size=SQUARE) | {"num_image_tokens": 16},
    ),
    "deepseek-vl-hybrid": shared(
        family,
        "deepseek_vl_hybrid",
        {"image_token": "<image_placeholder>"},
        pixels("DeepseekVLHybrid", size=SQUARE, high_res_size={"height": 64, "width": 64})
        | {"num_image_tokens": 16},
        others={
            "high_res_vision_config": SAM
            | {"mlp_ratio": 2.0, "image_size": 64, "scale": 32, "num_pos_feats": 16}
        },
    ),
    "janus": shared(
        family,
        "janus",
        JANUS,
        pixels("Janus", size=SQUARE) | {"num_image_tokens": 16},
        tower={"num_image_tokens": 16, "projection_dim": 64},
        others={
            "vq_config": {
                "embed_dim": 4,
                "num_embeddings": 16,
                "latent_channels": 32,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "num_patches": 4,
                "projection_dim": 64,
                "image_token_embed_dim": 64,
            }
        },
    ),
    "lfm2-vl": shared(
        family,
        "lfm2_vl",
        LFM2,
        pixels(
            "Lfm2Vl",
            encoder_patch_size=8,
            tile_size=32,
            min_image_tokens=4,
            max_image_tokens=4,
            max_tiles=4,
            size=SQUARE,
        ),
        special=[f"<|img_row_{row}_col_{column}|>" for row in (1, 2, 3) for column in (1, 2, 3)],
        text={
            "layer_types": ["conv", "full_attention"] * 2,
            "block_auto_adjust_ff_dim": False,
        },
        tower={"num_patches": 16},
    ),
    "molmo2": shared(
        family,
        "molmo2",
        MOLMO,
        {
            "image_processor": part(
                "Molmo2ImageProcessor",
                size=SQUARE,
                patch_size=8,
                max_crops=2,
                overlap_margins=[1, 1],
            ),
            "video_processor": part("Molmo2VideoProcessor", size=SQUARE, patch_size=8),
        },
        marks=wrapped("", "", "image", "video", pad="<|{}|>"),
        special=[
            *("<im_start>", "<im_end>", "<low_res_im_start>", "<im_col>"),
            *("<frame_start>", "<frame_end>"),
        ],
        text={"additional_vocab_size": 8, "rope_scaling_layers": None},
        tower={"image_size": [32, 32], "head_dim": 16},
        others={
            "adapter_config": {
                "vision_feature_layer": [-1, -2],
                "head_dim": 16,
                "text_hidden_size": 64,
            }
        },
    ),
    "step3.7": shared(
        family,
        "step3p7",
        {"image_token": "<im_patch>"},
        pixels("Step3p7", size=SQUARE, patch_size=16, max_image_size=128, vision_patch_size=4),
        special=[
            *("<patch_start>", "<patch_end>", "<patch_newline>"),
            *("<im_start>", "<im_end>"),
        ],
        text={"pad_token_id": 0, "sliding_window": 512, "share_expert_dim": 48},
        tower={"patch_size": 4, "max_position_embeddings": 64},
    ),
}

UNREAD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "got-ocr2": shared(
        family,
        "got_ocr2",
        {"image_token": "<imgpad>"},
        pixels("GotOcr2", size={"height": 128, "width": 128}),
        special=["<img>", "</img>"],
        tower=SAM | {"image_size": 128},
        image_seq_length=4,
    ),
    "llama4": shared(
        family,
        "llama4",
        {"image_token": "<|image|>"},
        pixels("Llama4", size=SQUARE) | {"patch_size": 8},
        special=["<|image_start|>", "<|image_end|>", "<|patch|>"],
        text={
            "num_experts_per_tok": 1,
            "intermediate_size_mlp": 96,
            **dict.fromkeys(("moe_layers", "no_rope_layers")),
        },
        tower={"vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64},
    ),
}
"""Whose processor fails on pictures beside text, or whose class fails on text."""
