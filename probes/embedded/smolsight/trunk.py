"""The frozen trunk of smolsight's tower: EfficientNet-Lite0, a classifier of photographs.

EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and with ReLU6. Batch normalisation
is folded into the convolutions, for the trunk is never trained here.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu6
from torch.nn.utils.fusion import fuse_conv_bn_weights

STAGES = (
    (1, 16, 1, 3, 1),
    (2, 24, 6, 3, 2),
    (2, 40, 6, 5, 2),
    (3, 80, 6, 3, 2),
    (3, 112, 6, 5, 1),
    (4, 192, 6, 5, 2),
    (1, 320, 6, 3, 1),
)
"""Blocks, channels, expansion, kernel and stride of the first block of each stage."""
FEATURES = 1280
CLASSES = 1000
NORMS = {
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
"""The batch normalisation after each convolution, by its name in the published weights."""
EPSILON = 1e-3


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow pads it: at stride 2 more on the right and below."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
    ):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, input: Tensor) -> Tensor:
        if self.stride[0] == 2:
            before, after = (self.kernel_size[0] - 2) // 2, (self.kernel_size[0] - 1) // 2
            input = pad(input, (before, after, before, after))
        return super().forward(input)


class Block(nn.Module):
    """Inverted residual: expand the channels, filter each of them, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.expand_conv = Convolution(inputs, inner) if expansion > 1 else None
        self.depthwise_conv = Convolution(inner, inner, kernel, stride, groups=inner)
        self.project_conv = Convolution(inner, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, maps: Tensor) -> Tensor:
        inner = maps if self.expand_conv is None else relu6(self.expand_conv(maps))
        outputs = self.project_conv(relu6(self.depthwise_conv(inner)))
        return maps + outputs if self.residual else outputs


class Trunk(nn.Module):
    """Pixel values [N, 3, 224, 224] in [-1, 1] -> features [N, 1280, 7, 7]; `fc` classifies their
    mean, or the mean of a region, as one of ImageNet's 1,000 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = Convolution(3, 32, 3, 2)
        blocks, inputs = [], 32
        for count, outputs, expansion, kernel, stride in STAGES:
            for number in range(count):
                first = stride if number == 0 else 1
                blocks.append(Block(inputs, outputs, expansion, kernel, first))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = Convolution(inputs, FEATURES)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        return relu6(self.conv_head(self.blocks(relu6(self.conv_stem(pixels)))))


def published_weights(file: Path) -> dict[str, Tensor]:
    """The state of a `Trunk` from the published weights, their normalisation folded in."""
    published = torch.load(file, map_location="cpu", weights_only=True)
    named = {name.replace("._", ".").lstrip("_"): t for name, t in published.items()}
    state = {name: named[name] for name in ("fc.weight", "fc.bias")}
    for name, weight in named.items():
        path, _, parameter = name.rpartition(".")
        before, _, layer = path.rpartition(".")
        if layer in NORMS and parameter == "weight":
            norm = f"{before}.{NORMS[layer]}".lstrip(".")
            mean, variance, scale, shift = (
                named[f"{norm}.{part}"]
                for part in ("running_mean", "running_var", "weight", "bias")
            )
            fused = fuse_conv_bn_weights(weight, None, mean, variance, EPSILON, scale, shift)
            state[f"{path}.weight"], state[f"{path}.bias"] = (p.detach() for p in fused)
    return state
