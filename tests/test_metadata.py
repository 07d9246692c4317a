"""Metadata becomes JSON by one converter, whoever hands it over; no column refuses a row."""

import datetime
import decimal
import enum
import json
import logging
import math
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.sources.files import Files
from freeret.store.payload import encode_metadata, pack, unpack
from freeret.store.table import Store
from probes.errors import BadItem
from probes.items import Item, as_item
from probes.metadata import _warn_once, as_metadata
from probes.model.backbone import Backbone
from tests.samples import picture, png

UTC = datetime.UTC
NOON = datetime.datetime(2024, 5, 6, 12, 30, 15, 250_000, tzinfo=UTC)


class Colour(enum.Enum):
    RED = "red"


VALUES: list[tuple[Any, Any]] = [
    (None, None), (True, True), (7, 7), (2**70, 2**70), (1.5, 1.5), ("日", "日"),
    (math.nan, None), (math.inf, None), (-math.inf, None), (np.float32("nan"), None),
    (NOON, "2024-05-06T12:30:15.250000+00:00"), (NOON.date(), "2024-05-06"),
    (NOON.time(), "12:30:15.250000"), (datetime.timedelta(days=1, seconds=0.5), 86400.5),
    (np.datetime64("2024-05-06T12:30"), "2024-05-06T12:30"), (np.datetime64("NaT"), None),
    (np.timedelta64(1500, "ms"), 1.5), (np.timedelta64("NaT"), None),
    (decimal.Decimal("12.50"), "12.50"), (decimal.Decimal(f"0.{7**20}"), f"0.{7**20}"),
    (uuid.UUID(int=1), f"{'0' * 8}-0000-0000-0000-{'0' * 11}1"), (Path("a/b"), "a/b"),
    (Colour.RED, "red"), (torch.ones(2), [1.0, 1.0]),
    (np.int64(3), 3), (np.bool_(True), True), (np.str_("a"), "a"), (np.float16(0.5), 0.5),
    (np.arange(3), [0, 1, 2]), (np.array([[1.0, math.nan]]), [[1.0, None]]),
    ((1, "a"), [1, "a"]), ({2, 1}, [1, 2]), ([NOON.date()], ["2024-05-06"]),
    ({"a": {1: NOON.date()}}, {"a": {"1": "2024-05-06"}}),
    ({"bytes": b"\xff", "path": "a.png"}, {"path": "a.png"}), ("half \ud83d", "half \\ud83d"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "kept"), VALUES, ids=lambda value: ascii(value)[:30])
def test_a_value_becomes_json_and_comes_back(value: Any, kept: Any) -> None:
    item = Item("a", id="x", metadata={"k": value})
    assert item.metadata == {"k": kept}
    assert type(item.metadata["k"]) is type(kept)
    text = encode_metadata(item.metadata)
    assert "NaN" not in text
    assert "Infinity" not in text
    assert unpack("x", *pack(item)) == item
    assert as_metadata(item.metadata) == item.metadata


class Odd:
    """An object without a JSON value."""


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [b"\xff", bytearray(2), memoryview(b"a"), picture(), Odd(), len, LOOP, 1j, [1, b"\xff"]],
)
def test_values_without_json_are_left_out_and_logged_once(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    for _ in range(3):
        item = Item("a", metadata={"sha": value, "year": 1, "deep": {"er": value}})
        assert item.metadata == {"year": 1, "deep": {}}
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split(" holds")[0] for line in said] == ["metadata: sha", "metadata: deep.er"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab日", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text("ab日", max_size=3), JSON, max_size=4))
def test_json_stays_as_it_is(metadata: dict[str, Any]) -> None:
    assert as_metadata(metadata) == metadata
    assert json.loads(encode_metadata(Item("a", metadata=metadata).metadata)) == metadata


# -------------------------------------------------------------------------------------- Parquet


def columns() -> dict[str, pa.Array]:
    """One column of every type that Arrow has and a table may hold, each with a null."""
    moments = [NOON, None]
    return {
        "at": pa.array(moments, pa.timestamp("us", "UTC")),
        "nanoseconds": pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns")),
        "far": pa.array([10**15, None], pa.timestamp("s")),
        "day": pa.array([NOON.date(), None]),
        "time": pa.array([NOON.time(), None]),
        "lasting": pa.array([datetime.timedelta(seconds=90), None]),
        "nanolasting": pa.array([1, None], pa.duration("ns")),
        "price": pa.array([decimal.Decimal("9.99"), None]),
        "sha": pa.array([b"\xff\x00", None]),
        "picture": pa.array([{"bytes": png(picture()), "path": "a.png"}, None]),
        "scores": pa.array([[0.5, math.nan], None], pa.list_(pa.float32())),
        "half": pa.array(np.array([0.5, math.nan], np.float16)),
        "tags": pa.array(["a", None]).dictionary_encode(),
        "nothing": pa.nulls(2),
        "big": pa.array([2**63, None], pa.uint64()),
        "pairs": pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())),
        "struct": pa.array([{"when": NOON}, None]),
    }


def test_a_parquet_of_all_types_is_indexed(
    tmp_path: Path, tiny: Callable[[str], Backbone], caplog: pytest.LogCaptureFixture
) -> None:
    _warn_once.cache_clear()
    table = pa.table({"id": ["x", "y"], "text": ["one", "two"], **columns()})
    pq.write_table(table, tmp_path / "a.parquet")
    retriever = FreeRet(tiny("llama"), Recipe("e5v", "attn[-1]", "none", "mcq"))
    done = retriever.index(Files([tmp_path / "a.parquet"]), tmp_path / "s")
    assert (done.added, done.skipped) == (2, {})
    x, y = (dict(item.metadata) for item in Store.open(tmp_path / "s").items(["x", "y"]))
    assert x.pop("nanoseconds").startswith("2023-11-14T22:13:20.123456789")
    assert x.pop("far") == 10**18, "milliseconds, as Parquet holds it"
    assert x.pop("nanolasting") in (1e-9, 0.0, "1")
    assert x == {
        "at": "2024-05-06T12:30:15.250000+00:00", "day": "2024-05-06", "time": "12:30:15.250000",
        "lasting": 90.0, "price": "9.99", "picture": {"path": "a.png"}, "scores": [0.5, None],
        "half": 0.5, "tags": "a", "nothing": None, "big": 2**63, "pairs": [["a", 1]],
        "struct": {"when": "2024-05-06T12:30:15.250000+00:00"},
    }  # fmt: skip
    assert set(y.values()) == {None}
    assert set(y) == set(columns()), "a row without a value is a row like all others"
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("metadata")]
    assert [line.split(" holds")[0] for line in said] == [
        "metadata: sha",
        "metadata: picture.bytes",
    ]


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (pa.array([b"a", b"b"]), ["a", "b"]),
        (pa.array([1.0, 2.0]), ["1", "2"]),
        (pa.array([1.0, None]), ["1", "a.parquet:2"]),
        (pa.array([decimal.Decimal(1), decimal.Decimal(2)]), ["1", "2"]),
        (pa.array(["é", "日"]).dictionary_encode(), ["é", "日"]),
        (pa.array([1.5, 2.0]), ["an id must be", "2"]),
        (pa.array([b"\xff", b"b"]), ["an id must be", "b"]),
        (pa.array([True, None]), ["an id must be", "a.parquet:2"]),
        (pa.array([NOON, None]), ["an id must be", "a.parquet:2"]),
    ],
)
def test_an_id_of_any_type_is_text(ids: pa.Array, said: list[str], tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ids, "text": ["one", "two"]}), tmp_path / "a.parquet")
    found = Files([tmp_path / "a.parquet"], on_error="skip", folder_names=False)
    for item, expected in zip(found, said, strict=True):
        if isinstance(item, BadItem):
            assert expected in str(item)
        else:
            assert item.id == expected


def test_unknown_keys_of_a_dict_are_metadata() -> None:
    item = as_item({"id": "7", "text": "hello", "category": "x", "at": NOON.date()})
    assert (item.id, item.text) == ("7", "hello")
    assert item.metadata == {"category": "x", "at": "2024-05-06"}
    both = as_item({"text": "a", "k": 1, "j": 2, "metadata": {"k": 3}})
    assert both.metadata == {"k": 3, "j": 2}
