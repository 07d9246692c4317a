"""The vision tower of smolsight, a class of this project that LLaVA's stock model takes.

No stock tower of transformers has a classifier whose answers choose embedding rows of a
language model. Importing this module registers the class with transformers' automatic ones, so a
composed folder loads without remote code.

A picture becomes 16 tokens in the language model's input space, of either kind:

- of a drawn scene: one for each place of a 4×4 grid, from a small tower of its own;
- of anything else: names of concepts, likeliest first. The frozen trunk's features of the picture
  and of its quarters are classified, and the tokens are the language model's own embedding rows of
  the words. So the language model reads a photograph without being shown one before (as ConSE,
  arXiv 1312.5650, reads a picture in the space of word vectors).

How much a picture looks like a drawn scene, by the trunk's features, mixes the two.

Names have no grid, but the classifier is linear on features that are averaged over places, so its
evidence for a name at each place is known exactly: `SightTower.evidence`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate
from transformers import (
    AutoConfig,
    AutoModel,
    LevitConfig,
    LevitModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.activations import GELUActivation
from transformers.modeling_outputs import BaseModelOutputWithPooling

from probes.embedded.smolsight.trunk import CLASSES, FEATURES, Trunk

IMAGE_SIZE = 224
SCENE_SIZE, SCENE_PATCH, SCENE_WIDTH = 64, 16, 192
TOKENS = (SCENE_SIZE // SCENE_PATCH) ** 2


class SightConfig(PreTrainedConfig):
    """Sizes of a `SightTower`."""

    model_type = "smolsight_tower"

    def __init__(
        self,
        concepts: int = CLASSES,
        words: int = 1,
        length: int = 1,
        hidden_size: int = 576,
        **settings: Any,
    ):
        """Sizes: `concepts` that it names, different `words` in all names (pieces of words, as the
        tokenizer cuts them), the `length` of the longest name, and the language model's input."""
        self.concepts, self.words, self.length = concepts, words, length
        self.hidden_size = hidden_size
        self.image_size, self.patch_size = IMAGE_SIZE, IMAGE_SIZE // 4
        super().__init__(**settings)


class SceneTower(nn.Module):
    """Four convolutions from 64×64 pixels to a 4×4 grid, two attention blocks, two layers."""

    def __init__(self, hidden_size: int):
        super().__init__()
        config = LevitConfig(
            image_size=SCENE_SIZE,
            patch_size=SCENE_PATCH,
            hidden_sizes=[SCENE_WIDTH, SCENE_WIDTH],
            depths=[2],
            num_attention_heads=[SCENE_WIDTH // 32],
            key_dim=[32],
            attention_ratio=[2],
            mlp_ratio=[2],
        )
        config.down_ops = []  # one stage: the grid is never downsampled
        self.levit = LevitModel(config)
        self.projector = nn.Sequential(
            nn.Linear(SCENE_WIDTH, hidden_size),
            GELUActivation(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixel values [N, 3, any, any] in [-1, 1] -> tokens [N, 16, hidden]."""
        return self.projector(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """Pixel values, reduced to 64×64 -> features [N, 16, 192] of the places, row by row."""
        size = (SCENE_SIZE, SCENE_SIZE)
        # Antialiasing on a CPU takes no half precision.
        small = interpolate(
            pixels.float(), size, mode="bicubic", align_corners=False, antialias=True
        )
        inputs = small.clamp(-1, 1).to(pixels.dtype)
        return self.levit(inputs, output_hidden_states=True).hidden_states[-1]


class ConceptTower(nn.Module):
    """Writes the names of the concepts that a picture most probably shows, likeliest first.

    The trunk's own classifier knows the first 1,000 concepts; `others` knows the rest. Row i of
    `spelling` [concepts, length] holds the words of concept i as rows of `words`, -1 behind them.
    """

    spelling: Tensor

    def __init__(self, config: SightConfig):
        super().__init__()
        self.trunk = Trunk()
        self.others = nn.Linear(FEATURES, config.concepts - CLASSES)
        self.words = nn.Embedding(config.words, config.hidden_size)
        self.register_buffer("spelling", torch.zeros(config.concepts, config.length).long())

    def forward(self, maps: Tensor) -> Tensor:
        """The trunk's features [N, 1280, 7, 7] -> tokens [N, 16, hidden]."""
        return self.words(self.named(maps)[1])

    def named(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The concept [N, 16] whose name each token belongs to, and the row of `words` [N, 16] that
        it is."""
        likeliest = self.probabilities(maps).topk(TOKENS).indices
        spelled = self.spelling[likeliest].flatten(1)
        first = (spelled < 0).sort(stable=True).indices[:, :TOKENS]
        return likeliest.gather(1, first // self.spelling.shape[1]), spelled.gather(1, first)

    def evidence(self, maps: Tensor, concepts: Tensor) -> Tensor:
        """Class activation maps [N, K, 7, 7] of K concepts of each picture: their logits at each
        place."""
        weight = torch.cat([self.trunk.fc.weight, self.others.weight])[concepts]
        bias = torch.cat([self.trunk.fc.bias, self.others.bias])[concepts]
        return torch.einsum("nkc,nchw->nkhw", weight, maps) + bias[..., None, None]

    def probabilities(self, maps: Tensor) -> Tensor:
        """Probabilities [N, concepts] of what a picture shows.

        The whole picture is classified, and within the share of the trunk's classes half of it
        comes from the quarters. The other concepts were learnt from whole drawings alone.
        """
        features = maps.mean((2, 3))
        logits = torch.cat([self.trunk.fc(features), self.others(features)], -1)
        classes, others = logits.softmax(-1).tensor_split([CLASSES], -1)
        quarters = adaptive_avg_pool2d(maps, 2).flatten(2).transpose(1, 2)
        in_quarters = self.trunk.fc(quarters).softmax(-1).mean(1)
        share = classes.sum(-1, keepdim=True)
        return torch.cat([(classes + share * in_quarters) / 2, others], -1)


class Evidence(NamedTuple):
    """Where in each picture the evidence lies for the names that its tokens spell."""

    scene: Tensor
    """Share [N] of the tokens that comes from the scene tower: names are the remainder."""
    concepts: Tensor
    """The concept [N, 16] whose name each token belongs to."""
    maps: Tensor
    """Evidence [N, 16, 7, 7] for that concept at each place of the picture."""


class SightTower(PreTrainedModel):
    """Pixel values [N, 3, 224, 224] in [-1, 1] -> tokens [N, 16, hidden] in the language model's
    input space."""

    config_class = SightConfig
    main_input_name = "pixel_values"

    def __init__(self, config: SightConfig):
        super().__init__(config)
        self.scenes = SceneTower(config.hidden_size)
        self.concepts = ConceptTower(config)
        self.is_scene = nn.Linear(FEATURES, 1)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        maps = self.concepts.trunk(pixel_values)
        share = self.scene_share(maps)[:, None, None]
        tokens = share * self.scenes(pixel_values) + (1 - share) * self.concepts(maps)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))

    def scene_share(self, maps: Tensor) -> Tensor:
        """How much [N] a picture looks like a drawn scene, by the trunk's features."""
        return self.is_scene(maps.mean((2, 3))).sigmoid()[:, 0]

    @torch.no_grad()
    def evidence(self, pixel_values: Tensor) -> Evidence:
        """Where the classifier finds what the tokens name (class activation maps; Zhou et al.,
        arXiv 1512.04150).

        For features f(x, y) of the trunk, the logit of a concept is w·mean f + b, so its evidence
        at a place is w·f(x, y) + b. The mean of a map over all places is the logit for the whole
        picture, and over the places of a quarter that for the quarter.
        """
        maps = self.concepts.trunk(pixel_values)
        concepts, _ = self.concepts.named(maps)
        return Evidence(self.scene_share(maps), concepts, self.concepts.evidence(maps, concepts))


AutoConfig.register(SightConfig.model_type, SightConfig)
AutoModel.register(SightConfig, SightTower)
