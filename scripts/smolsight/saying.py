"""Second training step: captions and answers, through the frozen language model."""

from dataclasses import dataclass
from random import Random

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from probes.embedded.smolsight.model import pixels
from probes.embedded.smolsight.tower import IMAGE_SIZE, TOKENS
from probes.scenes.generator import HELD_OUT, SEEN, Clip, random_clip, random_scene
from smolsight.questions import Shown, ask
from smolsight.settings import Settings

FRAMES = 4
WORD_WEIGHT = 5.0
"""Weight of a one-word caption, in tokens of a caption."""


@dataclass
class Pack:
    """Scenes packed into one row without padding: the media of each once, followed by its
    questions as branches that attend to the media and to themselves only.

    `ids` and `positions` [1, T], `sees` (attention mask) [1, 1, T, T], `pictures` [N, 3, 224, 224].
    Target i is token `answers[i]`, predicted at position `where[i]` with weight `weights[i]`; it
    does not compete with token `k` where `[i, k]` is a row of `spared`.
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
    """Pack examples with questions; each is a scene or clip, its pictures, and a generator."""
    tokenizer, end = processor.tokenizer, processor.tokenizer.eos_token

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False).input_ids

    ids: list[int] = []
    positions: list[int] = []
    owners: list[tuple[int, int]] = []  # (example, branch); all branches see branch 0
    targets: list[tuple[int, int, float]] = []
    spared: list[tuple[int, int]] = []
    for example, (shown, pictures, rng) in enumerate(examples):
        before, branches = ask(shown, rng)
        opening = f"<|im_start|>user\n{before}{processor.image_token * TOKENS * len(pictures)}"
        shared = encode(opening)
        ids += shared
        positions += range(len(shared))
        owners += [(example, 0)] * len(shared)
        first = len(targets)
        for number, branch in enumerate(branches, start=1):
            question = f"{branch.user}{end}\n<|im_start|>assistant\n{branch.prefill}"
            prompt = encode(question)
            start = len(ids) + len(prompt) - 1
            answer: list[int] = []
            if len(branch.answers) > 1:
                weight = WORD_WEIGHT / len(branch.answers)
                targets += [(start, encode(word)[0], weight) for word in branch.answers]
            else:
                answer = encode(next(iter(branch.answers)) + end)
                targets += [(start + i, token, 1.0) for i, token in enumerate(answer)]
            added = prompt + answer[:-1]
            ids += added
            positions += range(len(shared), len(shared) + len(added))
            owners += [(example, number)] * len(added)
        rivals = {encode(form)[0] for word in never_shown(shown) for form in forms(word)}
        rivals -= {token for _, token, _ in targets[first:]}
        spared += [(i, word) for i in range(first, len(targets)) for word in sorted(rivals)]

    scene, branch = torch.tensor(owners).T
    sees = (scene[:, None] == scene) & ((branch == 0) | (branch[:, None] == branch))
    where, answers, weights = (torch.tensor(column) for column in zip(*targets, strict=True))
    return Pack(
        torch.tensor([ids]),
        torch.tensor([positions]),
        sees.tril()[None, None],
        pixels([picture for _, shown, _ in examples for picture in shown]),
        where,
        answers,
        weights,
        torch.tensor(spared).reshape(-1, 2),
    )


def never_shown(shown: Shown) -> list[str]:
    """Shapes that are held out in one of the colours of this scene."""
    scene = shown.scene if isinstance(shown, Clip) else shown
    colours = {thing.colour for thing in scene.things}
    return [shape for colour, shape in HELD_OUT if colour in colours]


def forms(shape: str) -> tuple[str, ...]:
    """The spellings of a shape at the start of an answer and inside one."""
    return shape, f" {shape}", f" {shape}{'es' if shape == 'cross' else 's'}"


def say_batch(settings: Settings, number: int, processor: LlavaProcessor) -> Pack:
    """Batch `number` of this step; every fifth holds clips, a third as many as scenes."""
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
