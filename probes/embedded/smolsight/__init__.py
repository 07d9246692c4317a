"""smolsight: SmolLM2-135M-Instruct, frozen, with a small vision tower of this project's own.

`model.py` builds it from stock classes, `train.py` trained it on scenes and captions, asked as in
`questions.py`. Only `weights.safetensors`, tower and projector, is kept beside this file;
MODEL_CARD.md says what they were trained on and what they can do.
"""

from pathlib import Path

WEIGHTS = Path(__file__).with_name("weights.safetensors")
WEIGHTS_SHA256 = "e0e9dd79233182ff923d12689c7ca00b1bf533d88aaf5fb389aeffab2463f2bb"
