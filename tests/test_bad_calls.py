"""Bad arguments to the public interface raise a FreeRetError with a one-line reason."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from freeret import Embedder, FreeRet, Recipe, Reranker
from freeret.evaluate.results.file import Result
from freeret.store.table import Store
from probes import (
    Backbone,
    ProbeReport,
    Site,
    framing_bias,
    lexicalization_curves,
    record,
    states_of,
)
from probes.errors import BackboneNotFound, BadFile, BadSetting, FreeRetError
from tests.models import TEXT, tokenizer
from tests.stores import save_tiny

pytestmark = pytest.mark.usefixtures("unchecked")
RECIPE = Recipe("e5v", "attn[-1]", "centre", "mcq")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Backbone:
    return Backbone.load(folder)


@pytest.fixture(scope="module")
def retriever(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> FreeRet:
    retriever = FreeRet(backbone, RECIPE)
    retriever.index([{"id": "a", "text": "one"}, "two"], tmp_path_factory.mktemp("s") / "s")
    return retriever


# --------------------------------------------------------------------------- folders of a model


def without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def holding(name: str, content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(content)


def configured(**settings: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | settings))

    return change


def cut(size: int) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:size])

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("config.json"),
        without("model.safetensors"),
        without("tokenizer.json", "tokenizer_config.json"),
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        cut(0),
        cut(500),
        cut(-5000),
        holding("config.json", b"{"),
        holding("config.json", b"[1]"),
        holding("config.json", b"{}"),
        holding("config.json", b"\xff"),
        holding("config.json", b'{"model_type": "no such"}'),
        holding("tokenizer.json", b"{"),
        configured(hidden_size=32),
        configured(hidden_size="x"),
        configured(num_attention_heads=0),
    ],
)
def test_an_incomplete_model_folder(change: Any, folder: Path, tmp_path: Path) -> None:
    change(shutil.copytree(folder, tmp_path / "m"))
    with pytest.raises(BackboneNotFound) as caught:
        Backbone.load(tmp_path / "m")
    assert str(tmp_path / "m") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reason",
    [
        "You are trying to access a gated repo.\nMake sure to have access to it at https://hub/x.",
        "401 Client Error: Unauthorized for url",
        "cannot load the files " + "of this model " * 30 + "\nAccess to it is restricted",
    ],
)
def test_a_gated_model_says_how_to_log_in(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(reason)

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", refuse)
    with pytest.raises(BackboneNotFound, match=r"hf auth login.*HF_TOKEN") as caught:
        Backbone.load("someone/gated")
    assert reason.splitlines()[0][:200] in str(caught.value)


# -------------------------------------------------------------------------------- every call

LOADS: dict[str, Callable[[Path], Any]] = {
    "no such model": lambda m: Backbone.load("no/such"),
    "no name": lambda m: Backbone.load(""),
    "a name of spaces": lambda m: Backbone.load("a b c"),
    "a name with NUL": lambda m: Backbone.load("a\0b"),
    "a long name": lambda m: Backbone.load("a" * 5000),
    "a URL": lambda m: Backbone.load("https://example.org/model"),
    "None": lambda m: Backbone.load(None),
    "a number": lambda m: Backbone.load(5),
    "a revision": lambda m: Backbone.load("no/such", revision="abc"),
    "a revision of a folder": lambda m: Backbone.load(m, revision="abc"),
    "a user's folder": lambda m: Backbone.load("~nobody-of-this-name/x"),
    "a name that is a number": lambda m: Backbone.load(m, name=5),
    "dtype": lambda m: Backbone.load(m, dtype="flot16"),
    "dtype of integers": lambda m: Backbone.load(m, dtype="int8"),
    "dtype 5": lambda m: Backbone.load(m, dtype=5),
    "device": lambda m: Backbone.load(m, device="foo"),
    "device that is none": lambda m: Backbone.load(m, device="meta"),
    "device 3.5": lambda m: Backbone.load(m, device=3.5),
    "attention": lambda m: Backbone.load(m, attn_implementation="nope"),
    "device map": lambda m: Backbone.load(m, device_map="nope"),
    "quantization": lambda m: Backbone.load(m, quantization_config={"quant_method": "nope"}),
    "media": lambda m: Backbone.load(m, media=5),
    "loading": lambda m: Backbone.load(m, {"dtype": "float32"}),
    "two places": lambda m: Backbone.load(m, device="cpu", device_map="auto"),
    "quantize": lambda m: Backbone.load(m, quantize="3bit"),
    "max_pixels": lambda m: Backbone.load(m, max_pixels=-1),
    "frames": lambda m: Backbone.load(m, frames=1.5),
    "max_tokens": lambda m: Backbone.load(m, max_tokens=0),
    "token_budget": lambda m: Backbone.load(m, token_budget=0),
    "dtype of a loaded model": lambda m: Backbone.load(
        TEXT["llama"](), tokenizer=tokenizer(), dtype="bfloat16"
    ),
    "no tokenizer": lambda m: Backbone.load(TEXT["llama"]()),
    "tokenizer": lambda m: Backbone.load(TEXT["llama"](), tokenizer="x"),
    "processor": lambda m: Backbone.load(TEXT["llama"](), processor="x"),
    "a module": lambda m: Backbone.load(torch.nn.Linear(2, 2), tokenizer=tokenizer()),
    "store": lambda m: Store.open(m / "none"),
    "store that is a file": lambda m: Store.open(m / "config.json"),
    "store 5": lambda m: Store.open(5),
    "store None": lambda m: Store.open(None),
    "store without a name": lambda m: Store.open(""),
    "store with NUL": lambda m: Store.open("a\0b"),
    "store of an unknown scheme": lambda m: Store.open("foo://x/y"),
    "retriever": lambda m: FreeRet.load(m / "none"),
    "recipe": lambda m: Recipe.load(m / "none"),
    "recipe 5": lambda m: Recipe.load(5),
    "recipe of bytes": lambda m: Recipe.load(m / "model.safetensors"),
    "recipe that is a folder": lambda m: Recipe.load(m),
    "report": lambda m: ProbeReport.load(m / "none"),
    "report that is a folder": lambda m: ProbeReport.load(m),
    "result": lambda m: Result.load(m / "none"),
    "site 5": lambda m: Site.parse(5),
    "site None": lambda m: Site.parse(None),
}

CALLS: dict[str, Callable[[Backbone, FreeRet], Any]] = {
    "no items": lambda b, r: b.encode([]),
    "an empty text": lambda b, r: FreeRet(b, RECIPE).index([""]),
    "site out of range": lambda b, r: record(b, b.encode(["a"]), ["attn[99]"]),
    "unknown site": lambda b, r: record(b, b.encode(["a"]), ["foo"]),
    "no site": lambda b, r: record(b, b.encode(["a"]), []),
    "site of a number": lambda b, r: record(b, b.encode(["a"]), [5]),
    "not recorded": lambda b, r: record(b, b.encode(["a"]), ["norm"])["attn[0]"],
    "not a site": lambda b, r: record(b, b.encode(["a"]), ["norm"])[5],
    "no prompts": lambda b, r: lexicalization_curves(b, []),
    "prompt 5": lambda b, r: lexicalization_curves(b, [5]),
    "sites 5": lambda b, r: record(b, "a", 5),
    "sites None": lambda b, r: record(b, "a", None),
    "no texts": lambda b, r: states_of(b, 5, "norm"),
    "states of no site": lambda b, r: states_of(b, ["a"], []),
    "states of an unknown site": lambda b, r: states_of(b, [], "mlp[99]"),
    "states of an empty text": lambda b, r: states_of(b, ["a", ""], "norm"),
    "frames 5": lambda b, r: framing_bias(b, 5),
    "frames None": lambda b, r: framing_bias(b, None),
    "unknown frame": lambda b, r: framing_bias(b, ["nope"]),
    "state": lambda b, r: b.lens(torch.zeros(1, 3), "norm"),
    "state of no dimension": lambda b, r: b.lens(torch.zeros(()), "norm"),
    "states of a trace": lambda b, r: b.lens(record(b, "a", "norm"), "norm"),
    "state in an array": lambda b, r: b.lens(np.zeros((1, 64), "float32"), "norm"),
    "no state": lambda b, r: b.lens(5, "norm"),
    "word": lambda b, r: b.word_rows(torch.tensor([10**6])),
    "label": lambda b, r: b.label_logits(torch.zeros(1, 64), [-1]),
    "no tokens": lambda b, r: b.generate("a", 0),
    "tokens x": lambda b, r: b.generate("a", "x"),
    "top_n 0": lambda b, r: r.search("a", top_n=0),
    "top_n -1": lambda b, r: r.search("a", top_n=-1),
    "top_n x": lambda b, r: r.search("a", top_n="x"),
    "top_n None": lambda b, r: r.search("a", top_n=None),
    "top_n 2.5": lambda b, r: r.search("a", top_n=2.5),
    "rerank -1": lambda b, r: r.search("a", rerank=-1),
    "rerank x": lambda b, r: r.search("a", rerank="x"),
    "query None": lambda b, r: r.search(None),
    "query empty": lambda b, r: r.search(""),
    "filter that fails": lambda b, r: r.search("a", filter=lambda metadata: metadata["no key"]),
    "ann without index": lambda b, r: r.search("a", ann=True),
    "answer of 0": lambda b, r: r.answer("a", top_n=0),
    "answer of -1": lambda b, r: r.answer("a", top_n=-1),
    "answer in 0 tokens": lambda b, r: r.answer("a", max_new_tokens=0),
    "answer None": lambda b, r: r.answer(None),
    "lone example": lambda b, r: FreeRet(b, r.recipe, examples=["a"]),
    "no store": lambda b, r: FreeRet(b, RECIPE).search("a"),
    "engine": lambda b, r: r.index(["x"], engine="nope"),
    "on_error": lambda b, r: r.index(["x"], on_error="nope"),
    "shards": lambda b, r: r.index(["x"], shards="x"),
    "shards 5": lambda b, r: r.index(["x"], shards=5),
    "item 5": lambda b, r: r.index([5]),
    "store 5": lambda b, r: FreeRet(b, RECIPE).index(["a"], 5),
    "save to 5": lambda b, r: r.save(5),
    "few items": lambda b, r: r.build_ann(),
    "kind of index": lambda b, r: r.build_ann("nope"),
    "unknown id": lambda b, r: r.store.items(["never"]) if r.store else None,
    "recipe's site": lambda b, r: FreeRet(b, Recipe("e5v", "foo", "none", None)),
    "recipe's prompt": lambda b, r: FreeRet(b, Recipe("nope", "norm", "none", None)),
    "embedder's site": lambda b, r: Embedder(b, 5),
    "embedder's prompt": lambda b, r: Embedder(b, prompt=5),
    "no embedder's prompt": lambda b, r: Embedder(b, prompt=[]),
    "side": lambda b, r: Embedder(b).encode(["a"], "nope"),
    "unequal": lambda b, r: Embedder.similarity(torch.zeros(1, 2), torch.zeros(1, 3)),
    "frame": lambda b, r: Reranker(b, "nope"),
    "frame 5": lambda b, r: Reranker(b, 5),
    "order": lambda b, r: Reranker(b, order="nope"),
    "layout": lambda b, r: Reranker(b, layout="nope"),
    "half a pair": lambda b, r: Reranker(b).predict([("a",)]),
    "no pairs": lambda b, r: Reranker(b).predict(5),
    "top_k": lambda b, r: Reranker(b).rank("a", ["b"], top_k=0),
}


def fails(call: Callable[[], Any]) -> None:
    with pytest.raises(FreeRetError) as caught:
        call()
    assert str(caught.value).strip()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", LOADS)
def test_a_bad_file_or_model(name: str, folder: Path) -> None:
    fails(lambda: LOADS[name](folder))


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call(name: str, backbone: Backbone, retriever: FreeRet) -> None:
    fails(lambda: CALLS[name](backbone, retriever))


def test_errors_can_be_handled_as_pythons_own(backbone: Backbone, retriever: FreeRet) -> None:
    states = record(backbone, backbone.encode(["a"]), ["norm"])
    for error, call in (
        (ValueError, lambda: retriever.search("a", top_n=0)),
        (KeyError, lambda: states["attn[0]"]),
        (KeyError, lambda: retriever.corpus.store.items(["never"])),
    ):
        with pytest.raises(error):
            call()
    assert issubclass(BadSetting, ValueError)


# ------------------------------------------------------------------- files that are not whole

HEAD = {"format": 3, "fingerprint": {}, "seed": 0, "timings": {}}
LISTS = {name: [] for name in ("synonyms", "framing", "diagnostic", "splitting", "hybrid",
                               "injection", "reranking")}  # fmt: skip


@pytest.mark.parametrize(
    ("load", "content", "named"),
    [
        (Recipe.load, {"site": 5}, r"site: Input should be a valid string"),
        (Recipe.load, {"prompt": 5, "frame": []}, r"prompt: Input should be .*, and 1 more"),
        (Recipe.load, [], "the whole: Input should be"),
        (Recipe.load, None, "the whole: Input should be"),
        (ProbeReport.load, {"format": 3, **LISTS}, "no 'fingerprint'"),
        (ProbeReport.load, {**HEAD, **LISTS, "framing": [{"a": 1}]},
         r"framing: 0\.\w+: Field required"),
        (ProbeReport.load, {**HEAD, **LISTS, "curves": []}, "curves: "),
        (Result.load, {"format": 1}, r"\w+: Field required, and \d more"),
    ],
)  # fmt: skip
def test_a_bad_file_names_the_field_in_one_line(
    load: Any, content: Any, named: str, tmp_path: Path
) -> None:
    (tmp_path / "f.json").write_text(json.dumps(content))
    with pytest.raises(BadFile, match=named) as caught:
        load(tmp_path / "f.json")
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)
