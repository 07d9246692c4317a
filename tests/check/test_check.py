"""`freeret check` says what would go wrong without a word."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from freeret.check import Check, check
from freeret.check.agreement import agreement, alone, distance, noise, perturbed, tolerance
from freeret.check.line import tried
from freeret.check.model import checks, per_window
from freeret.check.text import COMPARED, CUE, STRINGS, tokenizer_file
from freeret.scale import sizing
from probes import Backbone
from probes.errors import FreeRetError
from probes.model.batches import sharing
from tests import tiny_tokenizer
from tests.commands import run
from tests.models import TEXT, tokenizer
from tests.stores import save_tiny

Change = Callable[[Any], None]
PADDED = "padded batch against single rows"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throughput is not what these tests are about."""
    monkeypatch.setattr(sizing, "MIN_SECONDS", 0.0)


def lines(backbone: Backbone) -> dict[str, Check]:
    return {line.what: line for line in check(backbone)}


def attention(backbone: Backbone) -> Check:
    [line] = [line for line in checks(backbone) if line.what == "attention"]
    return line


def failed(backbone: Backbone) -> list[str]:
    """Of the lines about the model itself."""
    return [line.what for line in checks(backbone) if not line.passed]


# --------------------------------------------------------------------------------- tokenizer


def digits(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def spaces(backend: Any) -> None:
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def nfkc(backend: Any) -> None:
    backend.normalizer = normalizers.NFKC()


def accents(backend: Any) -> None:
    backend.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])


def nothing(backend: Any) -> None:
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def variant(folder: Path, place: Path, change: Change, named: str) -> Path:
    """The model with a changed tokenizer.json, under the name of a tokenizer class."""
    shutil.copytree(folder, place)
    backend = Tokenizer.from_file(str(place / "tokenizer.json"))
    change(backend)
    backend.save(str(place / "tokenizer.json"))
    config = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": named}))
    return place


def compared(backbone: Backbone) -> Check:
    return lines(backbone)[COMPARED]


@pytest.mark.parametrize("named", ["GPT2Tokenizer", "Qwen2Tokenizer"])
@pytest.mark.parametrize("change", [spaces, nfkc, accents])
def test_a_class_that_rebuilds_the_tokenizer_is_a_failed_check(
    change: Change, named: str, folder: Path, tmp_path: Path
) -> None:
    line = compared(Backbone.load(variant(folder, tmp_path / "m", change, named)))
    assert not line.passed
    assert line.found.startswith(f"{named} gives other ids for ")
    assert "tokenizer_config.json" in line.found


@pytest.mark.parametrize("change", [nothing, digits, nfkc, accents])
def test_a_class_that_reads_the_file_passes(change: Change, folder: Path, tmp_path: Path) -> None:
    place = variant(folder, tmp_path / "m", change, "PreTrainedTokenizerFast")
    line = compared(Backbone.load(place))
    assert line.passed
    assert line.found == f"same ids for {len(STRINGS)} strings"
    assert len(set(STRINGS)) >= 50


@pytest.mark.parametrize("named", ["GemmaTokenizer", "T5Tokenizer", "BertTokenizer"])
def test_a_class_that_does_not_go_with_the_file_is_a_typed_error(
    named: str, folder: Path, tmp_path: Path
) -> None:
    """At load, not at the first text: tokenizers raises Exception itself, and TypeError."""
    place = variant(folder, tmp_path / "m", nothing, named)
    with pytest.raises(FreeRetError, match=r"tokenizer") as caught:
        Backbone.load(place)
    assert named in str(caught.value) or str(place) in str(caught.value)


def test_without_a_file_nothing_is_compared(folder: Path) -> None:
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tokenizer())
    assert tokenizer_file(backbone) is None
    assert "not compared" in compared(backbone).found


def test_a_file_in_the_cache_of_the_hub_is_found(folder: Path, tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0" * 40
    snapshot = tmp_path / "models--someone--model" / "snapshots" / commit
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    (tmp_path / "models--someone--model" / "refs").mkdir()
    (tmp_path / "models--someone--model" / "refs" / "main").write_text(commit)
    named = Backbone.load(folder).tokenizer
    named.name_or_path = "someone/model"
    backbone = Backbone.load(TEXT["llama"](), tokenizer=named)
    found = tokenizer_file(backbone)
    assert found is not None
    assert Path(found).read_bytes() == (folder / "tokenizer.json").read_bytes()


# ---------------------------------------------------------------------- chat template, labels


def says_last(backbone: Backbone, words: str) -> Backbone:
    """The backbone with a chat template that opens the answer with these words."""
    render = backbone.encoder.render

    def rendered(marked: Any, system: str | None, prefill: str) -> str:
        return render(marked, system, words + prefill)

    backbone.encoder.render = rendered  # type: ignore[method-assign]
    return backbone


def fresh(**settings: Any) -> Backbone:
    return Backbone.load(TEXT["llama"](), tokenizer=tokenizer(**settings))


OPEN = ("<think>\n", "[THINK]", "<|channel>thought\n", "<|START_THINKING|>", "<seed:think>",
        "<think>\n\n</think>\n\n<think>\n")  # fmt: skip
CLOSED = ("", "<think>\n\n</think>\n\n", "[THINK][/THINK]", "<|channel>thought\n<channel|>",
          "<|START_THINKING|><|END_THINKING|>",
          "<|begin_of_thought|>\n<|end_of_thought|>")  # fmt: skip


@pytest.mark.parametrize("words", OPEN)
def test_a_thought_that_is_left_open_is_a_failed_check(words: str) -> None:
    line = lines(says_last(fresh(), words))[CUE]
    assert not line.passed
    assert "left open" in line.found
    assert "chat_template" in line.found


def test_a_thought_that_the_encoder_closes_passes() -> None:
    backbone = fresh()
    backbone.tokenizer.chat_template = backbone.tokenizer.chat_template.replace(
        "assistant\\n", "assistant\\n<think>\\n"
    )
    line = lines(Backbone.load(TEXT["llama"](), tokenizer=backbone.tokenizer))[CUE]
    assert line == Check(CUE, "none is left open; thinking: closed by hand")


@pytest.mark.parametrize("words", CLOSED)
def test_a_closed_thought_passes(words: str) -> None:
    assert lines(says_last(fresh(), words))[CUE].passed


def test_content_about_thoughts_is_no_thought() -> None:
    backbone = fresh()
    render = backbone.encoder.render
    backbone.encoder.render = lambda m, s, p: render(("<think> is a mark. ", *m), s, p)  # type: ignore[method-assign]
    assert lines(backbone)[CUE].passed


def test_labels_of_several_tokens_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [label for label in tiny_tokenizer.LABELS if label not in ("Right", "Wrong")]
    monkeypatch.setattr(tiny_tokenizer, "LABELS", (*known, "R", "W"))
    found = lines(fresh())
    assert found["labels of right_wrong"].status == "note"
    assert "first tokens are read" in found["labels of right_wrong"].found
    assert found["labels of yes_no"].status == "ok"
    assert all(line.passed for line in found.values())


def test_labels_that_begin_alike_are_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a byte-level tokenizer both then begin with the space."""
    known = [label for label in tiny_tokenizer.LABELS if label not in ("Right", "Wrong")]
    monkeypatch.setattr(tiny_tokenizer, "LABELS", tuple(known))
    found = lines(fresh())
    assert [what for what, line in found.items() if not line.passed] == ["labels of right_wrong"]
    assert "use another frame" in found["labels of right_wrong"].found


# ------------------------------------------------------------------------- batches and rounding


def leaking(backbone: Backbone) -> Backbone:
    """The backbone with a decoder that attends to padding as if it were text."""

    def see_all(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": torch.ones_like(kwargs["attention_mask"])}

    backbone.model.model.register_forward_pre_hook(see_all, with_kwargs=True)
    return backbone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_smollm2_passes_and_padding_that_leaks_is_found(dtype: str) -> None:
    backbone = Backbone.load("smollm2-135m", dtype=dtype)
    assert all(line.status == "ok" for line in check(backbone))
    assert PADDED in failed(leaking(backbone))


@pytest.mark.parametrize("name", [name for name in TEXT if name != "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_models_pass_and_fail_alike(name: str, dtype: torch.dtype) -> None:
    model = TEXT[name].__wrapped__().to(dtype)  # type: ignore[attr-defined]
    backbone = Backbone.load(model, tokenizer=tokenizer())
    assert failed(backbone) == []
    if name != "gpt2":
        assert PADDED in failed(leaking(backbone))


def test_a_limit_follows_from_rounding(tiny: Callable[[str], Backbone]) -> None:
    """Noise is a few units of precision, and far below what another text does."""
    backbone = tiny("llama")
    rows = backbone.rows(["the word", "another one of the image"])
    expected = alone(backbone, rows)
    moved = noise(backbone, rows, expected)
    assert 1e-8 < moved < 1e-5
    assert tolerance(moved) == 1e-5
    assert tolerance(0.02) == pytest.approx(0.06)
    assert torch.equal(alone(backbone, rows), expected), "the stream is as it was"
    with perturbed(backbone):
        assert not torch.equal(alone(backbone, rows), expected)
    assert distance(expected[:1], expected[1:]) > 0.1


def test_states_that_are_no_numbers_fail() -> None:
    good, bad = torch.ones(1, 4), torch.full((1, 4), float("nan"))
    for line in (agreement("x", bad, good, 1.0), agreement("x", good, bad, 1.0)):
        assert not line.passed
        assert "value" not in line.as_dict()
    assert agreement("x", good, good, 1e-5).passed


def test_a_prefix_that_is_not_shared_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = fresh()
    reason = "its cache cannot be continued"
    monkeypatch.setitem(sharing._errors, backbone, {"text": reason})
    line = lines(backbone)["shared prefix"]
    assert line.status == "note"
    assert "its cache cannot be continued" in line.found
    assert failed(backbone) == []


# ---------------------------------------------------------------------- anatomy and attention


def test_a_second_equation_that_does_not_hold_is_a_note(tiny: Callable[[str], Backbone]) -> None:
    """`mlp[l]` is then the layer's output and no plain sum; nothing is wrong."""
    assert lines(tiny("llama"))["out = mid + MLP"] == Check(
        "out = mid + MLP", "relative error 0.0e+00", value=0.0
    )
    backbone = fresh()
    backbone.anatomy = replace(backbone.anatomy, output_error=0.4, notes=("it scales its output",))
    line = lines(backbone)["out = mid + MLP"]
    assert (line.status, line.found, line.value) == ("note", "it scales its output", 0.4)


CUDA, CPU = torch.device("cuda"), torch.device("cpu")
WINDOWED: dict[str, Any] = {"window_size": 112, "fullatt_block_indexes": [7]}


def test_one_attention_call_per_window_is_said_on_cuda_alone() -> None:
    def said(device: torch.device, implementation: str, **settings: Any) -> str:
        tower = SimpleNamespace(_attn_implementation=implementation, **settings)
        return per_window(tower, device)

    assert "load it with sdpa" in said(CUDA, "eager", **WINDOWED)
    assert said(CPU, "eager", **WINDOWED) == said(CUDA, "eager") == ""
    assert said(CUDA, "sdpa", **WINDOWED) == said(CUDA, "flash_attention_2", **WINDOWED) == ""
    assert per_window(None, CUDA) == ""


def test_every_part_names_its_attention(tiny: Callable[[str], Backbone]) -> None:
    assert attention(tiny("qwen2.5-omni")).found == "language model sdpa, vision sdpa, audio sdpa"
    assert attention(tiny("llama")).found == "language model sdpa"
    assert attention(tiny("qwen2.5-vl")).status == "ok", "on a CPU nothing is missing"


# ------------------------------------------------------------------------------------- output


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", folder, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert all(line["passed"] for line in found)
    assert {frozenset(line) for line in found} <= {
        frozenset({"what", "found", "passed", "status"} | more)
        for more in (set(), {"value"}, {"value", "limit"})
    }
    [padded] = [line for line in found if line["what"] == PADDED]
    assert padded["value"] <= padded["limit"] == 1e-5


def test_a_failed_line_is_exit_code_1(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = variant(folder, tmp_path / "m", spaces, "GPT2Tokenizer")
    assert run("check", broken, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert [line["what"] for line in found if not line["passed"]] == [COMPARED]
    assert run("check", broken) == 1
    assert "FAILED" in capsys.readouterr().out


def test_notes_are_exit_code_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [label for label in tiny_tokenizer.LABELS if label not in ("Right", "Wrong")]
    monkeypatch.setattr(tiny_tokenizer, "LABELS", (*known, "R", "W"))
    monkeypatch.setenv("COLUMNS", "200")
    assert run("check", save_tiny(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "note" in out
    assert "FAILED" not in out


def test_a_measurement_that_raises_is_a_line() -> None:
    def stop() -> list[Check]:
        raise ValueError("tokens: 42, features: 50")

    assert tried("image alone", stop) == [
        Check("image alone", "ValueError: tokens: 42, features: 50", "FAILED")
    ]
