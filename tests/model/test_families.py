"""Every multimodal family of the zoo: found, traced, batched and shared as a released model is."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from freeret.check.model import checks
from freeret.scale import sizing
from probes.errors import UnsupportedBackbone
from probes.items import Item, Part
from probes.measure.framing import FRAMES
from probes.model.backbone import Backbone
from probes.model.batches.run import run_batches
from probes.model.batches.sharing import share_error
from probes.model.encoding import Batch
from probes.model.trace import record
from tests.models import MULTIMODAL, tokenizer
from tests.samples import film, picture, text
from tests.zoo import HYBRIDS, UNREAD, ZOO

SITES = ["attn[0]", "attn[-1]", "mlp[-1]", "norm"]
SCALED = {"gemma4", "gemma4-unified", "gemma4-text"}
"""Whose layers end with more than their MLP: a per-layer input and a scale of the sum."""
STATEFUL = "some layers keep a running state and no keys to continue from"
DECLINED = {
    **dict.fromkeys(("qwen3.5", "qwen3.5-moe", "lfm2-vl", "lfm3-vl"), STATEFUL),
    **dict.fromkeys(("minicpm-v4.6", "minicpm-v4.7", "minicpm-ocr"), STATEFUL),
    **dict.fromkeys(("qwen3-next", "qwen3.5-text", "lfm2"), STATEFUL),
    **dict.fromkeys(("jamba", "granite-hybrid"), STATEFUL),
    "mistral-large4": "cannot continue a cache",
}
"""Why a prefix cannot be shared."""
TYPED = {"cosmos3-edge"}
"""Whose processor returns token types only when asked to."""

PICTURE = Item(parts=[text("the word"), Part("image", picture()), text(" of")])
OTHER = Item(parts=[text("the word"), Part("image", picture(seed=9)), text(" of")])
PICTURES = Item(
    parts=[text("one"), Part("image", picture(48, 64, 3)), text(" and"),
           Part("image", picture(64, 32, 1)), text(" of the words")]
)  # fmt: skip
FILM = Item(parts=[text("the word"), Part("video", film()), text(" of")])
ITEMS = ["only text", PICTURE, PICTURES, "more of the text, which is longer than the first"]


@functools.cache
def loaded(name: str) -> Backbone:
    if name in HYBRIDS:
        return Backbone.load(HYBRIDS[name](), tokenizer=tokenizer())
    model, processor = (ZOO | UNREAD)[name]()
    return Backbone.load(model, processor=processor)


def items(name: str) -> list[Any]:
    """Items of the kinds that a family reads: text, pictures, a film."""
    if name in HYBRIDS:
        return [item for item in ITEMS if isinstance(item, str)]
    perception = loaded(name).encoder.perception
    assert perception is not None
    return [*ITEMS, FILM] if "video" in perception.kinds and name != "ernie4.5-vl" else ITEMS


def states(backbone: Backbone, *sources: Any) -> Tensor:
    found = record(backbone, backbone.encode(sources), SITES)
    return torch.cat([found[site] for site in SITES], dim=-1)


def apart(left: Tensor, right: Tensor) -> float:
    return ((left - right).norm(dim=-1) / right.norm(dim=-1)).max().item()


@pytest.mark.parametrize("name", [*ZOO, *HYBRIDS])
def test_the_residual_stream_is_found(name: str) -> None:
    anatomy = loaded(name).anatomy
    assert (anatomy.residual_error, anatomy.logit_error) == (0.0, 0.0)
    assert (anatomy.num_layers, anatomy.hidden_size) == (4, 64)
    if name in SCALED:
        assert anatomy.output_error > 0.1
        assert "mlp[l] is the layer's output" in anatomy.notes[0]
    else:
        assert (anatomy.output_error, anatomy.notes) == (0.0, ())


@pytest.mark.parametrize("name", [*ZOO, *HYBRIDS])
def test_a_check_of_the_model_finds_nothing_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "MIN_SECONDS", 0.0)
    assert [line for line in checks(loaded(name)) if not line.passed] == []


@pytest.mark.parametrize("name", [*MULTIMODAL, *ZOO])
def test_media_are_read_in_half_precision(name: str) -> None:
    """Not every tower converts pixels to its dtype."""
    model, processor = (ZOO | MULTIMODAL)[name]()
    half = Backbone.load(copy.deepcopy(model).bfloat16(), processor=processor)
    assert half.encoder.perception is not None
    films = [FILM] if "video" in half.encoder.perception.kinds and name != "ernie4.5-vl" else []
    found = states(half, "only text", PICTURE, PICTURES, *films)
    assert found.dtype == torch.bfloat16
    assert found.isfinite().all()


@contextmanager
def hooked(modules: list[Any], hook: Callable) -> Iterator[None]:
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", [*ZOO, *HYBRIDS])
def test_states_are_those_of_plain_hooks(name: str) -> None:
    """With pictures too; `attn` is the input of a layer plus one of its branches."""
    backbone = loaded(name)
    batch: Batch = backbone.encode(items(name))
    model, anatomy = backbone.model, backbone.anatomy
    layers, norm = model.get_submodule(anatomy.layers), model.get_submodule(anatomy.norm)
    entered: dict[Any, Tensor] = {}
    left: dict[Any, Tensor] = {}

    def hook(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        for held, value in (
            (entered, args[0] if args else kwargs["hidden_states"]),
            (left, output),
        ):
            value = value[0] if isinstance(value, tuple) else value
            held[module] = value.reshape(len(batch), -1, value.shape[-1])[:, -1].clone()

    plain = [m for m in layers[-1].children() if not isinstance(m, torch.nn.ModuleList)]
    with hooked([layers[-1], norm, *plain], hook):
        model(**batch.inputs, use_cache=False)
    found = record(backbone, batch, ["attn[-1]", "mlp[-1]", "norm"])
    middle = entered[getattr(layers[-1], anatomy.mid)]
    assert torch.equal(found["attn[-1]"], middle)
    assert torch.equal(found["mlp[-1]"], left[layers[-1]])
    assert torch.equal(found["norm"], left[norm])
    branches = [
        entered[layers[-1]] + anatomy.residual_scale * output
        for output in left.values()
        if output.shape == middle.shape
    ]
    assert any(torch.equal(middle, branch) for branch in branches)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("item", [PICTURE, PICTURES], ids=["picture", "pictures"])
@pytest.mark.parametrize("name", ZOO)
def test_tokens_and_states_are_those_of_transformers_alone(name: str, item: Item) -> None:
    """Cached features are those of the pixels, in the places that the processor gives them."""
    backbone = loaded(name)
    processor: Any = backbone.processor
    bos = backbone.tokenizer.bos_token
    content: list[dict[str, Any]] = [
        {"type": "text", "text": part.value} if part.kind == "text" else {"type": part.kind}
        for part in item.parts
    ]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(
        text=[rendered],
        images=[[part.value for part in item.media]],
        return_tensors="pt",
        text_kwargs={"add_special_tokens": not (bos and rendered.startswith(bos))},
        **({"return_mm_token_type_ids": True} if name in TYPED else {}),
    )
    row = backbone.row(item)
    assert row.ids == inputs["input_ids"][0].tolist()
    with torch.no_grad():
        hidden = backbone.model(**inputs, output_hidden_states=True).hidden_states
    found = record(backbone, backbone.collate([row]), ["mlp[0]", "norm"])
    assert apart(found["mlp[0]"], hidden[1][:, -1]) <= 1e-5
    assert apart(found["norm"], hidden[-1][:, -1]) <= 1e-5


@pytest.mark.parametrize("name", [*ZOO, *HYBRIDS])
def test_a_row_does_not_depend_on_its_batch(name: str) -> None:
    backbone = loaded(name)
    rows = items(name)
    together = states(backbone, *rows)
    for row, state in zip(rows, together, strict=True):
        assert apart(state[None], states(backbone, row)) <= 1e-5


@pytest.mark.parametrize("name", ZOO)
def test_another_picture_gives_another_state(name: str) -> None:
    backbone = loaded(name)
    assert apart(states(backbone, OTHER), states(backbone, PICTURE)) > 1e-3


@pytest.mark.parametrize("name", [*ZOO, *HYBRIDS])
def test_a_prefix_is_shared_exactly_or_declined(name: str) -> None:
    backbone = loaded(name)
    reason = share_error(backbone) or ""
    assert bool(reason) == (name in DECLINED), reason
    assert DECLINED.get(name, "") in reason
    contents = [item if isinstance(item, Item) else Item(item) for item in items(name)]
    rows = [backbone.row(FRAMES["mcq"].apply(Item("the word"), item)) for item in contents]
    norms = run_batches(backbone, rows, lambda b: list(record(backbone, b, ["norm"])["norm"]))
    for row, state in zip(rows, norms, strict=True):
        alone = record(backbone, backbone.collate([row]), ["norm"])["norm"][0]
        assert apart(state, alone) <= 1e-5


def test_a_row_of_pictures_and_films_is_computed_where_they_share_a_token() -> None:
    """GLM uses its picture token for films too: features must be in the order of the row."""
    backbone = loaded("glm4v")
    first = Item(parts=[*PICTURE.parts, *FILM.parts])
    second = Item(parts=[*FILM.parts, *PICTURE.parts])
    together = states(backbone, first, second, PICTURE, FILM)
    for item, state in zip((first, second, PICTURE, FILM), together, strict=True):
        assert apart(state[None], states(backbone, item)) <= 1e-5
    moved = Item(parts=[*PICTURE.parts, text("the word"), Part("video", film(seed=9)), text(" of")])
    assert apart(together[1], together[0]) > 1e-3
    assert apart(states(backbone, moved), together[:1]) > 1e-3


def test_llama4_is_refused_at_load() -> None:
    """Its class fails on text in this release of transformers."""
    with pytest.raises(
        UnsupportedBackbone, match="Llama4ForConditionalGeneration: two short rows of text"
    ):
        loaded("llama4")


def test_a_processor_that_fails_on_every_picture_is_named_and_not_the_item() -> None:
    """Text can still be read."""
    backbone = loaded("got-ocr2")
    assert torch.isfinite(states(backbone, "only text")).all()
    with pytest.raises(
        UnsupportedBackbone, match="GotOcr2Processor fails on any image beside text"
    ):
        backbone.row(PICTURE)


def test_more_than_forty_families_read_pictures() -> None:
    assert len(ZOO) + len(MULTIMODAL) > 45
    assert all("image" in loaded(name).modalities for name in ZOO)


def test_the_table_names_every_family_of_this_release() -> None:
    """For a new release: python scripts/families.py > docs/families.md"""
    table = (Path(__file__).parents[2] / "docs" / "families.md").read_text()
    assert f"transformers {transformers.__version__}," in table
    rows = {cells[1].strip(): cells[3].strip() for cells in map(split, table.splitlines()) if cells}
    assert rows.keys() - {"model_type", "---"} == MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.keys()
    for name in ZOO:
        kind = loaded(name).model.config.model_type
        assert rows.get(kind, "works") == "works", f"{kind} is {rows[kind]} in docs/families.md"


def split(line: str) -> list[str]:
    return line.split("|") if line.startswith("|") else []
