"""smolsight: SmolLM2-135M-Instruct, frozen, with a small vision tower of this project.

`model.py` builds it from stock classes. `weights.safetensors` holds the tower and the projector,
which `scripts/smolsight/` of the repository trained; MODEL_CARD.md describes the training data and
the capabilities.
"""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights.safetensors")
WEIGHTS_SHA256 = "218f77e4a99f0b4c35e0c87af0059a51b68d2ce6adb6bf70a2a60cb42c8d420e"
