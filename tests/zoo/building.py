"""A tiny random model of a real class, made small by the names of its config's fields, with its
real processor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from tests.models import DECODER, QWEN_PIXELS, build, chatml, tokenizer

CLASSES: Any = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
"""Class by model type."""
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


def fields(kind: type) -> set[str]:
    """The fields that a config class declares."""
    return {name for base in kind.__mro__ for name in getattr(base, "__annotations__", {})}


def shrunk(config: Any, sizes: Mapping[str, Any], **settings: Any) -> Any:
    """A config of the class of `config`, with the sizes that the class knows, and `settings`."""
    known = fields(type(config))
    small = {name: size for name, size in sizes.items() if name in known}
    layers = small.get("num_hidden_layers", 0)
    for name in ("layer_types", "mlp_layer_types"):  # some layers of each kind
        kinds = list(dict.fromkeys(getattr(config, name, None) or ()))
        if kinds and layers:
            small[name] = (kinds * layers)[:layers]
    return type(config)(**small | settings)


def configured(
    kind: str,
    text: Mapping[str, Any] = {},
    tower: Mapping[str, Any] = {},
    others: Mapping[str, Mapping[str, Any]] = {},
    **settings: Any,
) -> Any:
    """A small config of `kind`: `text` and `tower` go to its text and vision parts, `others` to
    those named, `settings` to itself."""
    default = CONFIG_MAPPING[kind]()
    parts: dict[str, Any] = {}
    given = {"text_config": text, "vision_config": tower, **others}
    sub_configs: Any = type(default).sub_configs
    for name, part in sub_configs.items():
        if name in given:
            sizes = TEXT_SIZES if name == "text_config" else TOWER_SIZES
            parts[name] = shrunk(getattr(default, name, None) or part(), sizes, **given[name])
    return type(default)(**parts | settings)


def family(
    kind: str,
    tokens: Mapping[str, str],
    parts: Mapping[str, Any],
    *,
    marks: Mapping[str, str] | None = None,
    special: Sequence[str] = (),
    unlisted: Sequence[str] = (),
    processor: str | None = None,
    **settings: Any,
) -> tuple[Any, Any]:
    """A model of the class that transformers keeps under `kind`, and its processor.

    `tokens` are special tokens by the attribute that the tokenizer has for each; the ids of the
    same names in the config follow them, those `unlisted` too. `parts` go to the processor; a part
    that can be called is called first. `marks` is what the chat template writes for each kind of
    content. `settings` are those of `configured`.
    """
    named: dict[str, Any] = dict(tokens)
    tok = tokenizer(special=tuple(special), **named)
    known = fields(type(CONFIG_MAPPING[kind]())) | set(unlisted)
    ids = {
        f"{name}{suffix}": tok.convert_tokens_to_ids(token)
        for name, token in tokens.items()
        for suffix in ("_id", "_index")
        if f"{name}{suffix}" in known
    }
    config = configured(kind, **ids | settings)
    model = scaled(build(getattr(hf, CLASSES[kind]), config))
    made = {name: part() if callable(part) else part for name, part in parts.items()}
    template = chatml(**(marks or {"image": tokens["image_token"]}))
    reader = getattr(hf, processor or str(PROCESSOR_MAPPING_NAMES[kind]))
    return model, reader(tokenizer=tok, chat_template=template, **made)


def scaled(model: Any) -> Any:
    """With the scales of Gemma 4's layers other than 1, as in released models."""
    for name, scale in model.named_buffers():
        if name.endswith("layer_scalar"):
            scale.fill_(0.7)
    return model


def part(name: str, **settings: Any) -> Callable[[], Any]:
    """A part of a processor, by default for patches of 8 pixels and few of them."""
    given = settings or {"patch_size": 8, "size": QWEN_PIXELS}
    return lambda: getattr(hf, name)(**given)


def pixels(images: str, videos: str | None = None, **settings: Any) -> dict[str, Any]:
    """The readers of pictures and of videos, whose classes begin with these names."""
    found = {"image_processor": part(f"{images}ImageProcessor", **settings)}
    if videos:
        found["video_processor"] = part(f"{videos}VideoProcessor", **settings)
    return found


def whisper(**settings: Any) -> Any:
    return hf.WhisperFeatureExtractor(feature_size=16, chunk_length=4, **settings)


def wrapped(start: str, end: str, *kinds: str, pad: str = "<|{}_pad|>") -> dict[str, str]:
    """Marks of pictures, videos or audio between two delimiters."""
    return {kind: f"{start.format(kind)}{pad.format(kind)}{end.format(kind)}" for kind in kinds}
