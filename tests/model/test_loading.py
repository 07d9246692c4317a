"""Loading settings: given once, they hold wherever the backbone is loaded again."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freeret.embedder import Embedder
from freeret.evaluate.systems.registry import Pooled
from freeret.reranker import Reranker
from probes import NAMED, Backbone, Item, Loading, MediaOptions
from probes.errors import BackboneNotFound, BadSetting
from probes.model.batches.states import prompted_states
from probes.model.pretrained import _dtype, usable_device
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.stores import save_tiny

Tiny = Callable[[str], Backbone]
WORDS = [f"{k} of {'the word ' * (k % 7)}" for k in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


# ------------------------------------------------------------------------------------- the value


def test_dtypes_and_devices_of_torch_are_kept_by_name() -> None:
    loading = Loading.of(
        None,
        {
            "dtype": torch.bfloat16,
            "device_map": {"": torch.device("cpu"), "head": 1},
            "attn_implementation": "eager",
        },
    )
    assert loading == Loading(dtype="bfloat16", device_map={"": "cpu", "head": 1}, attn="eager")
    assert Loading.of(None, {"device": torch.device("cuda", 1)}).device == "cuda:1"
    assert json.loads(json.dumps(loading.given())) == loading.given()


def test_a_loading_survives_being_written() -> None:
    loading = Loading(
        dtype="float16", attn="sdpa", device_map={"": 0}, quantize="4bit", revision="abc",
        max_pixels=5, frames=6, images={"size": {"longest_edge": 7}}, max_tokens=8, token_budget=9,
    )  # fmt: skip
    assert Loading.from_json(json.loads(json.dumps(loading.given()))) == loading
    assert Loading().given() == {}
    assert Loading.from_json({"frames": 3, "of a later version": 1}) == Loading(frames=3)


def test_given_settings_override_recorded_ones() -> None:
    recorded = Loading(dtype="bfloat16", device_map="auto", frames=4)
    assert recorded.updated(Loading()) == recorded
    assert recorded.updated(Loading(frames=2)) == replace(recorded, frames=2)
    assert recorded.updated(Loading(device="cpu")) == Loading("cpu", "bfloat16", frames=4)
    moved = Loading(device="cuda").updated(Loading(device_map="auto"))
    assert moved == Loading(device_map="auto")


def test_an_unknown_setting_names_those_that_exist(folder: Path) -> None:
    with pytest.raises(BadSetting, match="no loading setting 'dtyp'") as caught:
        Backbone.load(folder, dtyp="float32")
    assert all(field.name in str(caught.value) for field in fields(Loading))


# ---------------------------------------------------------------------------------- the backbone


def test_settings_by_name_are_those_of_a_loading(folder: Path) -> None:
    by_name = Backbone.load(folder, dtype="bfloat16", frames=4, max_tokens=99, attn="eager")
    by_value = Backbone.load(folder, Loading("cpu", "bfloat16", "eager", frames=4), max_tokens=99)
    assert by_name.loading == replace(by_value.loading, device=None)
    assert by_name.fingerprint() == by_value.fingerprint()
    for backbone in (by_name, by_value):
        assert backbone.dtype == torch.bfloat16
        assert backbone.fingerprint()["attention"] == "eager"
        assert len(backbone.row(Item("the word " * 99))) <= backbone.encoder.max_tokens == 99


def test_media_come_from_the_loading_and_else_from_the_options() -> None:
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    size = {"size": {"shortest_edge": 784, "longest_edge": 3136}}
    media = MediaOptions(images=size, frames=6, urls=True)
    backbone = Backbone.load(model, processor=processor, media=media, frames=2)
    assert backbone.encoder.perception is not None
    options = backbone.encoder.perception.options
    assert (options.images, options.frames, options.urls) == (size, 2, True)
    assert (backbone.loading.images, backbone.loading.frames) == (size, 2)
    again = Backbone.load(model, backbone.loading, processor=processor)
    assert again.fingerprint() == backbone.fingerprint()


def pooled(backbone: Backbone) -> None:
    Pooled("mean", backbone).encode([Item(text) for text in WORDS])


FORWARDS: dict[str, Callable[[Backbone], Any]] = {
    "embedder": lambda b: Embedder(b).encode(WORDS),
    "reranker": lambda b: Reranker(b).margins([("the word", text) for text in WORDS]),
    "states": lambda b: prompted_states(
        b, NAMED["e5v"], [Item(text) for text in WORDS], "query", ["norm"]
    ),
    "pooled": pooled,
}


@pytest.mark.parametrize("name", FORWARDS)
def test_the_token_budget_reaches_every_batch(
    name: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = tiny("llama")
    shapes: list[torch.Size] = []
    collate = backbone.encoder.collate

    def watched(rows: Any, device: Any) -> Any:
        batch = collate(rows, device)
        shapes.append(batch.inputs["input_ids"].shape)
        return batch

    monkeypatch.setattr(backbone.encoder, "collate", watched)
    found = []
    for budget in (None, 150):
        shapes.clear()
        monkeypatch.setattr(backbone, "loading", Loading(token_budget=budget))
        FORWARDS[name](backbone)
        found.append(max(rows * width for rows, width in shapes if rows > 1))
    assert found[1] <= 150 < found[0]


@pytest.mark.parametrize(
    ("config", "asked", "device", "expected"),
    [
        ("float16", None, "cuda", torch.bfloat16),
        ("float16", "auto", "cuda", "auto"),
        ("float16", "float16", "cuda", torch.float16),
        ("bfloat16", None, "cuda", "auto"),
        ("float16", None, "cpu", torch.float32),
    ],
)
@pytest.mark.parametrize("part", ["text_config", None])
def test_a_float16_checkpoint_runs_in_bfloat16_where_the_gpu_has_it(
    part: str | None, config: str, asked: str | None, device: str, expected: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    model, _ = MULTIMODAL["llava"]()
    settings = type(model.config).from_dict(model.config.to_dict())
    for place in (settings, settings.text_config, settings.vision_config):
        place.dtype = None
    (settings if part is None else getattr(settings, part)).dtype = getattr(torch, config)
    assert _dtype(asked, settings, torch.device(device)) == expected
    if expected == torch.bfloat16:
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: False)
        assert _dtype(asked, settings, torch.device(device)) == "auto"
        settings.quantization_config = {"quant_method": "awq"}
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
        assert _dtype(asked, settings, torch.device(device)) == "auto", "its kernels need float16"


def test_weights_go_straight_to_a_gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is moved after loading: a quantized one cannot be."""
    asked: list[dict[str, Any]] = []
    load = type(TEXT["llama"]()).from_pretrained

    def loaded(*_: Any, **settings: Any) -> Any:
        asked.append(settings)
        return load(folder)

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loaded)
    monkeypatch.setattr(
        "probes.model.pretrained.usable_device", lambda device: torch.device(device)
    )
    monkeypatch.setattr("torch.nn.Module.to", None)
    Backbone.load(folder, device="cuda:1")
    Backbone.load(folder, device="cpu")
    assert asked[0]["device_map"] == {"": "cuda:1"}
    assert "device_map" not in asked[1]


def test_a_missing_package_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with monkeypatch.context() as patch:
        patch.setattr("transformers.AutoConfig.from_pretrained", None)  # nothing is read before
        for bits in ("4bit", "8bit"):
            with pytest.raises(BadSetting, match=f"{bits}.*pip install bitsandbytes"):
                Backbone.load(folder, quantize=bits)
    with pytest.raises(BackboneNotFound, match=r"flash-attn.*--attn sdpa"):
        Backbone.load(folder, attn="flash_attention_2")


# -------------------------------------------------------------------------- the name of a model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2-135m", "no model 'smolm2-135m'. Did you mean smollm2-135m"),
        ("smollm2", "Did you mean smollm2-135m"),
        ("SmolSight", "Did you mean smolsight"),
        ("Qwen2.5-VL-7B-Instruct", "a hub id such as Qwen/Qwen2.5-VL-7B-Instruct.*needs its owner"),
        ("my-model", "a folder must exist"),
        ("./my-model", "there is no folder my-model"),
        ("../my-model", "there is no folder ../my-model"),
        ("/my-model", "there is no folder /my-model"),
        (Path("my-model"), "there is no folder my-model"),
        ("models/mine/my-model", "neither a folder nor a hub id"),
        ("https://hub.example/owner/model", "neither a folder nor a hub id"),
    ],
)
def test_a_name_that_cannot_be_loaded_never_reaches_the_hub(
    name: str | Path, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", None)
    with pytest.raises(BackboneNotFound, match=message):
        Backbone.load(name)


def test_without_the_hub_the_error_says_how_to_use_a_folder() -> None:
    with pytest.raises(BackboneNotFound, match="hf download owner/model --local-dir FOLDER"):
        Backbone.load("owner/model")


def test_names_are_checked_without_torch() -> None:
    code = "import sys; from probes.model.locate import check_model; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["smollm2-135m", "folder"])
def test_only_a_model_on_the_hub_has_revisions(name: str, folder: Path) -> None:
    with pytest.raises(BadSetting, match="revision='abc' chooses among the commits"):
        Backbone.load(folder if name == "folder" else name, revision="abc")


def test_a_backbone_can_be_given_a_name(folder: Path) -> None:
    loaded = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(), name="ckpt-1000")
    named = Backbone.load(folder, name="ckpt-2000")
    assert [b.fingerprint()["model"] for b in (loaded, named)] == ["ckpt-1000", "ckpt-2000"]
    assert Backbone.load(folder).name == str(folder)


# ------------------------------------------------------------------------------------- the store


# ------------------------------------------------------------------------------ the command line


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nowhere"])
def test_a_device_is_tried_before_anything_is_loaded(device: str) -> None:
    """torch accepts names of devices that are missing, and one without values."""
    with pytest.raises(BadSetting, match=f"'{device}' cannot be used"):
        usable_device(device)
