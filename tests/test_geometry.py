"""A geometry takes away what all vectors of a kind share, and leaves what tells them apart."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from probes.geometry import (
    FEW,
    GEOMETRY_KINDS,
    SAMPLE,
    CorpusGeometry,
    Geometry,
    GeometryKind,
    nearest_third,
    unit,
    whitening,
)
from probes.measure.reference import Reference, no_reference
from probes.prompts import Side

SIZE = 6


def vectors(count: int, seed: int = 0, size: int = SIZE, shift: float = 0.0) -> Tensor:
    """Raw vectors with a mean and with directions of unequal weight."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(count, size, generator=draw) * torch.linspace(0.3, 3, size) + 1.0
    return values + shift * torch.nn.functional.one_hot(torch.tensor(0), size)


def fit(
    kind: GeometryKind, documents: dict[str, Tensor], reference: Reference = no_reference
) -> Geometry:
    """The geometry of documents given by signature."""
    signatures = [s for s, rows in documents.items() for _ in rows]
    rows = torch.cat(list(documents.values())) if documents else vectors(0)
    ids = [f"{place:05}" for place in range(len(rows))]
    return CorpusGeometry.of(kind, ids, signatures, rows, reference)


def referring(**rows: Tensor) -> Reference:
    """A reference that knows `document_text=…`, `query_text_for_media=…` and the like."""
    return lambda side, signature: rows.get(f"{side}_{signature}".replace(" ", "_"))


def covariance(raw: Tensor) -> Tensor:
    return torch.cov(unit(raw).double().T, correction=0)


def right(similarity: Tensor) -> float:
    """Share of rows whose largest entry stands on the diagonal."""
    return (similarity.argmax(dim=1) == torch.arange(len(similarity))).float().mean().item()


@pytest.mark.parametrize("kind", get_args(GeometryKind))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_kind_maps_to_unit_vectors(kind: GeometryKind, dtype: torch.dtype) -> None:
    raw = vectors(20).to(dtype)
    kept = raw.clone()
    mapped = fit(kind, {"text": raw}).map(raw, ["text"] * 20, "document")
    assert mapped.dtype == torch.float32
    assert torch.equal(raw, kept)
    torch.testing.assert_close(mapped.norm(dim=-1), torch.ones(20))


@pytest.mark.parametrize("kind", GEOMETRY_KINDS)
def test_the_length_of_a_raw_vector_does_not_matter(kind: GeometryKind) -> None:
    raw = vectors(20)
    scaled = raw * torch.linspace(0.1, 100, 20)[:, None]
    geometries = [fit(kind, {"text": v}) for v in (raw, scaled)]
    mapped = [
        g.map(v, ["text"] * 20, "query") for g, v in zip(geometries, (raw, scaled), strict=True)
    ]
    torch.testing.assert_close(mapped[0], mapped[1], atol=1e-5, rtol=0)


def test_none_is_the_cosine() -> None:
    raw = vectors(9)
    mapped = fit("none", {"text": raw}).map(raw, ["text"] * 9, "document")
    cosines = torch.cosine_similarity(raw[:, None], raw[None], dim=-1)
    torch.testing.assert_close(mapped @ mapped.T, cosines)


def test_centre_subtracts_the_mean_direction() -> None:
    raw = vectors(30)
    units = raw / raw.norm(dim=1, keepdim=True)
    expected = units - units.mean(0)
    mapped = fit("centre", {"text": raw}).map(raw, ["text"] * 30, "document")
    torch.testing.assert_close(mapped, expected / expected.norm(dim=1, keepdim=True))


def test_whitened_vectors_have_no_preferred_direction() -> None:
    """Up to the shrinkage, which leaves every eigenvalue v as v / (v + λ·mean)."""
    raw = vectors(400)
    geometry = fit("whiten", {"text": raw})
    assert geometry.transform is not None
    moved = (unit(raw) - unit(raw).mean(0)) @ geometry.transform
    values = torch.linalg.eigvalsh(covariance(raw))
    expected = values / (values + (1 + SIZE / 400) * values.mean())
    found = torch.linalg.eigvalsh(torch.cov(moved.double().T, correction=0))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_the_gap_between_modalities_goes(kind: GeometryKind) -> None:
    """The same contents as text and as pictures, which lie far off and are found again."""
    texts = vectors(40, size=32)
    pictures = texts + 0.3 * vectors(40, seed=1, size=32) - 20 * torch.eye(32)[3]
    geometry = fit(kind, {"text": texts, "image": pictures})
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
    transform = fit("whiten", {"text": texts, "image": pictures}).transform
    pooled = 0.3 * covariance(texts) + 0.7 * covariance(pictures)
    torch.testing.assert_close(transform, whitening(pooled, 100), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", GEOMETRY_KINDS)
def test_a_mixed_list_is_mapped_as_its_parts(kind: GeometryKind) -> None:
    texts, pictures = vectors(5), vectors(4, seed=1, shift=5.0)
    geometry = fit(kind, {"text": texts, "image": pictures})
    mixed = torch.stack([texts[0], pictures[0], pictures[1], texts[1]])
    mapped = geometry.map(mixed, ["text", "image", "image", "text"], "document")
    alone = [geometry.map(texts[:2], ["text"] * 2, "document")]
    alone.append(geometry.map(pictures[:2], ["image"] * 2, "document"))
    torch.testing.assert_close(mapped[[0, 3, 1, 2]], torch.cat(alone))


def test_queries_take_the_mean_of_the_documents_the_reference_or_all() -> None:
    documents, asked = vectors(120), vectors(3, seed=2)
    queries, examples = vectors(20, seed=1, shift=5.0), vectors(4, seed=3, shift=-2.0)
    geometry = fit("centre", {"image": documents})
    reference = referring(query_text_for_media=queries, query_image=queries)

    def mapped(found: Geometry, signature: str) -> Tensor:
        return found.map(asked, [signature] * 3, "query")

    def around(rows: Tensor) -> Tensor:
        return unit(unit(asked) - unit(rows).mean(0))

    full = geometry.with_queries(["text", "image", "audio"], reference)
    torch.testing.assert_close(mapped(full, "image"), around(documents))
    torch.testing.assert_close(
        mapped(full, "text"), unit(unit(asked) - nearest_third(unit(asked), unit(queries)))
    )
    torch.testing.assert_close(mapped(full, "audio"), around(documents), msg="all documents")
    given = geometry.with_queries(["image"], reference, {"image": examples})
    torch.testing.assert_close(mapped(given, "image"), around(examples), msg="examples go first")
    assert Geometry().with_queries(["text"], reference, {"text": examples}) == Geometry()


def test_a_query_is_centred_on_the_nearest_third_of_the_reference() -> None:
    """Of three kinds of reference queries, those of its kind."""
    kinds = [unit(vectors(20, seed=n, shift=30.0 * (n - 1))) for n in (2, 1, 0)]
    asked = unit(vectors(3, seed=3, shift=30.0))
    found = nearest_third(asked, torch.cat(kinds))
    torch.testing.assert_close(found, kinds[0].mean(0).expand(3, SIZE))
    torch.testing.assert_close(nearest_third(asked[:1], torch.cat(kinds))[0], found[0])
    torch.testing.assert_close(nearest_third(asked, kinds[1][:1]), kinds[1][:1].expand(3, SIZE))


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_a_document_alone_of_its_signature_is_not_lost(kind: GeometryKind) -> None:
    """Were it its own mean, what that leaves would be rounding, and point anywhere."""
    picture = vectors(1, seed=1, shift=5.0)
    for documents in ({"text": vectors(200), "image": picture}, {"image": picture}):
        geometry = fit(kind, documents)
        nearly = picture * (1 + 1e-5 * torch.linspace(-1, 1, SIZE))
        mapped = [geometry.map(raw, ["image"], "document") for raw in (picture, nearly)]
        assert (mapped[0] * mapped[1]).sum() > 0.99


# --------------------------------------------------------------- what few documents cannot tell


@pytest.mark.parametrize("side", ["document", "query"])
@pytest.mark.parametrize("count", [2, 20, 99])
def test_the_mean_of_few_documents_leans_on_the_reference(count: int, side: Side) -> None:
    """By hand: B = variance of the mean / squared distance to the prior, times 1 - n / 100."""
    documents, other = vectors(count, seed=1), vectors(30, seed=2, shift=4.0)
    near, far = vectors(40, seed=3, shift=2.0), vectors(40, seed=4, shift=-2.0)
    reference = referring(document_text=near, query_text=far)
    geometry = fit("centre", {"text": documents, "image": other}, reference)
    squares = sum((unit(v) - unit(v).mean(0)).square().sum() for v in (documents, other))
    mean, prior = unit(documents).mean(0), unit(near if side == "document" else far).mean(0)
    shrinkage = squares / (count - 1 + 29) / count / (mean - prior).square().sum()
    weight = (1 - count / 100) * shrinkage.clamp(max=1)
    expected = mean + weight * (prior - mean)
    torch.testing.assert_close(geometry.means[side, "text"], expected, atol=1e-5, rtol=1e-4)


def test_enough_documents_ask_no_reference() -> None:
    def reference(side: Side, signature: str) -> None:
        raise AssertionError(f"{side} {signature} was asked for")

    geometry = fit("whiten", {"text": vectors(FEW), "image": vectors(FEW, seed=1)}, reference)
    torch.testing.assert_close(geometry.means["document", "text"], unit(vectors(FEW)).mean(0))


def test_few_documents_without_a_reference_lean_on_all_documents() -> None:
    sounds, texts = vectors(10, seed=1, shift=4.0), vectors(300)
    geometry = fit("centre", {"audio": sounds, "text": texts})
    pooled, mean = unit(torch.cat([sounds, texts])).mean(0), unit(sounds).mean(0)
    leaning = (geometry.means["document", "audio"] - mean) / (pooled - mean)
    assert 0 < leaning.mean() < 0.2
    torch.testing.assert_close(leaning, leaning.mean().expand(SIZE), atol=1e-3, rtol=0)


def test_lone_documents_of_two_signatures_are_centred_on_all() -> None:
    texts, pictures = vectors(1), vectors(1, seed=1, shift=3.0)
    geometry = fit("centre", {"text": texts, "image": pictures})
    pooled = unit(torch.cat([texts, pictures])).mean(0)
    torch.testing.assert_close(
        geometry.means["document", "text"], 0.01 * unit(texts)[0] + 0.99 * pooled
    )


def test_the_covariance_of_few_documents_is_filled_up_to_a_hundred() -> None:
    documents, reference = vectors(30, seed=1), vectors(50, seed=2)
    geometry = fit("whiten", {"text": documents}, referring(document_text=reference))
    filled = 0.3 * covariance(documents) + 0.7 * covariance(reference)
    torch.testing.assert_close(geometry.transform, whitening(filled, 100), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_no_cliff_at_any_count(kind: GeometryKind) -> None:
    """One more document moves every score by less than a document may."""
    everything, pictures = vectors(104, seed=1), vectors(30, seed=2, shift=3.0)
    reference = referring(
        document_text=vectors(60, seed=3), query_text=vectors(60, seed=4), document_image=pictures
    )
    queries, previous = vectors(5, seed=5), None
    for count in range(90, 104):
        geometry = fit(kind, {"text": everything[:count], "image": pictures}, reference)
        asked = geometry.map(queries, ["text"] * 5, "query")
        pool = geometry.map(everything[:90], ["text"] * 90, "document")
        gain, shift = geometry.calibration(asked)["text"]
        scores = gain[:, None] * (asked @ pool.T) + shift[:, None]
        if previous is not None:
            assert (scores - previous).abs().max() < 0.05
        previous = scores


# ------------------------------------------------------------------ one scale for all signatures


def test_scores_of_all_signatures_are_on_one_scale() -> None:
    """By hand: (cosine - mean) / upper semideviation, times and plus those of all documents."""
    documents = {"text": vectors(150, shift=2.0), "image": vectors(250, seed=1, shift=-3.0)}
    geometry = fit("centre", documents)
    queries = geometry.map(vectors(4, seed=2), ["text"] * 4, "query")
    calibration = geometry.calibration(queries)
    means, deviations = {}, {}
    for signature, rows in documents.items():
        pool = geometry.map(rows, [signature] * len(rows), "document")
        cosines = (queries @ pool.T).double()
        means[signature] = cosines.mean(1)
        above = (cosines - cosines.mean(1, keepdim=True)).clamp_min(0)
        deviations[signature] = above.square().mean(1).sqrt()
    mean = (150 * means["text"] + 250 * means["image"]) / 400
    deviation = (150 * deviations["text"] + 250 * deviations["image"]) / 400
    for signature in documents:
        gain, shift = (a.double() for a in calibration[signature])
        torch.testing.assert_close(gain, deviation / deviations[signature], atol=1e-5, rtol=1e-5)
        expected = mean - gain * means[signature]
        torch.testing.assert_close(shift, expected, atol=1e-5, rtol=1e-5)


def test_cosines_of_one_signature_are_the_scores() -> None:
    geometry = fit("centre", {"text": vectors(50)})
    assert geometry.calibration(unit(vectors(3))) == {}
    assert fit("none", {"text": vectors(50), "image": vectors(9)}).calibration(vectors(1)) == {}


def test_equal_documents_have_a_scale() -> None:
    same = vectors(1).repeat(120, 1)
    geometry = fit("centre", {"text": vectors(200), "image": same})
    queries = geometry.map(vectors(3, seed=1), ["text"] * 3, "query")
    for affine in geometry.calibration(queries).values():
        assert all(part.isfinite().all() for part in affine)


@given(st.integers(0, 2**32), st.integers(1, 700))
def test_the_sample_depends_on_ids_alone(seed: int, size: int) -> None:
    """Shards and actors write in any order, and in blocks of any size."""
    count = SAMPLE + 90
    rows, ids = vectors(count), [f"id {i}" for i in range(count)]
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    corpora = [CorpusGeometry("centre") for _ in range(2)]
    corpora[0].add(ids, ["text"] * count, rows)
    for start in range(0, count, size):
        part = order[start : start + size]
        corpora[1].add([ids[i] for i in part], ["text"] * len(part), rows[part])
    ours, theirs = (dict(sorted(c.samples["text"].items())) for c in corpora)
    assert len(ours) == SAMPLE
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))
    for row in ours.values():
        assert row.untyped_storage().nbytes() == row.nbytes, "a view keeps its whole block alive"


# ------------------------------------------------------------------------- fitted in passing


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.sampled_from(GEOMETRY_KINDS))
def test_moments_add_up(sizes: list[int], kind: GeometryKind) -> None:
    raw, corpus, start = vectors(sum(sizes)), CorpusGeometry(kind), 0
    for size in sizes:
        ids = [f"{start + place:05}" for place in range(size)]
        corpus.add(ids, ["text"] * size, raw[start : start + size])
        start += size
    at_once, in_parts = fit(kind, {"text": raw}), corpus.fit(no_reference)
    assert at_once.means.keys() == in_parts.means.keys()
    for key, mean in at_once.means.items():
        torch.testing.assert_close(in_parts.means[key], mean)
    if kind == "whiten":
        torch.testing.assert_close(in_parts.transform, at_once.transform, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", GEOMETRY_KINDS)
def test_degenerate_corpora_give_finite_vectors(kind: GeometryKind) -> None:
    asked = vectors(2, seed=1)
    flat = vectors(9) * torch.tensor([1.0, 1, 0, 0, 0, 0])
    for raw in (vectors(1), vectors(1).repeat(5, 1), torch.zeros(3, SIZE), flat, vectors(0)):
        mapped = fit(kind, {"text": raw}).map(asked, ["text"] * 2, "query")
        assert mapped.isfinite().all()
        torch.testing.assert_close(mapped.norm(dim=1), torch.ones(2))
    assert fit(kind, {}).map(asked, ["text"] * 2, "query").isfinite().all()


@pytest.mark.usefixtures("unchecked")
def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="'zca' is not a geometry; choose one of none, centre"):
        CorpusGeometry("zca")  # type: ignore[arg-type]
