"""smolsight: SmolLM2-135M-Instruct, frozen, with a small vision tower of this project.

`model.py` builds it from stock classes. `weights.safetensors` holds the tower and the projector,
which `scripts/smolsight/` of the repository trained; MODEL_CARD.md describes the training data and
the capabilities.
"""

from pathlib import Path

CONCEPTS = Path(__file__).with_name("concepts.json")
"""Names of the concepts, in the order of the classifier: the first 1,000 are ImageNet's classes."""
WEIGHTS = Path(__file__).with_name("weights.safetensors")
WEIGHTS_SHA256 = "6c9d82ebca1778528f728f72e07a3e0c0f9203d0a5e3d214fd496672864d49c4"
