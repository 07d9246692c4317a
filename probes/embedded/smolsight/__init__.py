"""smolsight: SmolLM2-135M-Instruct, frozen, with a small vision tower of this project's own.

`model.py` builds it from stock classes, `train.py` trained it on scenes and captions, asked as in
`questions.py`. Only `weights.safetensors`, tower and projector, is kept beside this file;
MODEL_CARD.md says what they were trained on and what they can do.
"""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights.safetensors")
WEIGHTS_SHA256 = "218f77e4a99f0b4c35e0c87af0059a51b68d2ce6adb6bf70a2a60cb42c8d420e"
