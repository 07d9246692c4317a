"""List the multimodal families of the installed transformers that work, on tiny random models.

    python scripts/families.py > docs/families.md

Every class that transformers registers for multimodal language models is built small and loaded.
Those that the tests' zoo builds with their processors read text, a picture, a video and audio, the
others text only. Regenerate the table for a new release of transformers.
"""

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import transformers as hf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from probes import Backbone, Item, record
from probes.errors import FreeRetError, one_line
from tests.models import MULTIMODAL, build, tokenizer
from tests.samples import film, picture, sound
from tests.zoo import UNREAD, ZOO
from tests.zoo.building import CLASSES, TEXT_SIZES, TOWER_SIZES, shrunk

LARGEST = 150_000_000
"""The most parameters of a model that is built."""
THINKERS = {"qwen2_5_omni": "qwen2_5_omni_thinker", "qwen3_omni_moe": "qwen3_omni_moe_thinker"}
"""Families of which FreeRet loads only the part that reads."""
SOUNDS = {
    "image": {"images": [picture()]},
    "video": {"videos": [film()]},
    "audio": {"audios": [sound()]},
}
TEXT_PARTS = ("text_config", "decoder")
DIGITS = re.compile(r", relative error [\d.e+-]+")
"""Digits of a message that differ between machines."""
MEDIA = re.compile("pixel_values|input_features|positional argument")
"""Errors of classes that cannot read text alone."""

# Settings that the zoo's sizes leave inconsistent.
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
INDEXED: dict[str, Any] = {"index_topk": 64, "index_head_dim": 32, "index_n_heads": 2}
WHISPER: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
}
CONFORMER: dict[str, Any] = {
    "encoder_config": {"hidden_dim": 32, "num_layers": 1, "num_heads": 2, "dim_head": 16}
}
KOSMOS: dict[str, Any] = {
    "text_config": {"embed_dim": 64, "layers": 4, "ffn_dim": 96, "attention_heads": 4}
}
INKLING: dict[str, Any] = {"vision_config": {"text_hidden_size": 64}}
SETTINGS: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "text_config": {"vocab_size": 500, "output_vocab_size": None},
        "vision_config": {"codebook_size": 16},
        "audio_config": {"hidden_size": 512, "codebook_size": 16},
        "image_token_offset": 434,
        "audio_token_offset": 450,
        "image_token_id": 390,
        "audio_token_id": 391,
    },
    "chameleon": {"vocabulary_map": {"<image>": 300}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
        }
    },
    "deepseek_ocr2": {
        "text_config": {
            "mlp_layer_types": ["dense", "sparse"] * 2,
            "n_group": 1,
            "topk_group": 1,
        }
    },
    "diffusion_gemma": {"text_config": {"top_k_experts": 2}},
    "dots3_note": {
        "text_config": {
            **INDEXED,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "pad_token_id": 0,
            "shared_experts_intermediate_size": 48,
        },
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 64},
        "audio_config": {
            "adapter_input_size": 32,
            "adapter_out_dim": 64,
            "head_dim": 16,
            "downsample_hidden_size": 16,
            "feature_size": 16,
        },
    },
    "emu3": {
        "text_config": IDS,
        "vocabulary_map": {"<image>": 300},
        "vq_config": {"base_channels": 32, "hidden_size": 32},
    },
    "fun_asr_nano": {"adaptor_config": {"hidden_size": 64, "intermediate_size": 16}},
    "glm5_next": {
        "text_config": {
            **INDEXED,
            "num_key_value_heads": 4,
            "qk_rope_head_dim": 0,
            "linear_head_dim": 16,
            "linear_num_heads": 4,
            "pad_token_id": 0,
            "indexer_types": None,
        }
    },
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), CONFORMER),
    "hy_v4_vl": {
        "text_config": {
            **INDEXED,
            "num_key_value_heads": 4,
            "pad_token_id": 0,
            "indexer_types": None,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
            },
        }
    },
    **dict.fromkeys(("inkling2", "inkling2_loop"), INKLING),
    **dict.fromkeys(("kosmos-2", "kosmos-2.5"), KOSMOS),
    "kyutai_speech_to_text": {
        "pad_token_id": 3,
        "vocab_size": 400,
        "audio_bos_token_id": 10,
        "audio_pad_token_id": 11,
    },
    "mistral4": {"num_key_value_heads": 4},
    "mllama": {"text_config": {**IDS, "cross_attention_layers": [1]}},
    "muse_spark": {
        "text_config": {"layer_rope_theta": [1e4, 0, 1e4, 0], "moe_hidden_size": 32},
        "audio_config": {"num_hidden_layers": 4, "out_hidden_size": 64},
        "out_hidden_size": 128,
    },
    "nemo_speechlm": {
        "text_config": {"layers_block_type": ["full_attention", "mlp"] * 2, **IDS},
        "audio_config": {"hidden_size": 512},
    },
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "qwen2_audio": {"audio_config": WHISPER},
    "qwen3_asr": {"pad_token_id": 0, "eos_token_id": 1, "audio_config": WHISPER},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2,
            "indexer_kv_heads": 1,
            "indexer_head_dim": 16,
            "indexer_budget": 64,
            "indexer_compress_ratio": 4,
            "hc_lowrank": 8,
            "ple_embed_dim": 16,
            "ngram_vocab_size_base": 400,
        }
    },
}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    built = {type(model): (model, reader) for model, reader in zoo()}
    rows = []
    for kind, name in sorted(CLASSES.items()):
        architecture = CLASSES[THINKERS.get(kind, kind)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status, detail = outcome(kind, getattr(hf, architecture), built)
        rows.append((kind, name, status, detail.replace("|", r"\|")))
    counts = {status: [row[2] for row in rows].count(status) for status in STATUSES}
    print(HEADER.format(version=hf.__version__, total=len(rows), **counts))
    print("| model_type | class | status | reads beside text, or why not |\n|---|---|---|---|")
    for kind, name, status, detail in rows:
        print(f"| {kind} | `{name}` | {STATUSES[status]} | {detail} |")


STATUSES = {
    "works": "works",
    "text": "works for text",
    "refused": "refused",
    "untried": "not tried",
}
HEADER = """# Multimodal families

transformers {version}, {total} classes: {works} work with their media, {text} work for text,
{refused} are refused when they are loaded, {untried} were not tried. Made by
`python scripts/families.py > docs/families.md` on tiny random models of the real classes;
`freeret check MODEL` tries a real one.

*works*: text and the kinds named were read, by the real processor. *works for text*: the residual
stream is found and confirmed; media were not tried, or fail for the reason given. *refused*:
loading raises `UnsupportedBackbone` with the reason given. *not tried*: no tiny model could be
made, for the reason given.
"""


def zoo() -> list[tuple[Any, Any]]:
    return [builder() for builder in (MULTIMODAL | ZOO | UNREAD).values()]


def outcome(kind: str, architecture: Any, built: Mapping[Any, Any]) -> tuple[str, str]:
    """The status of a family, and the media that it reads or the reason why not."""
    if architecture in built:
        model, processor = built[architecture]
    else:
        processor = None
        if getattr(CONFIG_MAPPING[kind](), "is_encoder_decoder", False):
            return "refused", "an encoder-decoder, by its config"
        try:
            model = small(kind, architecture)
        except Exception as error:  # configs, classes and missing packages raise many types
            return "untried", f"no tiny model: {one_line(error, 160)}"
    try:
        backbone = Backbone.load(
            model, **({"processor": processor} if processor else {"tokenizer": tokenizer()})
        )
        record(backbone, ["a text"], ["attn[-1]"])
    except FreeRetError as error:
        if (
            processor is None
            and "cannot be computed" in str(error)
            and not MEDIA.search(str(error))
        ):
            return "untried", f"no tiny model: {one_line(error, 160)}"
        return "refused", DIGITS.sub("", one_line(error)).removeprefix(f"{type(model).__name__}: ")
    if processor is None:
        return "text", "media not tried"
    return media(backbone)


def media(backbone: Backbone) -> tuple[str, str]:
    """The status of a backbone, and the media that it reads or the reasons why not."""
    assert backbone.encoder.perception is not None
    read, reasons = [], []
    for kind in backbone.encoder.perception.kinds:
        try:
            item = Item("what is it", **SOUNDS[kind])
            state = record(backbone, [item], ["attn[-1]"])["attn[-1]"]
            other = record(backbone, ["what is it"], ["attn[-1]"])["attn[-1]"]
            if torch.equal(state, other):
                raise ValueError("it changes nothing")
            read.append(kind)
        except Exception as error:
            reasons.append(f"{kind}: {one_line(error, 160)}")
    return "works" if read else "text", "; ".join([", ".join(read), *reasons]).removeprefix("; ")


def small(kind: str, architecture: Any) -> Any:
    """A tiny model of a class, from its default config."""
    settings = SETTINGS.get(kind, {})
    config = shrunken(CONFIG_MAPPING[kind](), TEXT_SIZES, settings)
    with torch.device("meta"):
        size = sum(weight.numel() for weight in architecture(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size} parameters")
    return build(architecture, config)


def shrunken(config: Any, sizes: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The config with all of its parts reduced."""
    parts = {
        name: shrunken(
            getattr(config, name),
            TEXT_SIZES if name in TEXT_PARTS else TOWER_SIZES,
            settings.get(name, {}),
        )
        for name in type(config).sub_configs
        if hasattr(getattr(config, name, None), "to_dict")
    }
    others = {name: value for name, value in settings.items() if name not in parts}
    return shrunk(config, sizes, **parts | others)


if __name__ == "__main__":
    main()
