"""`freeret check` says what would go wrong without a word."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from models import TEXT, tokenizer
from stores import save_tiny
from tokenizers import Tokenizer, normalizers, pre_tokenizers

from freeret.check import Check, check, tokenizer_file
from probes import Backbone
from probes.errors import FreeRetError

Change = Callable[[Any], None]
COMPARED = "tokenizer against tokenizer.json"


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
    [line] = [line for line in check(backbone) if line.what == COMPARED]
    return line


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
    assert line.found.startswith("same ids for 5")


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
