"""Load the model, tokenizer and processor of a backbone by its name and its `Loading`.

Weights are loaded straight to their device: a copy in main memory would take as much memory again
in each process, and a quantized checkpoint cannot be moved after loading.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

import probes.embedded.smolsight.tower  # noqa: F401  transformers learns its class
from probes import embedded
from probes.errors import BackboneNotFound, BadSetting, FreeRetError, one_line
from probes.model.loading import Loading
from probes.model.locate import local_folder


class OutOfMemory(FreeRetError, torch.OutOfMemoryError):
    """A model or a batch does not fit on its device."""

    @classmethod
    def of(cls, device: Any, action: str) -> "OutOfMemory":
        """The error of an action that needs more memory than the device has, with remedies."""
        return cls(
            f"not enough memory on {device} to {action}; use device_map='auto' "
            "(--device-map auto), quantize='4bit' (--quantize 4bit), a smaller dtype "
            "(--dtype bfloat16) or a smaller token_budget (--token-budget)"
        )


@dataclass(frozen=True)
class Pretrained:
    """The transformers objects of a backbone."""

    model: Any
    tokenizer: Any
    processor: Any
    revision: str | None


def load_pretrained(
    name: str | Path,
    loading: Loading,
    tokenizer: Any = None,
    processor: Any = None,
    quantization_config: Any = None,
    *,
    weights: bool = True,
) -> Pretrained:
    """Load an alias of an embedded backbone, a folder, or a hub id.

    Args:
        name: The alias, folder or id.
        loading: Device, dtype, quantization, …
        tokenizer: Used instead of the tokenizer that comes with the model.
        processor: Used instead of the processor that comes with the model.
        quantization_config: A quantization of transformers that `loading` does not name.
        weights: Whether to load them. Without weights, the model is a skeleton on the meta device.

    Raises:
        BackboneNotFound, FetchError, BadSetting, OutOfMemory.
    """
    device = usable_device(loading.device) if weights else torch.device("meta")
    is_alias = str(name) in embedded.ALIASES
    folder = str(embedded.ensure(str(name)) if is_alias else local_folder(name) or name)
    hub = {"revision": loading.revision} if loading.revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **hub)
        if weights:
            model = _with_weights(folder, config, loading, device, quantization_config)
        else:
            with device:
                model = _auto_class(config).from_config(config)
        processor = processor or _load_processor(folder, config, hub)
        tokenizer = tokenizer or getattr(processor, "tokenizer", None)
        tokenizer = tokenizer or transformers.AutoTokenizer.from_pretrained(folder, **hub)
    except FreeRetError:
        raise
    except torch.OutOfMemoryError as error:
        raise OutOfMemory.of(device, f"load {str(name)!r}") from error
    except Exception as error:  # transformers, tokenizers and safetensors raise many types
        raise _not_loaded(str(name), loading, error) from error
    revision = loading.revision or getattr(config, "_commit_hash", None)
    return Pretrained(getattr(model, "thinker", model), tokenizer, processor, revision)


def _with_weights(
    folder: str, config: Any, loading: Loading, device: torch.device, quantization_config: Any
) -> Any:
    dtype = _dtype(loading.dtype, config, device)
    settings = {
        "dtype": dtype,
        "device_map": _device_map(loading, device),
        "attn_implementation": loading.attn,
        "quantization_config": quantization_config or _quantization(loading.quantize, dtype),
        "revision": loading.revision,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    return _auto_class(config).from_pretrained(folder, use_safetensors=True, **settings)


def usable_device(device: str | None) -> torch.device:
    """The device of this name, by default the first GPU, else the CPU. Raises BadSetting for a
    device that this machine does not have."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        usable = torch.device(name)
        torch.empty(0, device=usable).cpu()
    except Exception as error:  # AssertionError, RuntimeError, TypeError, NotImplementedError
        raise BadSetting(f"device {device!r} cannot be used: {one_line(error)}") from None
    return usable


def _device_map(loading: Loading, device: torch.device) -> Any:
    if loading.device_map is not None:
        return loading.device_map
    return None if device.type == "cpu" else {"": str(device)}


def _dtype(name: str | None, config: Any, device: torch.device) -> torch.dtype | str:
    """The dtype of this name, by default float32 on a CPU, and on a GPU that of the checkpoint.
    Models that were published in float16 may overflow in it, so bfloat16 replaces it where the GPU
    supports it."""
    if name is not None:
        return name if name == "auto" else getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    quantised = getattr(config, "quantization_config", None) is not None  # made for one dtype
    half = not quantised and torch.float16 in _checkpoint_dtypes(config)
    return torch.bfloat16 if half and torch.cuda.is_bf16_supported() else "auto"


def _checkpoint_dtypes(config: Any) -> Iterator[Any]:
    """The dtypes that a config and its parts name."""
    for part in (config, *(getattr(config, name, None) for name in config.sub_configs)):
        dtype = getattr(part, "dtype", None)
        yield getattr(torch, dtype) if isinstance(dtype, str) else dtype


def _quantization(quantize: str, dtype: torch.dtype | str) -> Any:
    """The settings of bitsandbytes."""
    if quantize == "none":
        return None
    if quantize == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype if isinstance(dtype, torch.dtype) else torch.bfloat16,
    )


def _not_loaded(name: str, loading: Loading, error: Exception) -> BackboneNotFound:
    reason, whole = one_line(error), f"{error} {error.__cause__ or ''}"
    if re.search(r"\b(gated|401|403|restricted|access token)\b", whole, re.IGNORECASE):
        remedy = "Log in with `hf auth login` or set HF_TOKEN, if you have access to the model"
    elif isinstance(error, ImportError) and "flash" in (loading.attn or ""):
        remedy = (
            "Install its package (pip install flash-attn for flash_attention_2), or load with "
            "attn='sdpa' (--attn sdpa)"
        )
    elif isinstance(error, ImportError):
        remedy = "Install what is missing, or load without the option that needs it"
    elif Path(name).expanduser().is_dir():
        remedy = (
            "Is the folder complete, with config.json, safetensors and tokenizer? Download it again"
        )
    else:
        remedy = (
            f"Check the id; where this machine cannot reach the hub, run `hf download {name} "
            "--local-dir FOLDER` on one that can, and give FOLDER. Models that need no hub: "
            f"{', '.join(embedded.ALIASES)}"
        )
    return BackboneNotFound(f"cannot load {name!r}: {reason.rstrip('.')}. {remedy}")


def _auto_class(config: Any) -> Any:
    """The auto class for this kind of config: multimodal first, then text."""
    candidates = ("AutoModelForMultimodalLM", "AutoModelForImageTextToText", "AutoModelForCausalLM")
    for auto in (getattr(transformers, name) for name in candidates):
        if type(config) in auto._model_mapping:
            return auto
    raise BackboneNotFound(
        f"{type(config).__name__} is not the config of a model that generates text"
    )


def _load_processor(folder: str, config: Any, hub: dict) -> Any:
    if not any(
        hasattr(config, part) for part in ("vision_config", "audio_config", "thinker_config")
    ):
        return None
    return transformers.AutoProcessor.from_pretrained(folder, **hub)
