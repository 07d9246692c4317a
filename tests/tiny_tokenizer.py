"""A byte-level tokenizer with a small vocabulary, and chat templates for it."""

from typing import Any

import transformers as hf
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

LABELS = ("A", "B", "C", "D", "Yes", "No", "True", "False", "Right", "Wrong")


WORDS = ("assistant", "system", "summary", "image", "user", "the", "word", "one", "of")


def tokenizer(
    *, chat: bool = True, bos: str | None = None, special: tuple[str, ...] = (), **named: str
) -> Any:
    """A byte-level BPE tokenizer in which `LABELS` and `WORDS` are one token each.

    Each of them is one token with and without a leading space; anything else falls apart into
    bytes. `special` adds special tokens; `named` does too, and gives each the attribute
    (`image_token="<image>"` makes `.image_token` and `.image_token_id`). `bos` is a first token
    that the tokenizer itself adds. Without `chat` there is no chat template, as in a base model.
    """
    merges: dict[tuple[str, str], None] = {}
    for word in LABELS + WORDS:
        merges |= {(word[:i], word[i]): None for i in range(1, len(word))}
    merges |= {("Ġ", word): None for word in LABELS + WORDS}
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    if bos:
        backend.add_special_tokens([bos])
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", *special],
        model_specific_special_tokens=named,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template=chatml() if chat else None,
    )


def template(turn: str, cue: str, start: str = "", **media: str) -> str:
    """A Jinja chat template: every turn as `turn`, where `CONTENT` is the message's content.

    Content is a string, or a list of parts in order: text as it is, `media[type]` for the others.
    `start` opens the conversation, `cue` the assistant's reply.
    """
    parts = "".join(
        f"{{%- elif part['type'] == '{kind}' %}}{{{{- {mark!r} }}}}" for kind, mark in media.items()
    )
    content = (
        "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
        "{%- for part in message['content'] %}"
        "{%- if part['type'] == 'text' %}{{- part['text'] }}" + parts + "{%- endif %}"
        "{%- endfor %}{%- endif %}"
    )
    turns = "{%- for message in messages %}" + turn.replace("CONTENT", content) + "{%- endfor %}"
    return start + turns + f"{{%- if add_generation_prompt %}}{{{{- {cue!r} }}}}{{%- endif %}}"


def chatml(**media: str) -> str:
    """The ChatML template: Qwen, InternVL, LLaVA-OneVision, SmolLM2."""
    turn = "{{- '<|im_start|>' + message['role'] + '\n' }}CONTENT{{- '<|im_end|>\n' }}"
    return template(turn, cue="<|im_start|>assistant\n", **media)
