"""The geometry of a store is kept with it, for one version of its items."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from freeret.search.geometry import fit_geometry
from freeret.store.table import Store
from probes import Geometry, Item
from probes.geometry import GeometryKind
from probes.measure.reference import no_reference
from tests.store.records import SIZE, made


def fitted(kind: GeometryKind, store: Store) -> Geometry:
    return fit_geometry(kind, store, no_reference)


@pytest.mark.parametrize("inside", ["", "_transactions", "_versions"])
def test_an_interrupted_geometry_table_counts_as_missing(inside: str, store: Store) -> None:
    store.write([made(id) for id in "abc"])
    Path(store.location, "geometry.lance", inside).mkdir(parents=True)
    there = Store.open(store.location)
    assert there.geometry() is None
    there.save_geometry(fitted("centre", there))
    assert Store.open(store.location).geometry() is not None


@pytest.mark.parametrize("kind", ["none", "centre", "whiten"])
def test_a_saved_geometry_maps_as_before(kind: Any, store: Store) -> None:
    store.write([made(id) for id in "abcdefgh"])
    store.write([made(id, Item(images=[Image.new("RGB", (9, 9))])) for id in "xyz"])
    geometry = fitted(kind, store)
    store.save_geometry(geometry)
    kept = Store.open(store.location).geometry()
    assert kept is not None
    assert kept.kind == kind
    vectors = torch.randn(6, SIZE)
    for side in ("query", "document"):
        for signature in ("text", "image"):
            signatures = [signature] * 6
            ours, theirs = (g.map(vectors, signatures, side) for g in (geometry, kept))
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    queries = geometry.map(vectors, ["text"] * 6, "query")
    ours, theirs = (g.calibration(queries) for g in (geometry, kept))
    assert ours.keys() == theirs.keys() == (set() if kind == "none" else {"text", "image"})
    for signature, affine in ours.items():
        torch.testing.assert_close(tuple(affine), tuple(theirs[signature]), atol=1e-6, rtol=0)


def test_a_geometry_of_another_format_is_fitted_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write([made("a"), made("b")])
    store.save_geometry(fitted("centre", store))
    monkeypatch.setattr("freeret.store.fitted.GEOMETRY_FORMAT", 10**6)
    assert store.geometry() is None


def test_geometry_is_of_one_version_of_the_items(store: Store) -> None:
    assert store.geometry() is None
    store.write([made("a"), made("b")])
    store.save_geometry(fitted("centre", store))
    assert store.geometry() is not None
    store.write([made("c")])
    assert store.geometry() is None
    store.save_geometry(fitted("centre", store))
    store.delete(["c"])
    assert store.geometry() is None


def test_old_geometries_are_not_kept(store: Store) -> None:
    """A transform of 3,584 dimensions has 51 MB, so that only the latest is kept."""
    store.write([made(id) for id in "abcdefgh"])
    geometry = fitted("whiten", store)
    for _ in range(12):
        store.save_geometry(geometry)
    assert len(list(Path(store.location, "geometry.lance", "data").iterdir())) <= 3
