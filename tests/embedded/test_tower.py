"""smolsight's tower: a trunk whose normalisation is folded in, and tokens of two kinds."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import relu6

from probes.embedded.smolsight.model import spell
from probes.embedded.smolsight.tower import TOKENS, SightConfig, SightTower
from probes.embedded.smolsight.trunk import (
    CLASSES,
    EPSILON,
    NORMS,
    Convolution,
    Trunk,
    published_weights,
)

HIDDEN = 8


@pytest.fixture(scope="module")
def tower() -> SightTower:
    """A random tower that knows the classes "0", "1", … "999" and one more, "1 0 0 0"."""
    torch.manual_seed(0)
    tower = SightTower(SightConfig(CLASSES + 1, words=CLASSES, length=4, hidden_size=HIDDEN))
    spelling = torch.full((CLASSES + 1, 4), -1)
    spelling[:CLASSES, 0] = torch.arange(CLASSES)
    spelling[CLASSES] = torch.tensor([1, 0, 0, 0])
    tower.concepts.spelling.copy_(spelling)
    return tower.eval()


def prefixed(name: str) -> str:
    """The published form of the name of a module: every name in it begins with an underscore."""
    return ".".join(part if part.isdigit() else f"_{part}" for part in name.split("."))


def published(trunk: Trunk) -> dict[str, Tensor]:
    """Weights in the form in which they are published: convolutions without biases, each followed
    by a normalisation."""
    state = {}
    for name, module in trunk.named_modules():
        if isinstance(module, nn.Linear):
            state |= {f"_{name}.weight": module.weight.data, f"_{name}.bias": module.bias.data}
        if isinstance(module, Convolution):
            state[f"{prefixed(name)}.weight"] = module.weight.data
            before, dot, layer = name.rpartition(".")
            norm = nn.BatchNorm2d(module.out_channels)
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1)
            path = prefixed(f"{before}{dot}{NORMS[layer]}")
            state |= {f"{path}.{key}": value for key, value in norm.state_dict().items()}
    return state


def test_the_published_normalisation_is_folded_into_the_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = Trunk()
    state = published(trunk)
    torch.save(state, tmp_path / "published.pth")
    folded = Trunk()
    folded.load_state_dict(published_weights(tmp_path / "published.pth"))

    maps = torch.randn(2, 3, 32, 32)
    stem = nn.functional.conv2d(
        nn.functional.pad(maps, (0, 1, 0, 1)), trunk.conv_stem.weight, stride=2
    )
    mean, variance, scale, shift = (
        state[f"_bn0.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
    )
    normal = nn.functional.batch_norm(stem, mean, variance, scale, shift, eps=EPSILON)
    assert torch.allclose(relu6(folded.conv_stem(maps)), relu6(normal), atol=1e-4)
    assert torch.equal(folded.fc.weight, trunk.fc.weight)


def test_the_trunk_reduces_a_picture_to_seven_by_seven_places() -> None:
    with torch.no_grad():
        assert Trunk()(torch.zeros(1, 3, 224, 224)).shape == (1, 1280, 7, 7)


def test_the_likeliest_concepts_are_spelled_first(tower: SightTower) -> None:
    concepts = tower.concepts
    with torch.no_grad():
        concepts.trunk.fc.weight.zero_()
        concepts.trunk.fc.bias.copy_(-torch.arange(CLASSES) / 10)
        nn.init.zeros_(concepts.others.weight)
        for place, bias in ((0, 1.0), (1, -0.05), (30, -9.0)):
            concepts.others.bias.fill_(bias)
            tokens = concepts(torch.rand(1, 1280, 7, 7))[0]
            order = list(range(20))
            order[place:place] = [1, 0, 0, 0]
            assert torch.equal(tokens, concepts.words.weight[order[:TOKENS]])


def test_two_things_in_two_quarters_are_both_named(tower: SightTower) -> None:
    concepts = tower.concepts
    with torch.no_grad():
        concepts.others.bias.fill_(-99)
        concepts.trunk.fc.bias.zero_()
        concepts.trunk.fc.weight.zero_()
        for thing in (3, 5):
            concepts.trunk.fc.weight[thing, thing] = 9
        maps = torch.zeros(1, 1280, 7, 7)
        maps[0, 3, :3, :3] = maps[0, 5, 4:, 4:] = 6
        assert set(concepts.probabilities(maps)[0].topk(2).indices.tolist()) == {3, 5}


def test_evidence_averages_to_the_logits(tower: SightTower) -> None:
    """Over the picture, and over its quarters, which share the places in the middle."""
    concepts = tower.concepts
    maps = torch.rand(2, 1280, 7, 7)
    wanted = torch.tensor([[3, CLASSES, 7], [CLASSES, 0, 999]])
    with torch.no_grad():
        found = concepts.evidence(maps, wanted)
        for region, features in (
            (found, maps),
            (found[..., :4, :4], maps[..., :4, :4]),
            (found[..., :4, 3:], maps[..., :4, 3:]),
        ):
            means = features.mean((2, 3))
            logits = torch.cat([concepts.trunk.fc(means), concepts.others(means)], -1)
            assert torch.allclose(region.mean((2, 3)), logits.gather(1, wanted), atol=1e-4)


def test_evidence_is_that_of_the_concept_that_each_token_names(tower: SightTower) -> None:
    pixels = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        concepts = tower.concepts
        maps = concepts.trunk(pixels)
        concepts.others.bias.copy_(concepts.trunk.fc(maps.mean((2, 3))).max() + 1)
        found = tower.evidence(pixels)
        assert found.concepts[:, :4].tolist() == [[CLASSES] * 4] * 2  # "1 0 0 0"
        assert torch.equal(concepts.words.weight[found.concepts[:, 4:]], concepts(maps)[:, 4:])
        assert torch.equal(found.maps, concepts.evidence(maps, found.concepts))
        share = tower.is_scene(maps.mean((2, 3))).sigmoid()[:, 0]
        assert torch.equal(found.scene, share)


def test_what_looks_like_a_scene_is_read_by_the_scene_tower(tower: SightTower) -> None:
    pixels = torch.rand(2, 3, 224, 224) * 2 - 1
    nn.init.zeros_(tower.is_scene.weight)
    with torch.no_grad():
        for bias, expected in (
            (50, tower.scenes(pixels)),
            (-50, tower.concepts(tower.concepts.trunk(pixels))),
        ):
            nn.init.constant_(tower.is_scene.bias, bias)
            assert torch.allclose(tower(pixels).last_hidden_state, expected, atol=1e-6)


def test_names_are_spelled_by_pieces_of_words() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> object:
        ids = [ord(word[0]) for word in text.split()]
        return type("Encoding", (), {"input_ids": ids})

    pieces, spelling = spell(["cat", "apple cat", "bear"], tokenizer)
    assert pieces.tolist() == [ord("a"), ord("b"), ord("c")]
    assert spelling.tolist() == [[2, -1], [0, 2], [1, -1]]
