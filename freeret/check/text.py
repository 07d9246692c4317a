"""Checks of text: the tokenizer against its file, open thoughts in the chat template, labels."""

import re
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers import Tokenizer

from freeret.check.line import Check, tried
from freeret.check.model import TEXTS
from probes import FRAMES, Backbone, Item
from probes.errors import UnsupportedBackbone, one_line
from probes.measure.framing import Labels
from probes.prompts import NAMED

STRINGS = (
    *TEXTS,
    *("a", "A", " a", "a ", "  a  b", "a\nb", "a\n\n\nb", "\ta\r\n", "a\u00a0b", "\u3000a"),
    *("0", "42", "007", "1234567", "3.14159", "1,000,000", "2024-11-26", "x86_64", "v2.0.1", "50%"),
    *("HELLO World", "iPhone", "ÀÉÎ", "straße", "İstanbul", "\u00e9", "e\u0301", "ﬁ", "Å", "½ ² ™"),
    *("don't", "DON'T", "we'll", "“quoted”", "a—b", "…", "a/b\\c", "<b>", "f(x) = y[0];"),
    *("#tag @me", "日本語です", "中文，测试。", "한국어", "العربية", "עברית", "हिन्दी", "ไทย"),
    *("👩\u200d👩\u200d👧 🙂", "\x00\x07"),
)  # fmt: skip
"""Texts that tokenizers treat differently: spaces, digits, case, Unicode forms, scripts."""
THOUGHT = re.compile(r"[<\[][^\s<>\[\]]*(?:think|thought|reason|channel)[^\s<>\[\]]*[>\]]", re.I)
"""A marker that opens or closes a thought, as any family writes it."""
CLOSING = re.compile(r"[<\[]\|?(?:/|end)|<channel\|>", re.I)
"""The beginning of a marker that closes a thought."""
COMPARED = "tokenizer against tokenizer.json"
CUE = "thought before the answer"


def checks(backbone: Backbone) -> list[Check]:
    """The lines about text."""
    return [
        *tried(COMPARED, lambda: [_compared(backbone)]),
        *tried(CUE, lambda: [_cue(backbone)]),
        *(_labels(backbone, name) for name in FRAMES),
    ]


def _compared(backbone: Backbone) -> Check:
    """Whether the tokenizer gives the ids of tokenizer.json: the class that tokenizer_config.json
    names may rebuild it differently."""
    file = tokenizer_file(backbone)
    if file is None:
        return Check(COMPARED, "not compared: there is no tokenizer.json")
    reference = Tokenizer.from_file(file)
    reference.no_truncation()
    reference.no_padding()
    differing = [
        text
        for text in STRINGS
        if backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        != reference.encode(text, add_special_tokens=False).ids
    ]
    if not differing:
        return Check(COMPARED, f"same ids for {len(STRINGS)} strings")
    return Check(
        COMPARED,
        f"{type(backbone.tokenizer).__name__} gives other ids for {len(differing)} of "
        f"{len(STRINGS)} strings, such as {differing[0]!r}; name the right class in "
        "tokenizer_config.json",
        "FAILED",
    )


def tokenizer_file(backbone: Backbone) -> str | None:
    """Path of the tokenizer.json that the tokenizer was loaded from, in its folder or in the cache
    of the hub; None if there is none."""
    place, revision = backbone.tokenizer.name_or_path, backbone.revision
    folder = Path(place)
    if folder.is_dir():
        file = folder / "tokenizer.json"
        return str(file) if file.is_file() else None
    try:
        cached = try_to_load_from_cache(place, "tokenizer.json", revision=revision)
    except HFValidationError:
        return None
    return cached if isinstance(cached, str) else None


def _cue(backbone: Backbone) -> Check:
    """Whether the answer begins outside a thought: states and labels are read there."""
    item = Item("Rain")
    for prompt in (NAMED["control"].apply(item), FRAMES["mcq"].apply(item, item)):
        # `wording` writes content as {text}; the cue is whatever follows the last one.
        cue = backbone.encoder.wording(prompt).rpartition("{text}")[2]
        marks = THOUGHT.findall(cue)
        if marks and not CLOSING.match(marks[-1]):
            return Check(
                CUE,
                f"{marks[-1]} is left open, and states and labels would be read inside a thought; "
                "give the tokenizer or processor a chat_template that closes it",
                "FAILED",
            )
    return Check(CUE, f"none is left open; thinking: {backbone.encoder.thinking}")


def _labels(backbone: Backbone, name: str) -> Check:
    """Whether the first tokens of a frame's labels differ."""
    try:
        labels = Labels.of(backbone, FRAMES[name])
    except UnsupportedBackbone as error:
        return Check(f"labels of {name}", one_line(error), "FAILED")
    if labels.single_token:
        return Check(f"labels of {name}", "one token each")
    return Check(f"labels of {name}", "more than one token: first tokens are read", "note")
