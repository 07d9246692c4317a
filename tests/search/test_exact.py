"""Blocks change nothing: the best of all, ties by id, filters, whatever fits in memory."""

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from freeret.search import exact
from freeret.search.exact import TILE, Block, product_error, resident, top_k
from freeret.search.geometry import fit_geometry
from freeret.search.scan import block_rows, scan
from freeret.store.filters import Selection, passes, to_sql
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Geometry
from probes.geometry import Affine, CorpusGeometry, unit
from probes.measure.reference import no_reference

SIZE = 16


def corpus(count: int, seed: int = 0, distinct: int = 10**9) -> tuple[list[str], Tensor]:
    """Ids in no order, and unit vectors, many of them equal when `distinct` is small."""
    draw = torch.Generator().manual_seed(seed)
    rows = unit(torch.randn(min(count, distinct), SIZE, generator=draw))
    return [f"{(k * 7919) % 10007:05}" for k in range(count)], rows[torch.arange(count) % len(rows)]


def cut(ids: list[str], vectors: Tensor, sizes: list[int]) -> Iterator[Block]:
    start = 0
    for size in [*sizes, len(ids)]:
        yield Block(ids[start : start + size], vectors[start : start + size])
        start += size


def by_hand(ids: list[str], vectors: Tensor, query: Tensor, count: int) -> list[str]:
    scores = {
        id: round(float(v.double() @ query.double()), 12)
        for id, v in zip(ids, vectors, strict=True)
    }
    return sorted(ids, key=lambda id: (-scores[id], id))[:count]


@given(
    st.integers(0, 60),
    st.lists(st.integers(0, 20), max_size=6),
    st.integers(0, 12),
    st.sampled_from([1, 3, 10**9]),
)
def test_blocks_of_any_size_give_the_best(
    count: int, sizes: list[int], top: int, distinct: int
) -> None:
    """Equal vectors lie in other blocks, at other places of their block, and tie all the same."""
    ids, vectors = corpus(count, distinct=distinct)
    queries = unit(torch.randn(3, SIZE, generator=torch.Generator().manual_seed(1)))
    found = top_k(cut(ids, vectors, sizes), queries, top)
    assert [[id for id, _ in pairs] for pairs in found] == [
        by_hand(ids, vectors, query, top) for query in queries
    ]
    for pairs, query in zip(found, queries, strict=True):
        at = {id: k for k, id in enumerate(ids)}
        np.testing.assert_allclose(
            [score for _, score in pairs], [float(vectors[at[id]] @ query) for id, _ in pairs],
            atol=1e-6,
        )  # fmt: skip


def test_scores_nearer_than_float32_are_ordered_in_float64() -> None:
    query = unit(torch.ones(1, SIZE))
    near = query.repeat(40, 1)
    near[:, 0] += torch.arange(40) * 1e-8 * (-1) ** torch.arange(40)
    ids = [f"{k:02}" for k in range(40)]
    [found] = top_k(cut(ids, near, [7, 13]), query, 10)
    assert [id for id, _ in found] == by_hand(ids, near, query[0], 10)


# ------------------------------------------------------------------------------ half precision


@st.composite
def near_duplicates(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Queries, and documents that lie around them: equal, zero, orthogonal, and nearer than any
    number format of 16 bits can tell."""
    size = draw(st.sampled_from([3, 16, 200]))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    queries = unit(torch.randn(3, size, generator=noise))
    distances = draw(
        st.lists(st.sampled_from([0.0, 1e-7, 1e-5, 1e-3, 1.0, 1e9]), min_size=1, max_size=40)
    )
    rows = torch.stack(
        [
            queries[n % 2] + distance * torch.randn(size, generator=noise) / size**0.5
            for n, distance in enumerate(distances)
        ]
    )
    rows[draw(st.integers(0, len(rows) - 1))] = 0
    return queries, unit(rows)


def brute_force(
    blocks: list[Block], queries: Tensor, count: int, affine: dict[str, Affine]
) -> list[list[tuple[str, float]]]:
    """All scores in float64."""
    found = []
    for place, query in enumerate(queries):
        pairs = []
        for ids, vectors, signature, _ in blocks:
            cosines = (vectors.double() * query.double()).sum(1).tolist()
            gain, shift = (float(a[place]) for a in affine.get(signature, ([1.0] * 3, [0.0] * 3)))
            best = sorted(zip(ids, cosines, strict=True), key=lambda p: (-p[1], p[0]))
            pairs += [(id, gain * cosine + shift) for id, cosine in best]
        found.append(sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("copied", [False, True])
@given(
    made=near_duplicates(),
    top=st.integers(1, 50),
    tile=st.sampled_from([9, 60, 10**6]),
    calibrated=st.booleans(),
)
def test_half_precision_finds_the_same_scores_as_float64(
    dtype: torch.dtype, copied: bool, made: tuple[Tensor, Tensor], top: int, tile: int,
    calibrated: bool,
) -> None:  # fmt: skip
    """Whatever rounds in the products, and whether the vectors are rounded before or meanwhile."""
    queries, vectors = made
    ids = [f"{(k * 7919) % 10007:05}" for k in range(len(vectors))]
    half = len(ids) // 2
    blocks = [
        Block(ids[rows], vectors[rows], signature, vectors[rows].to(dtype) if copied else None)
        for rows, signature in ((slice(half), "text"), (slice(half, None), "image"))
    ]
    affine = {
        "text": Affine(torch.tensor([0.5, 2.0, 1.0]), torch.tensor([0.1, -0.3, 0.0])),
        "image": Affine(torch.tensor([1.5, 1.0, 0.7]), torch.tensor([-0.2, 0.4, 0.2])),
    }
    affine = affine if calibrated else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TILE, "cpu", tile)
        found = top_k(blocks, queries, top, affine, dtype=dtype)
    assert found == brute_force(blocks, queries, top, affine)


@given(
    made=near_duplicates(),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_the_error_of_a_product_is_bounded(made: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    queries, vectors = made
    products = queries.to(dtype).float() @ vectors.to(dtype).float().T
    exact = queries.double() @ vectors.double().T
    assert (products - exact).abs().max() <= product_error(dtype, queries.shape[1])


def test_the_worst_rounding_is_within_the_bound() -> None:
    """All components of both vectors are rounded the same way, as far as they can be."""
    for dtype in (torch.float16, torch.bfloat16):
        # Just below the middle between 2**-3 and the next number, and rounded down to 2**-3.
        component = 2**-3 * (1 + 0.499 * torch.finfo(dtype).eps)
        vector = torch.full((64,), component, dtype=torch.double)
        lost = vector @ vector - vector.to(dtype).double() @ vector.to(dtype).double()
        bound = product_error(dtype, 64)
        assert 0.95 * bound < lost < bound, dtype


def test_a_candidate_is_scored_once_in_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many products a block takes, few more pairs are scored than are asked for."""
    scored: list[int] = []
    dots = exact._dots

    def watched(wide: Tensor, rows: Tensor, places: np.ndarray, columns: np.ndarray) -> np.ndarray:
        scored.append(len(places))
        return dots(wide, rows, places, columns)

    monkeypatch.setattr(exact, "_dots", watched)
    monkeypatch.setitem(TILE, "cpu", 5 * 200)
    ids, vectors = corpus(9000)
    queries = unit(torch.randn(5, SIZE, generator=torch.Generator().manual_seed(1)))
    for dtype in (torch.float32, torch.float16):
        scored.clear()
        top_k([Block(ids, vectors)], queries, 20, dtype=dtype)
        assert 100 <= sum(scored) < 150


class Watched(Sequence[str]):
    """Ids that count how often one is read."""

    def __init__(self, ids: list[str]):
        self.ids, self.reads = ids, 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        self.reads += 1
        return self.ids[place]


def test_ids_are_read_of_candidates_alone() -> None:
    ids, vectors = corpus(5000)
    watched = Watched(ids)
    top_k([Block(watched, vectors)], vectors[:3], 10)
    assert 30 <= watched.reads < 50


def test_vectors_stay_where_they_are_without_a_gpu() -> None:
    block = Block(["a"], torch.ones(1, 3))
    assert [kept.copy for kept in resident([block], "cpu")] == [None]


# --------------------------------------------------------------------------------- the store


def filled(folder: Path, count: int) -> tuple[Store, list[Record]]:
    store = Store.create(folder, {"recipe": {}}, SIZE)
    draw = np.random.default_rng(0)
    records = [
        Record(
            id=f"{k:03}",
            hash="",
            signature="image" if k % 5 == 0 else "text",
            parts="[]",
            blobs=[],
            metadata=json.dumps(METADATA[k % len(METADATA)], sort_keys=True, ensure_ascii=False),
            vector=draw.normal(size=SIZE).astype(np.float32),
        )
        for k in range(count)
    ]
    for start in range(0, count, 40):
        store.write(records[start : start + 40])
    return store, records


METADATA: list[dict[str, Any]] = [
    {"kind": "a", "year": 1},
    {"kind": 'quo"te', "year": 1.0},
    {"kind": "it's", "year": True},
    {"kind": "日本%_", "nested": {"kind": "a"}},
    {"other": "a"},
    {"kind": ["a"], "year": "1"},
    {},
]
FILTERS: list[dict[str, Any]] = [
    {"kind": "a"},
    {"kind": 'quo"te'},
    {"kind": "it's"},
    {"kind": "日本%_"},
    {"kind": ["a", "it's"]},
    {"kind": ["a", 7]},
    {"year": 1},
    {"year": "1", "kind": [["a"]]},
    {"kind": []},
    {"nobody": "a"},
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """100 rows in three commits. Leave it as it is."""
    return filled(tmp_path_factory.mktemp("exact"), 100)[0]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
def test_what_the_disk_holds_back_would_not_pass(wanted: dict[str, Any], store: Store) -> None:
    """The SQL of a filter loses nothing; the exact filter after it lets nothing more through."""
    expected = sorted(
        id for id, facts in zip(store.vectors().ids, store.vectors().metadata, strict=True)
        if passes(facts, wanted)
    )  # fmt: skip
    found = [id for block in scan(store, Geometry(), 30, Selection.of(wanted)) for id in block.ids]
    assert sorted(found) == expected
    if to_sql(wanted):
        read = sum(len(b.ids) for b in store.blocks(where=to_sql(wanted)))
        assert len(expected) <= read < 100, "the condition kept something back"


def test_the_disk_is_asked_for_strings() -> None:
    assert to_sql({"kind": "a"}) == """(contains(metadata, '"kind": "a"'))"""
    assert to_sql({"kind": ["a", "it's"], "year": 1}) == (
        """(contains(metadata, '"kind": "a"') OR contains(metadata, '"kind": "it''s"'))"""
        """ AND (contains(metadata, '"year": '))"""
    )
    assert to_sql({"year": ["1", 1]}) == """(contains(metadata, '"year": '))"""
    assert to_sql(lambda metadata: True) is None


def test_blocks_fit_the_memory() -> None:
    """Vectors four times over, as read, mapped, and in float64; scores twice; four bytes each."""
    assert block_rows(576, 2000, 1e6) == 1_000_000 // (4 * (4 * 576 + 2 * 2000))
    assert block_rows(576, 2000, 10.0) == 1


def test_a_function_filters_every_block(store: Store) -> None:
    found = [
        id
        for block in scan(store, Geometry(), 7, Selection.of(lambda m: "year" in m))
        for id in block.ids
    ]
    assert sorted(found) == [f"{k:03}" for k in range(100) if "year" in METADATA[k % 7]]


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_blocks_hold_no_more_rows_than_asked_for(rows: int, store: Store) -> None:
    seen = list(store.blocks(rows))
    assert max(len(block.ids) for block in seen) <= rows
    assert all(block.metadata == [] for block in seen)
    whole = store.vectors()
    together = {id: v for block in seen for id, v in zip(block.ids, block.vectors, strict=True)}
    assert sorted(together) == whole.ids
    assert torch.equal(torch.stack([together[id] for id in whole.ids]), whole.vectors)


@pytest.mark.parametrize("kind", ["centre", "whiten"])
def test_geometry_is_fitted_in_one_pass(kind: Any, tmp_path: Path) -> None:
    store, _ = filled(tmp_path, 200)
    loaded = store.vectors()
    at_once = CorpusGeometry.of(kind, loaded.ids, loaded.signatures, loaded.vectors, no_reference)
    passed = fit_geometry(kind, store, no_reference)
    vectors = torch.randn(5, SIZE)
    for signature in ("text", "image"):
        ours, theirs = (g.map(vectors, [signature] * 5, "query") for g in (passed, at_once))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    queries = passed.map(vectors, ["text"] * 5, "query")
    ours, theirs = (g.calibration(queries) for g in (passed, at_once))
    assert ours.keys() == theirs.keys() == {"text", "image"}
    for signature, affine in ours.items():
        torch.testing.assert_close(tuple(affine), tuple(theirs[signature]), atol=1e-5, rtol=0)


# --------------------------------------------------------------------- several signatures at once


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 12))
def test_each_signature_is_scored_on_its_scale(texts: int, pictures: int, top: int) -> None:
    """All items, cut into blocks of one signature each, ranked as by gain · cosine + shift."""
    (ids, vectors), draw = corpus(texts + pictures), torch.Generator().manual_seed(3)
    queries = unit(torch.randn(2, SIZE, generator=draw))
    affine = {
        "text": Affine(torch.tensor([0.5, 2.0]), torch.tensor([0.1, -0.3])),
        "image": Affine(torch.tensor([1.5, 1.0]), torch.tensor([-0.2, 0.4])),
    }
    signatures = ["text"] * texts + ["image"] * pictures
    blocks = [
        Block(ids[start:stop], vectors[start:stop], signature)
        for signature, edges in (("text", (0, texts // 2, texts)), ("image", (texts, len(ids))))
        for start, stop in itertools.pairwise(edges)
    ]
    found = top_k(blocks, queries, top, affine)
    for place, query in enumerate(queries):
        scores = {
            id: float(affine[s].gain[place] * (v @ query) + affine[s].shift[place])
            for id, s, v in zip(ids, signatures, vectors, strict=True)
        }
        expected = sorted(ids, key=lambda id: -scores[id])[:top]
        assert [id for id, _ in found[place]] == expected
        assert [s for _, s in found[place]] == pytest.approx(
            [scores[i] for i in expected], abs=1e-5
        )
