"""Train smolsight's tower and projector; the language model never changes.

    python -m probes.embedded.smolsight.train RUN_FOLDER

Two steps, both on scenes drawn as they are needed, never on a held-out combination of colour and
shape, and never on retrieval:

1. **name**: the image tokens on a thing say its colour, shape and size, and all say the
   background. The classifier is the language model's own embedding rows of those words, so the
   projector learns where words are before the language model is run at all.
2. **say**: captions, one-word captions and short answers, by cross-entropy through the frozen
   language model.

A combination that is never shown must not be learnt to be impossible: "red, so not a heart" would
pay as long as shapes are hard to see. So no loss of either step counts a word that only a held-out
combination would make right among the wrong ones.

A batch depends on the seed and its number alone. The run folder holds a log, one JSON line for
every ten batches, and a checkpoint; a run that was killed goes on from it to the same end.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import App, Parameter
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from probes.embedded import ensure
from probes.embedded.smolsight import WEIGHTS
from probes.embedded.smolsight.model import IMAGE_SIZE, TOKENS, WIDTH, build, load_trained, trained
from probes.embedded.smolsight.questions import Shown, ask
from probes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SEEN,
    SHAPES,
    SIZES,
    Clip,
    Placement,
    Scene,
    random_clip,
    random_scene,
)

VOCABULARY = (tuple(COLOURS), SHAPES, tuple(SIZES), tuple(BACKGROUNDS))
SHOWN = torch.tensor([[(colour, shape) in SEEN for shape in SHAPES] for colour in COLOURS])
IGNORED = -100
FRAMES = 4
WORD_WEIGHT = 5.0
"""What a one-word caption weighs, in tokens of a caption."""


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train. Rates are peaks of a one-cycle schedule."""

    seed: int = 0
    name_batches: int = 1000
    name_scenes: int = 64
    name_rate: float = 2e-3
    say_batches: int = 700
    say_scenes: int = 12
    say_rate: float = 5e-4
    tower_rate: float = 1e-4


def pixels(pictures: list[Image.Image]) -> Tensor:
    """[N, 3, 64, 64] in [-1, 1], as the image processor makes them from pictures of that size."""
    stacked = np.stack([np.asarray(picture) for picture in pictures])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


@dataclass
class Names:
    """What is to be named in N pictures of up to three things.

    `where` [N, 3, 16] the tokens that show each thing; `words` [N, 3, 3] its colour, shape and
    size, as places in VOCABULARY, IGNORED without a thing; `background` [N].
    """

    where: Tensor
    words: Tensor
    background: Tensor


def spots(placed: list[Placement]) -> Tensor:
    """[things, 16]: which tokens show each thing, in painting order; a token shows at most one."""
    side = int(TOKENS**0.5)
    middles = (torch.arange(side) + 0.5) / side
    x, y = middles.repeat(side), middles.repeat_interleave(side)
    apart = torch.stack([torch.maximum((x - p.x).abs(), (y - p.y).abs()) for p in placed])
    radii = torch.tensor([[p.radius] for p in placed])
    reached = apart <= radii + 0.5 / side
    owner = apart.masked_fill(~reached, torch.inf).argmin(0)
    for i, place in enumerate(placed):  # what lies on top is what is seen there
        owner[apart[i] <= max(0.7 * place.radius, 0.51 / side)] = i
    return reached & (owner == torch.arange(len(placed))[:, None])


def names(scenes: list[Scene], seeds: list[float]) -> Names:
    """What there is to name in the renderings of scenes by these seeds."""
    where = torch.zeros(len(scenes), 3, TOKENS, dtype=torch.bool)
    words = torch.full((len(scenes), 3, 3), IGNORED)
    for n, (scene, seed) in enumerate(zip(scenes, seeds, strict=True)):
        shown = spots(scene.layout(Random(seed))).flip(0)
        where[n, : len(shown)] = shown
        for i, thing in enumerate(scene.things):
            if shown[i].any():
                said = zip(VOCABULARY, (thing.colour, thing.shape, thing.size), strict=False)
                words[n, i] = torch.tensor([words.index(word) for words, word in said])
    grounds = torch.tensor([VOCABULARY[3].index(scene.background) for scene in scenes])
    return Names(where, words, grounds)


def name_batch(settings: Settings, number: int) -> tuple[Tensor, Names]:
    """Pixels [N, 3, 64, 64] of batch `number`, and what to name in them.

    Pictures of one thing come first; halfway there are no more of them than in any random scenes.
    """
    rng = Random(f"name {settings.seed} {number}")
    alone = 1 - 2 * number / settings.name_batches
    scenes = []
    for _ in range(settings.name_scenes):
        scene = random_scene(rng, SEEN)
        if rng.random() < alone:
            scene = Scene(scene.things[:1], None, scene.background)
        scenes.append(scene)
    seeds = [rng.random() for _ in scenes]
    pictures = [s.draw(IMAGE_SIZE, Random(x)) for s, x in zip(scenes, seeds, strict=True)]
    return pixels(pictures), names(scenes, seeds)


def name_loss(
    features: Tensor, tokens: Tensor, rows: list[Tensor], classifier: nn.Module, named: Names
) -> Tensor:
    """Cross-entropy of what tower features [N, 16, W] and image tokens [N, 16, H] say.

    Tokens are scored by the product with the embedding rows of the words; the token that says a
    word loudest speaks for its thing, and all say the background. The largest features of a thing
    are named by `classifier` too, which learns shapes sooner. A colour competes only with those
    shown in the same shape, a shape only with those shown in the same colour.
    """
    *told, ground = (2 * (tokens @ words.T) for words in rows)
    losses = [cross_entropy(ground.mean(1), named.background)]
    elsewhere = ~named.where[..., None]
    largest = features[:, None].masked_fill(elsewhere, -1e4).amax(2)
    direct = classifier(largest).split([len(words) for words in VOCABULARY[:3]], -1)
    for i, (scores, own) in enumerate(zip(told, direct, strict=True)):
        shown = torch.tensor(True)
        if i < 2:
            shown = (SHOWN.T, SHOWN)[i][named.words[..., 1 - i].clamp_min(0)]
        for said in (scores[:, None].masked_fill(elsewhere, -1e4).amax(2), own):
            rivals = said.masked_fill(~shown, -torch.inf)
            losses.append(cross_entropy(rivals.flatten(0, 1), named.words[..., i].flatten()))
    return torch.stack(losses).sum() + 0.002 * tokens.square().sum(-1).mean()


@dataclass
class Pack:
    """Scenes in one row, nothing padded: of each the media once, then each question as a branch
    that sees only them.

    `ids` and `positions` [1, T], `sees` [1, 1, T, T], `pictures` [N, 3, 64, 64]; answer i is token
    `answers[i]`, to be said at `where[i]`, and weighs `weights[i]`; it does not compete with token
    `k` where `[i, k]` is a row of `spared`.
    """

    ids: Tensor
    positions: Tensor
    sees: Tensor
    pictures: Tensor
    where: Tensor
    answers: Tensor
    weights: Tensor
    spared: Tensor


def pack(
    examples: list[tuple[Shown, list[Image.Image], Random]], processor: LlavaProcessor
) -> Pack:
    """Put questions to examples (what is shown, its pictures, where the questions come from)."""
    tokenizer, end = processor.tokenizer, processor.tokenizer.eos_token

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    ids: list[int] = []
    positions: list[int] = []
    owners: list[tuple[int, int]] = []  # (example, branch), branch 0 being what all branches see
    said: list[tuple[int, int, float]] = []
    spared: list[tuple[int, int]] = []
    for example, (shown, pictures, rng) in enumerate(examples):
        before, branches = ask(shown, rng)
        opening = f"<|im_start|>user\n{before}{processor.image_token * TOKENS * len(pictures)}"
        shared = encode(opening)
        ids += shared
        positions += range(len(shared))
        owners += [(example, 0)] * len(shared)
        first = len(said)
        for number, branch in enumerate(branches, start=1):
            question = f"{branch.user}{end}\n<|im_start|>assistant\n{branch.prefill}"
            asked = encode(question)
            start = len(ids) + len(asked) - 1
            answer: list[int] = []
            if len(branch.answers) > 1:
                weight = WORD_WEIGHT / len(branch.answers)
                said += [(start, encode(word)[0], weight) for word in branch.answers]
            else:
                answer = encode(branch.answers[0] + end)
                said += [(start + i, token, 1.0) for i, token in enumerate(answer)]
            added = asked + answer[:-1]
            ids += added
            positions += range(len(shared), len(shared) + len(added))
            owners += [(example, number)] * len(added)
        rivals = {encode(form)[0] for word in never_shown(shown) for form in forms(word)}
        rivals -= {token for _, token, _ in said[first:]}
        spared += [(i, word) for i in range(first, len(said)) for word in sorted(rivals)]

    scene, branch = torch.tensor(owners).T
    mine = (scene[:, None] == scene) & ((branch == 0) | (branch[:, None] == branch))
    where, answers, weights = (torch.tensor(column) for column in zip(*said, strict=True))
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        mine.tril()[None, None],
        pixels([picture for _, shown, _ in examples for picture in shown]),
        where,
        answers,
        weights,
        torch.tensor(spared).reshape(-1, 2),
    )


def never_shown(shown: Shown) -> list[str]:
    """Shapes that are held out in a colour that is here."""
    scene = shown.scene if isinstance(shown, Clip) else shown
    colours = {thing.colour for thing in scene.things}
    return [shape for colour, shape in HELD_OUT if colour in colours]


def forms(shape: str) -> tuple[str, ...]:
    """How a shape begins an answer or goes on in one."""
    return shape, f" {shape}", f" {shape}{'es' if shape == 'cross' else 's'}"


def say_batch(settings: Settings, number: int, processor: LlavaProcessor) -> Pack:
    """Batch `number` of step 2; every fifth is clips, of which there are a third as many."""
    rng = Random(f"say {settings.seed} {number}")
    examples = []
    if number % 5 == 4:
        for _ in range(settings.say_scenes // 3):
            clip = random_clip(rng, SEEN)
            examples.append((clip, clip.frames(FRAMES, IMAGE_SIZE, rng), rng))
    else:
        for _ in range(settings.say_scenes):
            scene = random_scene(rng, SEEN)
            examples.append((scene, [scene.draw(IMAGE_SIZE, rng)], rng))
    return pack(examples, processor)


def say_loss(model: LlavaForConditionalGeneration, batch: Pack) -> Tensor:
    """Weighted mean cross-entropy of the answers."""
    hidden = model.model(
        input_ids=batch.ids,
        pixel_values=batch.pictures,
        attention_mask=batch.sees,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[0, batch.where])
    logits = logits.index_put(tuple(batch.spared.T), torch.tensor(-torch.inf))
    losses = cross_entropy(logits, batch.answers, reduction="none")
    return (losses * batch.weights).sum() / batch.weights.sum()


class Run:
    """A folder with the log and the last checkpoint of one training."""

    def __init__(self, folder: Path, settings: Settings):
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.log_file, self.checkpoint = folder / "log.jsonl", folder / "checkpoint.pt"
        self.started = time.time()

    def resume(self, model: LlavaForConditionalGeneration) -> dict:
        """The state to go on from, its weights already in the model; {} at the very start."""
        if not self.checkpoint.exists():
            self.log_file.write_text(json.dumps(asdict(self.settings)) + "\n")
            return {}
        state = torch.load(self.checkpoint, weights_only=True)
        if state["settings"] != asdict(self.settings):
            raise ValueError(f"{self.checkpoint} was made with {state['settings']}")
        load_trained(model, state["weights"])
        first, *lines = self.log_file.read_text().splitlines()
        done = (state["step"], state["batch"])
        kept = [x for x in lines if (json.loads(x)["step"], json.loads(x)["batch"]) <= done]
        self.log_file.write_text("\n".join([first, *kept]) + "\n")
        return state

    def save(self, model: LlavaForConditionalGeneration, **state: object) -> None:
        """Replace the checkpoint in one move."""
        fresh = self.checkpoint.with_suffix(".new")
        weights = {name: tensor.clone() for name, tensor in trained(model).items()}
        torch.save({"settings": asdict(self.settings), "weights": weights, **state}, fresh)
        fresh.replace(self.checkpoint)

    def log(self, **line: object) -> None:
        with self.log_file.open("a") as lines:
            lines.write(json.dumps({**line, "seconds": round(time.time() - self.started)}) + "\n")


def optimise(
    run: Run,
    model: LlavaForConditionalGeneration,
    state: dict,
    step: str,
    count: int,
    groups: list[dict],
    loss_of: Callable[[int], Tensor],
    scaffold: nn.Module,
) -> None:
    """Run batches `state["batch"]`… of one step with AdamW and a one-cycle schedule.

    `scaffold` is learnt in this step and thrown away after it.
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


def train(run: Run, language_folder: Path) -> LlavaForConditionalGeneration:
    """Both steps, from wherever the run stands."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    model, processor = build(language_folder, weights=None)
    model.requires_grad_(False)
    tower, projector = model.model.vision_tower, model.model.multi_modal_projector
    tower.requires_grad_(True)
    projector.requires_grad_(True)
    state = run.resume(model)

    if state.get("step") != "say":
        table: Any = model.get_input_embeddings()
        embeddings = table.weight.detach()
        rows = [
            torch.stack([embeddings[processor.tokenizer(f" {w}").input_ids[0]] for w in words])
            for words in VOCABULARY
        ]
        tower.train()
        classifier = nn.Linear(WIDTH, sum(len(words) for words in VOCABULARY[:3]))

        def name(number: int) -> Tensor:
            pictures, named = name_batch(settings, number)
            features = tower(pictures, output_hidden_states=True).hidden_states[-1]
            return name_loss(features, projector(features), rows, classifier, named)

        learning = [tower, projector, classifier]
        optimise(
            run, model, state, "name", settings.name_batches,
            [{"params": [p for m in learning for p in m.parameters()], "lr": settings.name_rate}],
            name, classifier,
        )  # fmt: skip
    # The moments stay; a whole LeViT at rest would keep its attention biases, graph and all.
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


app = App(help=__doc__)


@app.default
def main(folder: Path, settings: Annotated[Settings, Parameter(name="*")] = Settings()) -> None:
    """Train in `folder`, go on if it was begun, and write weights.safetensors there at the end."""
    model = train(Run(folder, settings), ensure("smollm2-135m"))
    save_file({name: t.contiguous() for name, t in trained(model).items()}, folder / WEIGHTS.name)


if __name__ == "__main__":
    app()
