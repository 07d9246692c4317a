"""First training step: image tokens name what they show, before the language model is run."""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from probes.embedded.smolsight.model import pixels
from probes.embedded.smolsight.tower import IMAGE_SIZE, TOKENS
from probes.scenes.drawing import Placement
from probes.scenes.generator import BACKGROUNDS, COLOURS, SEEN, SHAPES, SIZES, Scene, random_scene
from smolsight.settings import Settings

VOCABULARY = (tuple(COLOURS), SHAPES, tuple(SIZES), tuple(BACKGROUNDS))
SHOWN = torch.tensor([[(colour, shape) in SEEN for shape in SHAPES] for colour in COLOURS])
IGNORED = -100


@dataclass
class Names:
    """Targets of N pictures of up to three things.

    `where` [N, 3, 16]: the tokens that show each thing; `words` [N, 3, 3]: its colour, shape and
    size as indices into VOCABULARY, IGNORED where there is no thing; `background` [N].
    """

    where: Tensor
    words: Tensor
    background: Tensor


def spots(placed: list[Placement]) -> Tensor:
    """Which tokens show each thing, [things, 16] in painting order; a token shows at most one."""
    side = int(TOKENS**0.5)
    middles = (torch.arange(side) + 0.5) / side
    x, y = middles.repeat(side), middles.repeat_interleave(side)
    apart = torch.stack([torch.maximum((x - p.x).abs(), (y - p.y).abs()) for p in placed])
    radii = torch.tensor([[p.radius] for p in placed])
    reached = apart <= radii + 0.5 / side
    owner = apart.masked_fill(~reached, torch.inf).argmin(0)
    for i, place in enumerate(placed):  # later things lie on top
        owner[apart[i] <= max(0.7 * place.radius, 0.51 / side)] = i
    return reached & (owner == torch.arange(len(placed))[:, None])


def names(scenes: list[Scene], seeds: list[float]) -> Names:
    """Targets of the renderings of scenes with these seeds."""
    where = torch.zeros(len(scenes), 3, TOKENS, dtype=torch.bool)
    words = torch.full((len(scenes), 3, 3), IGNORED)
    for n, (scene, seed) in enumerate(zip(scenes, seeds, strict=True)):
        shown = spots(scene.layout(Random(seed))).flip(0)
        where[n, : len(shown)] = shown
        for i, thing in enumerate(scene.things):
            if shown[i].any():
                attributes = zip(VOCABULARY, (thing.colour, thing.shape, thing.size), strict=False)
                words[n, i] = torch.tensor([words.index(word) for words, word in attributes])
    backgrounds = torch.tensor([VOCABULARY[3].index(scene.background) for scene in scenes])
    return Names(where, words, backgrounds)


def name_batch(settings: Settings, number: int) -> tuple[Tensor, Names]:
    """Pixels [N, 3, 224, 224] and targets of batch `number`.

    The first batches show single things; from halfway on, scenes are random.
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
    """Cross-entropy of the words named by tower features [N, 16, W] and image tokens [N, 16, H].

    A token scores a word by the product with its embedding row; the maximum over the tokens of a
    thing counts, and the mean over all tokens for the background. `classifier` names the
    max-pooled features of each thing as well, which learns shapes sooner. A colour competes only
    with colours that occur in training with the same shape, a shape only with shapes that occur
    with the same colour.
    """
    *logits, background = (2 * (tokens @ words.T) for words in rows)
    losses = [cross_entropy(background.mean(1), named.background)]
    elsewhere = ~named.where[..., None]
    largest = features[:, None].masked_fill(elsewhere, -1e4).amax(2)
    direct = classifier(largest).split([len(words) for words in VOCABULARY[:3]], -1)
    for i, (by_token, by_thing) in enumerate(zip(logits, direct, strict=True)):
        occurring = torch.tensor(True)
        if i < 2:
            occurring = (SHOWN.T, SHOWN)[i][named.words[..., 1 - i].clamp_min(0)]
        for scores in (by_token[:, None].masked_fill(elsewhere, -1e4).amax(2), by_thing):
            rivals = scores.masked_fill(~occurring, -torch.inf)
            losses.append(cross_entropy(rivals.flatten(0, 1), named.words[..., i].flatten()))
    return torch.stack(losses).sum() + 0.002 * tokens.square().sum(-1).mean()
