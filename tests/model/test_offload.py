"""A model that accelerate has offloaded in part is the same backbone as the whole one."""

import copy
from pathlib import Path

import accelerate
import pytest
import torch
import transformers

from freeret.check import check
from freeret.recipe import Recipe
from freeret.reranker import Reranker
from freeret.retriever import FreeRet
from probes import Backbone, Item, record
from probes.errors import UnsupportedBackbone
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import picture
from tests.stores import save_tiny

RECIPE = Recipe("e5v", "attn[-1]", "centre", "mcq")
PARTS = ("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head",
         *(f"model.layers.{layer}" for layer in range(4)))  # fmt: skip
MAPS: dict[str, dict[str, str]] = {
    name: {part: "disk" if part in on_disk else "cpu" for part in PARTS}
    for name, on_disk in {
        "nothing": (),
        "two layers": ("model.layers.2", "model.layers.3"),
        "head": ("lm_head",),
        "norm": ("model.norm",),
        "embeddings": ("model.embed_tokens",),
        "every part": PARTS,
    }.items()
} | {"whole": {"": "disk"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Backbone:
    return Backbone.load(folder)


def same(backbone: Backbone, whole: Backbone) -> None:
    """Everything that reads weights gives the same result as on the whole model."""
    assert backbone.fingerprint() == whole.fingerprint()
    assert backbone.device == whole.device
    assert backbone.dtype == whole.dtype
    sources = ["a text", "the word of the image"]
    sites = ["attn[0]", "attn[-1]", "mlp[-1]", "norm"]
    states, expected = (record(b, b.encode(sources), sites, logits=True) for b in (backbone, whole))
    assert all(torch.equal(states[site], expected[site]) for site in sites)
    assert states.logits is not None
    assert expected.logits is not None
    assert torch.equal(states.logits, expected.logits)
    state, words = expected["norm"], torch.tensor([5, 0, 77])
    assert torch.equal(backbone.lens(state, "norm"), whole.lens(state, "norm"))
    assert torch.equal(backbone.word_rows(words), whole.word_rows(words))
    assert torch.equal(backbone.label_logits(state, [3, 9]), whole.label_logits(state, [3, 9]))
    pairs = [("a text", "the word"), ("a text", "one of")]
    ours, theirs = (Reranker(b).predict(pairs) for b in (backbone, whole))
    assert ours.tolist() == theirs.tolist()
    assert backbone.generate("a text", 4) == whole.generate("a text", 4)


@pytest.mark.parametrize("name", MAPS)
def test_an_offloaded_model_equals_the_whole_one(
    name: str, folder: Path, whole: Backbone, tmp_path: Path
) -> None:
    backbone = Backbone.load(folder, device_map=MAPS[name])
    offloaded = {path for path, weight in backbone.model.named_parameters() if weight.is_meta}
    assert bool(offloaded) == ("disk" in MAPS[name].values()), "else nothing is tested"
    same(backbone, whole)
    retriever = FreeRet(backbone, RECIPE)
    assert retriever.index(["the word", "a text"], tmp_path / "s").added == 2
    assert FreeRet.load(tmp_path / "s", whole).search("a text", 1)[0].item.text == "a text"
    assert {path for path, w in backbone.model.named_parameters() if w.is_meta} == offloaded
    checks = {c.what: c for c in check(backbone)}
    assert all(c.passed for c in checks.values())
    assert checks["weights"].found.endswith(f"{len(offloaded)} of 39 offloaded")


@pytest.mark.parametrize("how", ["cpu", "disk"])
def test_a_loaded_model_may_be_offloaded(how: str, whole: Backbone, tmp_path: Path) -> None:
    model = copy.deepcopy(TEXT["llama"]())
    if how == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert all(weight.is_meta for weight in model.parameters())
    model.config._name_or_path = whole.name
    same(Backbone.load(model, tokenizer=whole.tokenizer), whole)


@pytest.mark.parametrize("name", ["gemma3-text", "gpt2"])
def test_a_head_that_shares_the_embeddings_may_be_offloaded(name: str, tmp_path: Path) -> None:
    model = copy.deepcopy(TEXT[name]())
    whole = Backbone.load(TEXT[name](), tokenizer=tokenizer())
    accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    same(Backbone.load(model, tokenizer=tokenizer()), whole)


def test_an_offloaded_tower_reads_pictures(tmp_path: Path) -> None:
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    model.save_pretrained(tmp_path / "model")
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model",
        device_map={"model.visual": "disk", "model.language_model": "cpu", "lm_head": "cpu"},
        dtype=torch.float32,
    )
    assert next(loaded.parameters()).is_meta, "nnsight would put the inputs there"
    whole = Backbone.load(model, processor=processor)
    backbone = Backbone.load(loaded, processor=processor)
    assert backbone.fingerprint()["weights"] == whole.fingerprint()["weights"]
    item = Item("what is it", images=[picture()])
    states, expected = (
        record(b, b.encode([item, "a text"]), ["attn[-1]"])["attn[-1]"] for b in (backbone, whole)
    )
    assert torch.equal(states, expected)


@pytest.mark.parametrize("part", ["lm_head", "model.layers.1.mlp"])
def test_weights_that_cannot_be_loaded_are_named(part: str, whole: Backbone) -> None:
    model = copy.deepcopy(TEXT["llama"]())
    model.get_submodule(part).to("meta")
    with pytest.raises(UnsupportedBackbone, match=part):
        Backbone.load(model, tokenizer=whole.tokenizer)
