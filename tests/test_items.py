"""Items: every accepted form is read as it says, everything else is refused by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from probes.errors import BadItem
from probes.items import Item, Part, as_item, as_items
from probes.model.backbone import Backbone

RED = Image.new("RGB", (8, 8), "red")
BLUE = Image.new("RGB", (8, 8), "blue")


def content(item: Item) -> list[tuple[str, Any]]:
    return [(part.kind, part.value) for part in item.parts]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_a_string_is_text_whatever_it_holds(text: str) -> None:
    assert content(as_item(text)) == [("text", text)]


def test_a_string_is_never_taken_for_a_path(tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_text("inside")
    assert as_item(str(path)).text == str(path)
    assert as_item(path).text == "inside"


FORMS: list[tuple[Any, list]] = [
    (RED, [("image", RED)]),
    ({"text": "a"}, [("text", "a")]),
    ({"text": "a", "image": RED}, [("text", "a"), ("image", RED)]),
    ({"image": RED, "text": "a"}, [("image", RED), ("text", "a")]),
    ({"image": [RED, BLUE], "text": None}, [("image", RED), ("image", BLUE)]),
    (
        {"text": ("a", "b"), "video": "v", "audio": "s"},
        [("text", "a"), ("text", "b"), ("video", "v"), ("audio", "s")],
    ),
    ({"role": "user", "content": "a"}, [("text", "a")]),
    (
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "image", "image": RED}],
        },
        [("text", "a"), ("image", RED)],
    ),
    (
        [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}],
        [("text", "a"), ("text", "b")],
    ),
    (Item("a", images=[RED, BLUE]), [("image", RED), ("image", BLUE), ("text", "a")]),
    (Item(parts=[Part("text", "a"), Part("image", RED)]), [("text", "a"), ("image", RED)]),
]


@pytest.mark.parametrize(("form", "parts"), FORMS)
def test_every_form_is_read_in_order(form: Any, parts: list) -> None:
    assert content(as_item(form)) == parts


def test_kinds_mix_freely_in_one_list() -> None:
    items = as_items(["a", RED, {"text": "b"}, Item("c"), [{"role": "user", "content": "d"}]])
    assert [item.signature for item in items] == ["text", "image", "text", "text", "text"]


@pytest.mark.parametrize("lone", ["ab", RED, {"text": "a"}, Item("a")])
def test_a_lone_item_is_a_list_of_one(lone: Any) -> None:
    assert len(as_items(lone)) == 1


BAD: list[tuple[Any, str]] = [
    ("", "no content"),
    (" \n\t", "no content"),
    ({"text": ""}, "no content"),
    ({"text": None}, "no content"),
    (Item, "cannot read"),
    (3, "cannot read a value of type int"),
    (b"bytes", "cannot tell what bytes that begin with b'bytes' are"),
    (bytearray(3), "cannot tell what bytearray"),
    ({"bytes": None, "path": None}, "neither bytes nor a path"),
    (np.zeros((8, 8, 3)), "an array of float64 and shape (8, 8, 3) may be anything"),
    (np.zeros(8, np.uint8), "may be anything"),
    (np.zeros((8, 8, 5), np.uint8), "may be anything"),
    (None, "cannot read a value of type NoneType"),
    ([], "cannot read a value of type list"),
    ({}, "at least one of the keys"),
    ({"txet": "b"}, "at least one of the keys"),
    ({"text": ["a", "b"], "image": [RED]}, "here are 2 of text and 1 of image"),
    ({"text": 3}, "text must be a str, not int"),
    ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "message content"),
    ({"role": "user", "content": ["a"]}, "message content"),
    ({"role": "assistant", "content": None}, "message content"),
    (Path("picture.xyz"), "known endings"),
    (Path("nowhere.png"), "there is no file nowhere.png"),
    ("half \ud83d of a pair", "not valid Unicode at character 5"),
]


@pytest.mark.parametrize(("form", "reason"), BAD)
def test_what_cannot_be_read_is_refused_by_id(form: Any, reason: str) -> None:
    with pytest.raises(BadItem, match="item 'q7'") as caught:
        as_item(form, id="q7")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("form", "reason"),
    [(Item("a"), None), *((form, reason) for form, reason in BAD if not isinstance(form, Path))],
)
def test_an_item_without_id_is_named_by_its_place(form: Any, reason: str | None) -> None:
    if reason is None:
        item = as_items(["x", form])[1]
        assert (item, item.name, form.name) == (form, "item 1 of the list", "the item")
        return
    with pytest.raises(BadItem, match=r"^item 1 of the list") as caught:
        as_items(["x", form])
    assert reason in str(caught.value)


def test_a_lone_item_has_no_place() -> None:
    with pytest.raises(BadItem, match=r"^the item has no content"):
        as_items("")


def test_a_text_file_must_be_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(BadItem, match="is not UTF-8 text"):
        as_item(path)


def test_a_media_file_stays_a_path(tmp_path: Path) -> None:
    path = tmp_path / "red.PNG"
    RED.save(path)
    item = as_item(path)
    assert (content(item), item.id) == ([("image", path)], str(path))


def test_an_item_keeps_its_own_id() -> None:
    assert as_item({"text": "a", "id": 5}, id="given").id == "5"
    assert as_item(Item("a", id="own"), id="given").id == "own"
    assert as_item(Item("a"), id="given").id == "given"
    assert as_item("a", id="given").id == "given"


def test_another_id_keeps_content_and_metadata() -> None:
    item = Item("a", images=[RED], metadata={"year": 1}).with_id("new")
    assert (item.id, item.metadata, content(item)) == (
        "new",
        {"year": 1},
        [("image", RED), ("text", "a")],
    )


def test_metadata_is_a_copy() -> None:
    given_metadata = {"year": 1}
    item = Item("a", metadata=given_metadata)
    given_metadata["year"] = 2
    assert item.metadata == {"year": 1}


@pytest.mark.parametrize(
    ("item", "signature", "text"),
    [
        (Item("a"), "text", "a"),
        (Item(images=[RED]), "image", ""),
        (Item("a", images=[RED, BLUE]), "image+text", "a"),
        (Item("a", audios=["s"], videos=["v"]), "audio+text+video", "a"),
        (Item(parts=[Part("text", "a"), Part("image", RED)] * 2), "image+text", "a\na"),
    ],
)
def test_the_signature_is_the_mix_of_kinds(item: Item, signature: str, text: str) -> None:
    assert item.signature == signature
    assert item.text == text
    assert [part.kind for part in item.media] == [p.kind for p in item.parts if p.kind != "text"]


def test_several_texts_are_separate_lines(tiny: Callable[[str], Backbone]) -> None:
    """Both in the tokens and in `.text`."""
    item = as_item({"text": ["one word", "of the image"]})
    backbone = tiny("llama")
    assert item.text == "one word\nof the image"
    assert backbone.row(item).ids == backbone.row(item.text).ids


def test_equal_items_hash_alike() -> None:
    """Items can be members of sets and keys of dicts, whatever media and metadata they hold."""
    twins = [Item("a", images=[RED], id="x", metadata={"y": [1]}) for _ in range(2)]
    assert twins[0] == twins[1]
    assert len({*twins, Item("a", id="x")}) == 2


def test_frames_are_one_video_and_paths_are_many() -> None:
    array = np.zeros((8, 8, 3), np.uint8)
    for frames in ([RED, BLUE], [array, array], (RED,)):
        assert content(as_item({"video": frames})) == [("video", frames)]
    assert content(as_item({"video": [Path("a"), Path("b")]})) == [
        ("video", Path("a")),
        ("video", Path("b")),
    ]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda: Item(images=RED), r"images= takes a list, not a Image: images=\[…\]"),  # type: ignore[arg-type]
        (lambda: as_items(None), "cannot read a value of type NoneType as items"),
        (lambda: as_items(b"ab"), "cannot tell what bytes"),
    ],
)
def test_a_value_that_is_not_a_list_is_refused(read: Callable[[], Any], reason: str) -> None:
    with pytest.raises(BadItem, match=reason):
        read()


def test_messages_never_print_the_content() -> None:
    """Messages name an item by its id; its text may be long or private."""
    assert "secret" not in repr(Item("secret", id="x"))
