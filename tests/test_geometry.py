"""A geometry takes away what all vectors of a kind share, and leaves what tells them apart."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from probes.geometry import KINDS, Geometry, Kind, Moments, default_shrinkage, unit, whitening

SIZE = 6


def vectors(count: int, seed: int = 0, size: int = SIZE, shift: float = 0.0) -> Tensor:
    """Raw vectors with a mean and with directions of unequal weight."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, generator=draw) * torch.linspace(0.3, 3, size) + 1.0
    return values + shift * torch.nn.functional.one_hot(torch.tensor(0), size)


def covariance(raw: Tensor) -> Tensor:
    return torch.cov(unit(raw).double().T, correction=0)


def right(similarity: Tensor) -> float:
    """Share of rows whose largest entry stands on the diagonal."""
    return (similarity.argmax(dim=1) == torch.arange(len(similarity))).float().mean().item()


@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_maps_to_unit_vectors(kind: Kind, dtype: torch.dtype) -> None:
    raw = vectors(20).to(dtype)
    kept = raw.clone()
    mapped = Geometry.fit(kind, {"text": raw}).map(raw, ["text"] * 20, "document")
    assert mapped.dtype == torch.float32
    assert torch.equal(raw, kept)
    torch.testing.assert_close(mapped.norm(dim=-1), torch.ones(20))


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_a_raw_vector_does_not_matter(kind: Kind) -> None:
    raw = vectors(20)
    scaled = raw * torch.linspace(0.1, 100, 20)[:, None]
    geometries = [Geometry.fit(kind, {"text": v}) for v in (raw, scaled)]
    mapped = [
        g.map(v, ["text"] * 20, "query") for g, v in zip(geometries, (raw, scaled), strict=True)
    ]
    torch.testing.assert_close(mapped[0], mapped[1], atol=1e-5, rtol=0)


def test_none_is_the_cosine() -> None:
    raw = vectors(9)
    mapped = Geometry.fit("none", {"text": raw}).map(raw, ["text"] * 9, "document")
    cosines = torch.cosine_similarity(raw[:, None], raw[None], dim=-1)
    torch.testing.assert_close(mapped @ mapped.T, cosines)


def test_centre_subtracts_the_mean_direction() -> None:
    raw = vectors(30)
    units = raw / raw.norm(dim=1, keepdim=True)
    expected = units - units.mean(0)
    mapped = Geometry.fit("centre", {"text": raw}).map(raw, ["text"] * 30, "document")
    torch.testing.assert_close(mapped, expected / expected.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("shrinkage", [0.0, 0.5, 3.0])
def test_whitening_is_the_inverse_root(shrinkage: float) -> None:
    of = covariance(vectors(200))
    transform = whitening(of, 200, shrinkage).double()
    assert torch.equal(transform, transform.T)
    ridge = shrinkage * of.diagonal().mean() * torch.eye(SIZE)
    torch.testing.assert_close(
        transform @ (of + ridge) @ transform, torch.eye(SIZE).double(), atol=1e-5, rtol=0
    )


def test_whitened_vectors_have_no_preferred_direction() -> None:
    raw = vectors(400)
    geometry = Geometry.fit("whiten", {"text": raw}, shrinkage=0.0)
    assert geometry.transform is not None
    moved = (unit(raw) - unit(raw).mean(0)) @ geometry.transform
    torch.testing.assert_close(torch.cov(moved.T, correction=0), torch.eye(SIZE), atol=1e-4, rtol=0)


def test_much_shrinkage_is_centring() -> None:
    raw = vectors(50)
    mapped = [
        Geometry.fit(kind, {"text": raw}, shrinkage=1e6).map(raw, ["text"] * 50, "document")
        for kind in ("centre", "whiten")
    ]
    torch.testing.assert_close(mapped[0], mapped[1], atol=1e-4, rtol=0)


def test_fewer_vectors_are_shrunk_more() -> None:
    assert default_shrinkage(10**9, 576) == pytest.approx(1.0, abs=1e-5)
    assert default_shrinkage(576, 576) == 2.0
    assert default_shrinkage(0, 8) > default_shrinkage(100, 8)


# ------------------------------------------------------------------------------ modalities


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_the_gap_between_modalities_goes(kind: Kind) -> None:
    """The same contents as text and as pictures, which lie far off and are found again."""
    texts = vectors(40, size=32)
    pictures = texts + 0.3 * vectors(40, seed=1, size=32) - 20 * torch.eye(32)[3]
    geometry = Geometry.fit(kind, {"text": texts, "image": pictures})
    signatures = ["text"] * 40 + ["image"] * 40
    everything = torch.cat([texts, pictures])

    def gap(geometry: Geometry) -> float:
        """How much nearer the documents of a query's own kind are."""
        return (similarity(geometry)[:, :40].mean() - similarity(geometry)[:, 40:].mean()).item()

    def similarity(geometry: Geometry) -> Tensor:
        queries = geometry.map(texts, ["text"] * 40, "query")
        return queries @ geometry.map(everything, signatures, "document").T

    assert gap(Geometry()) > 0.1
    assert abs(gap(geometry)) < 0.02
    assert right(similarity(geometry)[:, 40:]) > 0.9


def test_the_gap_is_not_whitened_for_a_direction() -> None:
    """The covariance is that within signatures, weighted by their sizes."""
    texts, pictures = vectors(30), vectors(70, seed=1, shift=30.0)
    transform = Geometry.fit("whiten", {"text": texts, "image": pictures}, shrinkage=0.4).transform
    pooled = 0.3 * covariance(texts) + 0.7 * covariance(pictures)
    torch.testing.assert_close(transform, whitening(pooled, 100, 0.4), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixed_list_is_mapped_as_its_parts(kind: Kind) -> None:
    texts, pictures = vectors(5), vectors(4, seed=1, shift=5.0)
    geometry = Geometry.fit(kind, {"text": texts, "image": pictures})
    mixed = torch.stack([texts[0], pictures[0], pictures[1], texts[1]])
    mapped = geometry.map(mixed, ["text", "image", "image", "text"], "document")
    alone = [geometry.map(texts[:2], ["text"] * 2, "document")]
    alone.append(geometry.map(pictures[:2], ["image"] * 2, "document"))
    torch.testing.assert_close(mapped[[0, 3, 1, 2]], torch.cat(alone))


def test_queries_have_their_own_mean_or_that_of_documents() -> None:
    documents, queries, asked = vectors(20), vectors(20, seed=1, shift=5.0), vectors(3, seed=2)
    shared = Geometry.fit("centre", {"text": documents})
    torch.testing.assert_close(
        shared.map(asked, ["text"] * 3, "query"), shared.map(asked, ["text"] * 3, "document")
    )
    own = Geometry.fit("centre", {"image": documents}, {"text": queries})
    torch.testing.assert_close(
        own.map(asked, ["text"] * 3, "query"), unit(unit(asked) - unit(queries).mean(0))
    )


def test_a_kind_that_was_never_seen_is_left_as_it_is() -> None:
    geometry, asked = Geometry.fit("centre", {"text": vectors(20)}), vectors(3, seed=1)
    torch.testing.assert_close(geometry.map(asked, ["audio"] * 3, "query"), unit(asked))


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_a_document_alone_of_its_kind_is_not_lost(kind: Kind) -> None:
    """It is its own mean; what that leaves is rounding, and points anywhere."""
    picture = vectors(1, seed=1, shift=5.0)
    geometry = Geometry.fit(kind, {"text": vectors(200), "image": picture})
    nearly = picture * (1 + 1e-5 * torch.linspace(-1, 1, SIZE))
    mapped = [geometry.map(raw, ["image"], "document") for raw in (picture, nearly)]
    assert (mapped[0] * mapped[1]).sum() > 0.99


# ------------------------------------------------------------------------- fitted in passing


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.sampled_from(KINDS))
def test_moments_add_up(sizes: list[int], kind: Kind) -> None:
    raw, moments, start = vectors(sum(sizes)), Moments(), 0
    for size in sizes:
        moments.add("text", raw[start : start + size])
        start += size
    at_once, in_parts = Geometry.fit(kind, {"text": raw}), moments.fit(kind)
    assert at_once.means.keys() == in_parts.means.keys()
    for key, mean in at_once.means.items():
        torch.testing.assert_close(in_parts.means[key], mean)
    if kind == "whiten":
        torch.testing.assert_close(in_parts.transform, at_once.transform, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_corpora_give_finite_vectors(kind: Kind) -> None:
    asked = vectors(2, seed=1)
    flat = vectors(9) * torch.tensor([1.0, 1, 0, 0, 0, 0])
    for raw in (vectors(1), vectors(1).repeat(5, 1), torch.zeros(3, SIZE), flat, vectors(0)):
        mapped = Geometry.fit(kind, {"text": raw}).map(asked, ["text"] * 2, "query")
        assert mapped.isfinite().all()
        torch.testing.assert_close(mapped.norm(dim=1), torch.ones(2))
    assert Geometry.fit(kind, {}).map(asked, ["text"] * 2, "query").isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'zca' is not a geometry; choose one of none, centre"):
        Moments().fit("zca")  # type: ignore[arg-type]
