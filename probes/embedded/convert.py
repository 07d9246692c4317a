"""Convert a GGUF file into a folder that transformers loads in seconds."""

from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, TokenizersBackend


def convert(gguf: Path, folder: Path, splits_digits: bool) -> None:
    """Write `gguf` to `folder`: float32 safetensors, configuration and tokenizer.

    `splits_digits` says whether the tokenizer splits digits before anything else. A GGUF only names
    such a rule and transformers' reader ignores it, so it is restored here.
    """
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # The weights are dequantized at loading; these two would still declare them quantized.
    del model.config.quantization_config  # pyright: ignore[reportAttributeAccessIssue]
    model.hf_quantizer = None  # pyright: ignore[reportArgumentType]
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    _repair(tokenizer, splits_digits, model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)


def _repair(tokenizer: TokenizersBackend, splits_digits: bool, max_length: int) -> None:
    """Restore what is lost between the original tokenizer, the GGUF and transformers' reader."""
    if splits_digits:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    tokenizer.model_max_length = max_length
    # The reader makes control tokens special in the backend, but does not list them as special.
    control = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if token.special and not token.content.startswith("<unused")
    ]
    tokenizer.add_special_tokens({"extra_special_tokens": control})
