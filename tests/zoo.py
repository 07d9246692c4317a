"""More multimodal families of the installed transformers, as tiny random models with their real
processors: `ZOO` maps a name to a builder, as `models.MULTIMODAL` does.

`family` makes a model of the real class small by the names of its config's fields, and its processor
from the real parts; a line of the table says what is special about one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import transformers as hf
from models import DECODER, IDEFICS_TOKENS, QWEN_PIXELS, SQUARE, VOCAB, build, chatml, shared, tokenizer
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
        if suffix == "_id" or f"{name}{suffix}" in known
    }
    config = type(default)(**subs | ids | dict(settings))
    model = build(getattr(hf, MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[kind]), config)
    written = marks or {"image": tokens["image_token"]}
    made = {name: part() if callable(part) else part for name, part in parts.items()}
    with torch.no_grad():
        for name, scale in model.named_buffers():
            if name.endswith("layer_scalar"):
                scale.fill_(0.7)
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


IMAGE = {"image_token": "<image>"}
IMAGE_MARK = {"image": "<image>"}
GRID = [[32, 32], [32, 64], [64, 32], [64, 64]]
PIXTRAL = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
GEMMA4 = {"image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>", "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>", "video_token": "<|video|>"}
GEMMA4_TEXT: dict[str, Any] = {"global_head_dim": 16, "num_global_key_value_heads": 2, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB, "sliding_window": 64, "pad_token_id": 0, "final_logit_softcapping": 20.0, "num_experts": None, "moe_intermediate_size": None}
MINICPM = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>", "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>", "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>"}


MINIMAX = {"image_token": "]<]image[>[", "video_token": "]<]video[>["}
MOLMO = {"image_token": "<|image|>", "video_token": "<|video|>", "image_patch": "<im_patch>"}
QWEN_OMNI = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_pad|>", "vision_bos_token": "<|vision_bos|>", "vision_start_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>", "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}


def with_length(processor: Any, length: int) -> Any:
    processor.image_seq_length = length
    return processor


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
    "gemma4": shared(
        family, "gemma4", GEMMA4, processor="Gemma4Processor", marks={"image": "<|image|>", "video": "<|video|>"},
        parts={"image_processor": images("Gemma4ImageProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
               "video_processor": images("Gemma4VideoProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
               "feature_extractor": lambda: hf.Gemma4AudioFeatureExtractor()},
        text=GEMMA4_TEXT, tower={"patch_size": 4, "pooling_kernel_size": 2, "head_dim": 16, "position_embedding_size": 64},
    ),
    "aria": shared(
        family, "aria", IMAGE, text={"pad_token_id": 0}, 
        tower={"image_size": 980, "patch_size": 140}, settings={"projector_patch_to_query_dict": {49: 4}},
        parts={"image_processor": images("AriaImageProcessor", max_image_size=980, min_image_size=336), "size_conversion": {980: 4}},
    ),
    "idefics2": shared(
        family, "idefics2", IMAGE | {"image_boundary_token": "<fake_token_around_image>"}, special=["<end_of_utterance>"],
        text={"pad_token_id": 0}, others={"perceiver_config": {"hidden_size": 64, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4, "resampler_head_dim": 16, "num_key_value_heads": 2}},
        parts={"image_processor": images("Idefics2ImageProcessor", size={"shortest_edge": 16, "longest_edge": 32}), "image_seq_len": 4},
    ),
    "llava-next": shared(
        family, "llava_next", IMAGE, settings={"image_grid_pinpoints": GRID},
        parts={"image_processor": images("LlavaNextImageProcessor", size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=GRID),
               "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava-next-video": shared(
        family, "llava_next_video", IMAGE | {"video_token": "<video>"}, settings={"image_grid_pinpoints": GRID},
        marks={"image": "<image>", "video": "<video>"},
        parts={"image_processor": images("LlavaNextImageProcessor", size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=GRID),
               "video_processor": images("LlavaNextVideoVideoProcessor", size={"shortest_edge": 32}, crop_size=SQUARE),
               "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "vipllava": shared(
        family, "vipllava", IMAGE, settings={"vision_feature_layers": [-2, -1]},
        parts={"image_processor": images("CLIPImageProcessor", size={"shortest_edge": 32}, crop_size=SQUARE),
               "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "video-llava": shared(
        family, "video_llava", IMAGE | {"video_token": "<video>"}, marks={"image": "<image>", "video": "<video>"},
        parts={"image_processor": images("VideoLlavaImageProcessor", size={"shortest_edge": 32}, crop_size=SQUARE),
               "video_processor": images("VideoLlavaVideoProcessor", size={"shortest_edge": 32}, crop_size=SQUARE),
               "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "granite4-vision": shared(
        family, "granite4_vision", IMAGE,
        settings={"image_grid_pinpoints": GRID, "downsample_rate": "2/4", "deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [1, 2, 3]},
        text={"residual_multiplier": 0.5, "logits_scaling": 2.0},
        others={"qformer_config": {"encoder_hidden_size": 32}}, tower={},
        parts={"image_processor": images("LlavaNextImageProcessor", size={"shortest_edge": 32}, crop_size=SQUARE, image_grid_pinpoints=GRID),
               "patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1, "downsample_rate": "2/4"},
    ),
    "mistral3": shared(
        family, "mistral3", PIXTRAL, tower={"head_dim": 16}, 
        parts={"image_processor": images("PixtralImageProcessor", patch_size=8, size={"longest_edge": 64}), "patch_size": 8, "spatial_merge_size": 2},
    ),
    "mistral-large4": shared(
        family, "mistral_large4", PIXTRAL, tower={"head_dim": 16}, text={"num_key_value_heads": 4, "index_topk": 512, "index_head_dim": 32, "index_n_heads": 2, "indexer_types": None, "no_rope_layers": None, "kv_source_layers": None},
        parts={"image_processor": images("PixtralImageProcessor", patch_size=8, size={"longest_edge": 64}), "patch_size": 8, "spatial_merge_size": 2},
    ),
    "lighton-ocr": shared(
        family, "lighton_ocr", IMAGE | {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}, tower={"head_dim": 16},
        parts={"image_processor": images("PixtralImageProcessor", patch_size=8, size={"longest_edge": 64}), "patch_size": 8, "spatial_merge_size": 2},
    ),
    "got-ocr2": shared(
        family, "got_ocr2", {"image_token": "<imgpad>"}, special=["<img>", "</img>"], settings={"image_seq_length": 4},
        tower={"output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 48, "image_size": 128},
        parts={"image_processor": images("GotOcr2ImageProcessor", size={"height": 128, "width": 128})},
    ),
    "ovis2": shared(
        family, "ovis2", {"image_token": "<IMG_ATOM>"}, marks=IMAGE_MARK, special=["<image>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"],
        tower={"vocab_size": 40, "hidden_stride": 2}, settings={"hidden_size": 64, "vocab_size": VOCAB},
        parts={"image_processor": images("Ovis2ImageProcessor", size=SQUARE, crop_to_patches=True, max_patches=4, min_patches=1), "image_seq_length": 4},
    ),
    "qianfan-ocr": shared(
        family, "qianfan_ocr", {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>", "image_token": "<IMG_CONTEXT>"}, special=["<image>"],
        marks={"image": "<image>"}, tower={"image_size": (32, 32), "patch_size": (8, 8)},
        parts={"image_processor": images("GotOcr2ImageProcessor", size=SQUARE), "image_seq_length": 4},
    ),
    "paligemma": shared(
        family, "paligemma", IMAGE, bos="<bos>", settings={"projection_dim": 64, "hidden_size": 64}, tower={"projection_dim": 64},
        text={"num_image_tokens": 16},
        parts={"image_processor": lambda: with_length(hf.SiglipImageProcessor(size=SQUARE), 16)},
    ),
    "deepseek-vl": shared(
        family, "deepseek_vl", {"image_token": "<image_placeholder>"},
        parts={"image_processor": images("DeepseekVLImageProcessor", size=SQUARE), "num_image_tokens": 16},
    ),
    "janus": shared(
        family, "janus", {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"},
        tower={"num_image_tokens": 16, "projection_dim": 64},
        others={"vq_config": {"embed_dim": 4, "num_embeddings": 16, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "num_patches": 4, "projection_dim": 64, "image_token_embed_dim": 64}},
        parts={"image_processor": images("JanusImageProcessor", size=SQUARE), "num_image_tokens": 16},
    ),
    "lfm2-vl": shared(
        family, "lfm2_vl", IMAGE | {"image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>", "image_thumbnail_token": "<|img_thumbnail|>"},
        special=[f"<|img_row_{r}_col_{c}|>" for r in range(1, 4) for c in range(1, 4)],
        text={"layer_types": ["conv", "full_attention"] * 2, "block_multiple_of": 32, "block_auto_adjust_ff_dim": False}, tower={"num_patches": 16},
        parts={"image_processor": images("Lfm2VlImageProcessor", encoder_patch_size=8, tile_size=32, min_image_tokens=4, max_image_tokens=4, max_tiles=4, size=SQUARE)},
    ),
    "minicpm-v4.7": shared(
        family, "minicpmv4_7", MINICPM,
        parts={"image_processor": images("MiniCPMV4_6ImageProcessor", patch_size=4, scale_resolution=64),
               "video_processor": images("MiniCPMV4_6VideoProcessor", patch_size=4, scale_resolution=64)},
        marks={"image": "<|image_pad|>", "video": "<|video_pad|>"},
        tower={"patch_size": 4, "image_size": 64, "insert_layer_id": 0}, settings={"image_size": 64, "patch_size": 4, "insert_layer_id": 0},
    ),
    "minicpm-ocr": shared(
        family, "minicpm_ocr", MINICPM,
        parts={"image_processor": images("MiniCPMOcrImageProcessor", patch_size=4, scale_resolution=64),
               "video_processor": images("MiniCPMOcrVideoProcessor", patch_size=4, scale_resolution=64)},
        marks={"image": "<|image_pad|>", "video": "<|video_pad|>"},
        tower={"patch_size": 4, "image_size": 64, "insert_layer_id": 0}, settings={"patch_size": 4, "insert_layer_id": 0},
    ),
    "molmo2": shared(
        family, "molmo2", MOLMO, special=["<im_col>", "<low_res_im_start>", "<frame_start>", "<frame_end>", "<im_start>", "<im_end>"],
        text={"additional_vocab_size": 8, "rope_scaling_layers": None}, tower={"image_size": [32, 32], "head_dim": 16},
        others={"adapter_config": {"vision_feature_layer": [-1, -2], "head_dim": 16, "text_hidden_size": 64}},
        parts={"image_processor": images("Molmo2ImageProcessor", size=SQUARE, max_crops=2, overlap_margins=[1, 1], patch_size=8),
               "video_processor": images("Molmo2VideoProcessor", size=SQUARE, patch_size=8)},
        marks={"image": "<|image|>", "video": "<|video|>"},
    ),
    "muse-glimmer": shared(
        family, "muse_glimmer", {"image_token": "<|patch|>", "video_token": "<|video|>"}, special=["<|image_start|>", "<|image_end|>", "<|vid_start|>", "<|vid_end|>", "<|vid_frame_separator|>"],
        tower={"pos_emb_height": 4, "pos_emb_width": 4, "max_position_embeddings": 64}, settings={"out_hidden_size": 128, "projector_hidden_size": 32},
        text={"output_multiplier": 0.5, "layer_rope_theta": [1e4, 0, 1e4, 0], "sliding_window": 64},
        parts={"image_processor": images("MuseGlimmerImageProcessor", patch_size=8, max_image_tokens=16),
               "video_processor": images("MuseGlimmerVideoProcessor", patch_size=8)},
        marks={"image": "<|patch|>", "video": "<|video|>"},
    ),
    "minimax-m3-vl": shared(
        family, "minimax_m3_vl", MINIMAX, special=["]<]start of image[>[", "]<]end of image[>["], marks={"image": "]<]image[>[", "video": "]<]video[>["}, settings={"projector_hidden_size": 32, "merged_hidden_size": 256},
        text={"dense_intermediate_size": 96, "shared_intermediate_size": 48, "rotary_dim": 8, "index_n_heads": 2, "index_head_dim": 16},
        parts=qwen_parts("MiniMaxM3VL", "MiniMaxM3VL"),
    ),
    "granite-docling": shared(
        family, "granite_docling", IMAGE, special=IDEFICS_TOKENS, settings={"pad_token_id": 0},
        text={"residual_multiplier": 0.5, "logits_scaling": 2.0, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
        tower={"deepstack_visual_indexes": [0, 1, 1], "scale_factor": 2},
        parts={"image_processor": images("GraniteDoclingImageProcessor", size=SQUARE, max_patches=4), "image_seq_len": 4},
    ),
    "deepseek-vl-hybrid": shared(
        family, "deepseek_vl_hybrid", {"image_token": "<image_placeholder>"},
        others={"high_res_vision_config": {"mlp_ratio": 2.0, "output_channels": 16, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 48, "image_size": 64, "scale": 32, "num_pos_feats": 16}},
        parts={"image_processor": images("DeepseekVLHybridImageProcessor", size=SQUARE, high_res_size={"height": 64, "width": 64}), "num_image_tokens": 16},
    ),
    "gemma4-unified": shared(
        family, "gemma4_unified", GEMMA4, marks={"image": "<|image|>", "video": "<|video|>"},
        parts={"image_processor": images("Gemma4UnifiedImageProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
               "video_processor": images("Gemma4UnifiedVideoProcessor", patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
               "feature_extractor": lambda: hf.Gemma4UnifiedAudioFeatureExtractor()},
        text={"global_head_dim": 16, "num_global_key_value_heads": 2, "sliding_window": 64, "pad_token_id": 0, "final_logit_softcapping": 20.0},
        tower={"patch_size": 4, "pooling_kernel_size": 2, "mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64},
    ),
    "qwen3-omni": shared(
        family, "qwen3_omni_moe_thinker", QWEN_OMNI, marks={"image": "<|vision_bos|><|image_pad|><|vision_eos|>", "video": "<|vision_bos|><|video_pad|><|vision_eos|>"},
        processor="Qwen3OmniMoeProcessor", text=mrope(4, 2, 2, mrope_interleaved=True), others={"audio_config": {"num_mel_bins": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 48, "d_model": 32, "output_dim": 64, "n_window": 25, "downsample_hidden_size": 16}},
        parts=qwen_parts(videos="Qwen2VL", feature_extractor=lambda: hf.WhisperFeatureExtractor(feature_size=16, chunk_length=4)),
    ),
    "llama4": shared(
        family, "llama4", {"image_token": "<|image|>"}, special=["<|image_start|>", "<|image_end|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"],
        text={"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 96, "moe_layers": None, "no_rope_layers": None},
        tower={"vision_output_dim": 64, "projector_input_dim": 64, "projector_output_dim": 64, "pixel_shuffle_ratio": 0.5},
        parts={"image_processor": images("Llama4ImageProcessor", size=SQUARE), "patch_size": 8},
    ),
    "minicpm-v4.6": shared(
        family, "minicpmv4_6", MINICPM,
        parts={"image_processor": images("MiniCPMV4_6ImageProcessor", patch_size=4, scale_resolution=64),
               "video_processor": images("MiniCPMV4_6VideoProcessor", patch_size=4, scale_resolution=64)},
        marks={"image": "<|image_pad|>", "video": "<|video_pad|>"},
        tower={"patch_size": 4, "image_size": 64, "insert_layer_id": 0}, settings={"image_size": 64, "patch_size": 4, "insert_layer_id": 0},
    ),
}
