"""Which multimodal families of the installed transformers work, tried on tiny random models.

    python scripts/families.py > docs/families.md

Every class that transformers keeps for multimodal language models is made small and loaded. Those
that the tests' zoo builds with their processors are given text, a picture, a film and a sound;
the others text only. Regenerate the table for a new release of transformers.
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
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
import transformers as hf
from models import MULTIMODAL, build, tokenizer
from samples import film, picture, sound
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from zoo import UNREAD, ZOO
from zoo.building import TEXT_SIZES, TOWER_SIZES, shrunk

from probes import Backbone, Item, record
from probes.errors import FreeRetError, one_line

LARGEST = 30_000_000
"""Parameters of a model that is still built."""
THINKERS = {"qwen2_5_omni": "qwen2_5_omni_thinker", "qwen3_omni_moe": "qwen3_omni_moe_thinker"}
"""Families of which FreeRet loads the part that reads."""
SOUNDS = {
    "image": {"images": [picture()]},
    "video": {"videos": [film()]},
    "audio": {"audios": [sound()]},
}
TEXT_PARTS = ("text_config", "decoder")
DIGITS = re.compile(r",? ?\(?relative error [^\s;),]+\)?")
"""What differs from machine to machine."""

# What the sizes of the zoo do not make consistent.
SETTINGS: dict[str, dict[str, Any]] = {}


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    hf.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    built = {type(model): (model, reader) for model, reader in zoo()}
    rows = []
    for kind, name in sorted(MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.items()):
        known = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[THINKERS.get(kind, kind)]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            status, detail = outcome(kind, getattr(hf, known), built)
        rows.append((kind, name, status, detail.replace("|", r"\|")))
    counts = {status: [row[2] for row in rows].count(status) for status in STATUSES}
    print(HEADER.format(version=hf.__version__, total=len(rows), **counts))
    print("| model_type | class | | |\n|---|---|---|---|")
    for kind, name, status, detail in rows:
        print(f"| {kind} | `{name}` | {STATUSES[status]} | {detail} |")


STATUSES = {
    "works": "works",
    "text": "works for text",
    "refused": "refused",
    "untried": "not tried",
}
HEADER = """# Multimodal families

transformers {version}, {total} classes: {works} work with their media, {text} with text, {refused}
are refused when they are loaded, {untried} were not tried. Made by `python scripts/families.py >
docs/families.md` on tiny random models of the real classes; a real model's weights are confirmed by
`freeret check MODEL`.

*works*: text and the kinds named were read, by the real processor. *works for text*: the residual
stream is found and confirmed; media were not tried, or fail for the reason given. *refused*:
loading raises `UnsupportedBackbone` with the reason given. *not tried*: no tiny model could be
made, for the reason given.
"""


def zoo() -> list[tuple[Any, Any]]:
    return [builder() for builder in (MULTIMODAL | ZOO | UNREAD).values()]


def outcome(kind: str, architecture: Any, built: Mapping[Any, Any]) -> tuple[str, str]:
    """A family's status, and the kinds that it reads or the reason."""
    if architecture in built:
        model, processor = built[architecture]
    else:
        processor = None
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
        return "refused", DIGITS.sub("", one_line(error)).removeprefix(f"{type(model).__name__}: ")
    if processor is None:
        return "text", "media not tried"
    return media(backbone)


def media(backbone: Backbone) -> tuple[str, str]:
    """What a backbone reads beside text."""
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
    """A config and its parts, all small."""
    parts = {
        name: shrunken(
            getattr(config, name),
            TEXT_SIZES if name in TEXT_PARTS else TOWER_SIZES,
            settings.get(name, {}),
        )
        for name in type(config).sub_configs
        if hasattr(getattr(config, name, None), "to_dict")
    }
    given = {name: value for name, value in settings.items() if name not in parts}
    return shrunk(config, sizes, **parts | given)


if __name__ == "__main__":
    main()
