"""What smolsight's tower is taught about drawings: which concepts there are, how they differ."""

from random import Random

import pytest
import torch
from PIL import Image

from probes.embedded.smolsight.tower import IMAGE_SIZE
from probes.embedded.smolsight.trunk import FEATURES
from smolsight.concepts import ConceptSettings, Features, discriminant
from smolsight.drawings import Drawing, concept


def emoji(annotation: str, group: str, subgroups: str, **more: str) -> dict:
    plain = {"skintone": "", "skintone_base_hexcode": "", "hexcode": "1F600"}
    return plain | {"annotation": annotation, "group": group, "subgroups": subgroups} | more


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (emoji("dog face", "animals-nature", "animal-mammal"), "dog"),
        (emoji("person surfing", "people-body", "person-sport"), "surfing"),
        (emoji("woman surfing", "people-body", "person-sport"), None),
        (emoji("woman", "people-body", "person"), "woman"),
        (emoji("woman’s boot", "objects", "clothing"), "woman's boot"),
        (emoji("flag: Ghana", "flags", "country-flag"), None),
        (emoji("right arrow", "symbols", "arrow"), None),
        (emoji("three o’clock", "travel-places", "time"), None),
        (emoji("waving hand", "people-body", "hands", skintone="1"), None),
    ],
)
def test_an_emoji_shows_a_concept_or_none(given: dict, expected: str | None) -> None:
    assert concept(given) == expected


def test_the_discriminant_tells_classes_apart_by_what_varies_between_them() -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, FEATURES) * 0.1
    features[:, 0] *= 30  # varies most, and says nothing
    features[:, 1] += labels
    weight, bias = discriminant(features, labels, 0.5)
    assert torch.equal((features @ weight.T + bias).argmax(1), labels)
    assert (weight[:, 0].abs() < weight[:, 1].abs().max() / 100).all()


def test_a_drawing_keeps_its_ground_and_its_shape() -> None:
    red = Image.new("RGBA", (40, 20), (255, 0, 0, 255))
    plain = Drawing("brick", "flat", red).on_ground()
    assert plain.size == (IMAGE_SIZE, IMAGE_SIZE)
    assert plain.getpixel((0, 0)) == (255, 255, 255)
    assert plain.getpixel((IMAGE_SIZE // 2, IMAGE_SIZE // 2)) == (255, 0, 0)
    placed = [Drawing("brick", "flat", red).on_ground(Random(7)) for _ in range(2)]
    assert placed[0].tobytes() == placed[1].tobytes() != plain.tobytes()


def test_features_are_extended_where_they_stopped(tmp_path) -> None:
    class Means(torch.nn.Module):
        def forward(self, pixels):
            return pixels.mean((1, 2, 3))[:, None, None, None].expand(-1, FEATURES, 7, 7)

    shades = [Image.new("RGBA", (8, 8), (s, s, s, 255)) for s in (0, 60, 120, 180)]
    shown = [Drawing(str(n), "flat", shade) for n, shade in enumerate(shades)]
    settings = ConceptSettings(placings=2)
    whole = Features(tmp_path / "whole.pt", Means(), settings)  # pyright: ignore[reportArgumentType]
    whole.extend(shown)
    for count in (1, 4):
        parts = Features(tmp_path / "parts.pt", Means(), settings)  # pyright: ignore[reportArgumentType]
        parts.extend(shown[:count])
    assert parts.names == whole.names == [n for n in "0123" for _ in range(2)]
    assert torch.equal(parts.rows, whole.rows)
    with pytest.raises(ValueError, match="other settings"):
        Features(tmp_path / "parts.pt", Means(), ConceptSettings())  # pyright: ignore[reportArgumentType]
