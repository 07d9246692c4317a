"""Train smolsight's scene tower; the language model is frozen.

    PYTHONPATH=scripts python -m smolsight.train RUN_FOLDER

Run it in the repository's root, or without PYTHONPATH in scripts/: the scripts are not part of the
installed package. They write RUN_FOLDER/weights.safetensors, which lacks what concepts.py teaches
the rest of the tower; to ship what that writes, copy it to probes/embedded/smolsight/ and set
WEIGHTS_SHA256 there.

Training has two steps, both on scenes generated on the fly, never on a held-out combination of
colour and shape, and never on retrieval:

1. **name** (`naming.py`): the image tokens on a thing name its colour, shape and size, and all
   tokens name the background. The classifier is the language model's own embedding rows of those
   words, so the projector is aligned with them before the language model is run at all.
2. **say** (`saying.py`): captions, one-word captions and short answers, by cross-entropy through
   the frozen language model.

The model must not learn that a combination is impossible because it is never shown: "red, so not a
heart" would pay as long as shapes are hard to see. So neither loss counts a word as wrong that only
a held-out combination would make right.

A batch depends on the seed and its number alone. The run folder holds a log, one JSON line per ten
batches, and a checkpoint; an interrupted run resumes from it and ends with the same weights.
training.jsonl, beside this file, is the log of the weights that are shipped.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, Parameter
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from probes.embedded import ensure
from probes.embedded.smolsight import WEIGHTS
from probes.embedded.smolsight.model import build, load_trained, tower_of, trained
from probes.embedded.smolsight.tower import SCENE_WIDTH
from smolsight.naming import VOCABULARY, name_batch, name_loss
from smolsight.saying import say_batch, say_loss
from smolsight.settings import Settings


class TrainingRun:
    """A folder with the log and the last checkpoint of a training run."""

    def __init__(self, folder: Path, settings: Settings):
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.log_file, self.checkpoint = folder / "log.jsonl", folder / "checkpoint.pt"
        self.started = time.time()

    def resume(self, model: LlavaForConditionalGeneration) -> dict:
        """The state of the checkpoint, its weights loaded into the model; {} for a new run."""
        if not self.checkpoint.exists():
            self.log_file.write_text(json.dumps(asdict(self.settings)) + "\n")
            return {}
        state = torch.load(self.checkpoint, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} was made with {state['settings']}")
        load_trained(model, state["weights"])
        first, *lines = self.log_file.read_text().splitlines()
        position = (state["step"], state["batch"])
        past = [x for x in lines if (json.loads(x)["step"], json.loads(x)["batch"]) <= position]
        self.log_file.write_text("\n".join([first, *past]) + "\n")
        return state

    def save(self, model: LlavaForConditionalGeneration, **state: object) -> None:
        """Replace the checkpoint atomically."""
        fresh = self.checkpoint.with_suffix(".new")
        weights = {name: tensor.clone() for name, tensor in trained(model).items()}
        torch.save({"settings": asdict(self.settings), "weights": weights, **state}, fresh)
        fresh.replace(self.checkpoint)

    def log(self, **line: object) -> None:
        with self.log_file.open("a") as lines:
            lines.write(json.dumps({**line, "seconds": round(time.time() - self.started)}) + "\n")


def optimise(
    run: TrainingRun,
    model: LlavaForConditionalGeneration,
    state: dict,
    step: str,
    count: int,
    groups: list[dict],
    loss_of: Callable[[int], Tensor],
    scaffold: nn.Module,
) -> None:
    """Run the remaining batches of one step, with AdamW and a one-cycle schedule.

    Args:
        run: Folder of the log and the checkpoint.
        model: The model to train.
        state: The checkpoint to resume from; of another step or empty, the step starts anew.
        step: Name of the step.
        count: Number of batches.
        groups: Parameter groups of the optimiser, with their peak learning rates.
        loss_of: Loss of a batch, by its number.
        scaffold: A module that is learnt in this step and discarded after it.
    """
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02)
    rates = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rates, count, pct_start=0.1)
    first = 0
    if state.get("step") == step:
        first = state["batch"]
        scaffold.load_state_dict(state["scaffold"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
    parameters = [parameter for group in groups for parameter in group["params"]]
    recent = []
    for number in range(first, count):
        loss = loss_of(number)
        optimiser.zero_grad()
        torch.autograd.backward(loss)  # Tensor.backward is nnsight's once that is imported
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        recent.append(loss.item())
        if (number + 1) % 10 == 0:
            run.log(step=step, batch=number + 1, loss=round(sum(recent) / len(recent), 4))
            recent.clear()
        if (number + 1) % 25 == 0 or number + 1 == count:
            run.save(
                model,
                step=step,
                batch=number + 1,
                scaffold=scaffold.state_dict(),
                optimiser=optimiser.state_dict(),
                schedule=schedule.state_dict(),
            )


def train(run: TrainingRun, language_folder: Path) -> LlavaForConditionalGeneration:
    """Run both steps from the last checkpoint, and return the trained model."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    model, processor = build(language_folder, trunk=None, weights=None)
    model.requires_grad_(False)
    take_for_scenes(model)
    scenes = tower_of(model).scenes.requires_grad_(True)
    tower, projector = scenes.levit, scenes.projector
    state = run.resume(model)

    if state.get("step") != "say":
        table: Any = model.get_input_embeddings()
        embeddings = table.weight.detach()
        rows = [
            torch.stack([embeddings[processor.tokenizer(f" {w}").input_ids[0]] for w in words])
            for words in VOCABULARY
        ]
        tower.train()
        classifier = nn.Linear(SCENE_WIDTH, sum(len(words) for words in VOCABULARY[:3]))

        def name(number: int) -> Tensor:
            pictures, named = name_batch(settings, number)
            features = scenes.features(pictures)
            return name_loss(features, projector(features), rows, classifier, named)

        learning = [tower, projector, classifier]
        optimise(
            run, model, state, "name", settings.name_batches,
            [{"params": [p for m in learning for p in m.parameters()], "lr": settings.name_rate}],
            name, classifier,
        )  # fmt: skip
    # Batch statistics are frozen one by one: LeViT in eval mode caches its attention biases with
    # their graph.
    tower.train()
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eval()
    optimise(
        run, model, state, "say", settings.say_batches,
        [
            {"params": list(projector.parameters()), "lr": settings.say_rate},
            {"params": list(tower.parameters()), "lr": settings.tower_rate},
        ],
        lambda number: say_loss(model, say_batch(settings, number, processor)), nn.Identity(),
    )  # fmt: skip
    return model


def take_for_scenes(model: LlavaForConditionalGeneration) -> None:
    """Let the tower take every picture for a drawn scene, until concepts.py teaches it to tell."""
    is_scene = tower_of(model).is_scene
    nn.init.zeros_(is_scene.weight)
    nn.init.constant_(is_scene.bias, 20)


app = App(help=__doc__)


@app.default
def main(folder: Path, settings: Annotated[Settings | None, Parameter(name="*")] = None) -> None:
    """Train in `folder`, resuming a run that was begun there, and write weights.safetensors."""
    model = train(TrainingRun(folder, settings or Settings()), ensure("smollm2-135m"))
    save_file({name: t.contiguous() for name, t in trained(model).items()}, folder / WEIGHTS.name)


if __name__ == "__main__":
    app()
