"""What to run before deploying a new backbone: does it compute what the method needs?"""

from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from tokenizers import Tokenizer

from freeret.sizing import tokens_per_second
from probes import FRAMES, Backbone, Item, record
from probes.errors import FreeRetError, one_line
from probes.framing import Labels
from probes.prefix import Prefix, common_prefix, share_error
from probes.prompts import NAMED

TEXTS = (
    "A dog sleeps.",
    "The committee postponed its decision until the following spring.",
    "Rain",
)
STRINGS = (
    *TEXTS,
    *("a", "A", " a", "a ", "  a  b", "a\nb", "a\n\n\nb", "\ta\r\n", "a\u00a0b", "\u3000a"),
    *("0", "42", "007", "1234567", "3.14159", "1,000,000", "2024-11-26", "x86_64", "v2.0.1", "50%"),
    *("HELLO World", "iPhone", "ÀÉÎ", "straße", "İstanbul", "\u00e9", "e\u0301", "ﬁ", "Å", "½ ² ™"),
    *(
        "don't",
        "DON'T",
        "we'll",
        "“quoted”",
        "a—b",
        "…",
        "a/b\\c",
        "<b>",
        "f(x) = y[0];",
        "#tag @me",
    ),
    *(
        "日本語です",
        "中文，测试。",
        "한국어",
        "العربية",
        "עברית",
        "हिन्दी",
        "ไทย",
        "👩‍👩‍👧 🙂",
        "\x00\x07",
    ),
)
"""What tokenizers treat differently: spaces, digits, case, Unicode forms, punctuation, scripts."""


@dataclass(frozen=True)
class Check:
    """One line of the table: what was looked at, what was found, whether it is as it must be."""

    what: str
    found: str
    passed: bool


def check(backbone: Backbone) -> list[Check]:
    """Anatomy, its numeric confirmation, padding invariance, shared prefix, throughput, labels."""
    anatomy = backbone.anatomy
    checks = [
        Check("layers", f"{anatomy.num_layers} at {anatomy.layers}", True),
        Check("attn[l] enters", f"{anatomy.layers}.l.{anatomy.mid}", True),
        Check("final norm, LM head", f"{anatomy.norm}, {anatomy.head}", True),
        Check("mid = in + attention", f"error {anatomy.residual_error:.1e}", True),
        Check("out = mid + MLP", f"error {anatomy.output_error:.1e}", True),
        *(Check("note", note, True) for note in anatomy.notes),
        Check("logits = head(norm)", f"error {anatomy.logit_error:.1e}", True),
        _weights(backbone),
        _tokenizer(backbone),
        _padding(backbone),
        _prefix(backbone),
        _throughput(backbone),
    ]
    return [*checks, *(_labels(backbone, name) for name in FRAMES)]


def _weights(backbone: Backbone) -> Check:
    """Offloaded weights must be readable outside a forward too: a store is identified by them."""
    weights = list(backbone.model.parameters())
    offloaded = sum(weight.is_meta for weight in weights)
    try:
        found = backbone.fingerprint()["weights"]
    except FreeRetError as error:
        return Check("weights", one_line(error), False)
    return Check("weights", f"{found}, {offloaded} of {len(weights)} offloaded", True)


def _tokenizer(backbone: Backbone) -> Check:
    """The class named in tokenizer_config.json may rebuild what tokenizer.json says otherwise."""
    what, file = "tokenizer against tokenizer.json", tokenizer_file(backbone)
    if file is None:
        return Check(what, "not compared: there is no tokenizer.json", True)
    written = Tokenizer.from_file(file)
    written.no_truncation()
    written.no_padding()
    differ = [
        text
        for text in STRINGS
        if backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        != written.encode(text, add_special_tokens=False).ids
    ]
    if not differ:
        return Check(what, f"same ids for {len(STRINGS)} strings", True)
    return Check(
        what,
        f"{type(backbone.tokenizer).__name__} gives other ids for {len(differ)} of {len(STRINGS)} "
        f"strings, such as {differ[0]!r}; name the right class in tokenizer_config.json",
        False,
    )


def tokenizer_file(backbone: Backbone) -> str | None:
    """The tokenizer.json that the tokenizer was loaded from, in its folder or in the cache of the
    hub; None where there is none."""
    place, revision = backbone.tokenizer.name_or_path, backbone.revision
    folder = Path(place)
    if folder.is_dir():
        file = folder / "tokenizer.json"
        return str(file) if file.is_file() else None
    try:
        found = try_to_load_from_cache(place, "tokenizer.json", revision=revision)
    except HFValidationError:
        return None
    return found if isinstance(found, str) else None


def _padding(backbone: Backbone) -> Check:
    sources = [NAMED["prompteol"].apply(Item(text)) for text in TEXTS]
    together = record(backbone, backbone.encode(sources), ["attn[-1]"])["attn[-1]"].float()
    alone = torch.cat(
        [record(backbone, backbone.encode([s]), ["attn[-1]"])["attn[-1]"].float() for s in sources]
    )
    error = ((together - alone).norm(dim=-1) / alone.norm(dim=-1)).max().item()
    limit = 1e-5 if backbone.dtype == torch.float32 else 0.02
    return Check("padded batch against single rows", f"relative error {error:.1e}", error <= limit)


def _prefix(backbone: Backbone) -> Check:
    reason = share_error(backbone)
    if reason:
        return Check("shared prefix", f"not used: {reason}", True)
    rows = [backbone.row(NAMED["prompteol"].apply(Item(text))) for text in TEXTS]
    shared = Prefix(backbone, common_prefix(rows)).collate(rows)
    states = [
        record(backbone, b, ["attn[-1]"])["attn[-1]"] for b in (shared, backbone.collate(rows))
    ]
    error = ((states[0] - states[1]).norm(dim=-1) / states[1].norm(dim=-1)).max().item()
    limit = 1e-4 if backbone.dtype == torch.float32 else 0.05
    return Check("shared prefix against whole rows", f"relative error {error:.1e}", error <= limit)


def _throughput(backbone: Backbone) -> Check:
    found = f"{tokens_per_second(backbone):.0f} tokens/s on {backbone.device}, {backbone.dtype}"
    return Check("stage 1 throughput", found.replace("torch.", ""), True)


def _labels(backbone: Backbone, name: str) -> Check:
    labels = Labels.of(backbone, FRAMES[name])
    found = (
        "one token each" if labels.single_token else "more than one token: first tokens are read"
    )
    return Check(f"labels of {name}", found, labels.single_token)
