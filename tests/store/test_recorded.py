"""A store says how its backbone is loaded again, and which other ways of loading may search it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freeret.embedder import Embedder
from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.store.identity import store_identity
from freeret.store.recorded import DIFFERENCE, recorded_loading
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.data import paraphrases
from probes.errors import BadSetting, StoreMismatch
from tests.commands import spawn
from tests.models import MULTIMODAL, TEXT, tokenizer
from tests.samples import picture

RECIPE = Recipe("e5v", "attn[-1]", "centre", "mcq")


WORDS = [f"{k} of {'the word ' * (k % 7)}" for k in range(20)]


@pytest.fixture(scope="module")
def half(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in bfloat16, made with settings that are not the defaults."""
    place = tmp_path_factory.mktemp("half") / "s"
    backbone = Backbone.load(model, dtype="bfloat16", attn="eager", max_tokens=77, frames=3)
    FreeRet(backbone, RECIPE).index(WORDS, place)
    return place


def found(retriever: FreeRet) -> list[tuple[str, float]]:
    return [(hit.id, hit.score) for hit in retriever.search("the word", 5)]


def test_a_store_is_opened_with_the_settings_that_made_it(half: Path, model: Path) -> None:
    opened = FreeRet.load(half)
    made = Backbone.load(model, dtype="bfloat16", attn="eager", max_tokens=77, frames=3)
    assert opened.backbone.fingerprint() == made.fingerprint()
    assert opened.backbone.loading == made.loading
    assert found(opened) == found(FreeRet.load(half, made))
    assert opened.index(["one more"]).added == 1
    assert opened.delete(Store.open(half).vectors().ids[-1]) == 1


def test_another_dtype_may_search_when_it_is_asked_for(half: Path, model: Path) -> None:
    with pytest.warns(UserWarning, match=r"dtype bfloat16 and is searched with float32.*0\.9996"):
        asked = FreeRet.load(half, loading=Loading(dtype="float32"))
    assert asked.backbone.dtype == torch.float32
    assert asked.backbone.fingerprint()["attention"] == "eager", "the rest is as recorded"
    scores, expected = (dict(found(r)) for r in (asked, FreeRet.load(half)))
    assert scores != expected
    assert scores == pytest.approx(expected, abs=2e-2)
    with pytest.raises(StoreMismatch, match="dtype bfloat16, now float32"):
        asked.index(["more"])
    with pytest.raises(StoreMismatch, match="dtype bfloat16, now float32"):
        asked.index(["more"], half)
    chosen = {"attn": "eager", "max_tokens": 77, "frames": 3}
    with pytest.warns(UserWarning, match="dtype"):
        FreeRet.load(half, Backbone.load(model, dtype="float32", **chosen))
    with pytest.raises(StoreMismatch, match="dtype bfloat16, now float32"):
        FreeRet.load(half, Backbone.load(model, **chosen))  # float32 because nobody said otherwise
    with pytest.warns(UserWarning, match="attention eager and is searched with sdpa"):
        FreeRet.load(half, loading=Loading(attn="sdpa"))
    with pytest.raises(BadSetting, match="not loaded yet"):
        FreeRet.load(half, asked.backbone, loading=Loading(frames=3))


def test_a_coarser_dtype_may_search(model: Path, tmp_path: Path) -> None:
    FreeRet(Backbone.load(model), RECIPE).index(WORDS, tmp_path / "s")
    with pytest.warns(UserWarning, match="dtype float32 and is searched with bfloat16"):
        FreeRet.load(tmp_path / "s", loading=Loading(dtype="bfloat16"))


@pytest.mark.filterwarnings("ignore:.*is searched with:UserWarning")
def test_another_dtype_does_not_excuse_other_differences(half: Path, tmp_path: Path) -> None:
    changed = TEXT["llama"].__wrapped__()  # type: ignore[attr-defined]
    with torch.no_grad():
        changed.lm_head.weight[0] += 1
    changed.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(StoreMismatch, match="was made with"):
        FreeRet.load(half, tmp_path, loading=Loading(dtype="float32"))
    with pytest.raises(StoreMismatch, match="longest input"):
        FreeRet.load(half, loading=Loading(dtype="float32", max_tokens=78))


def test_the_difference_between_dtypes_is_as_the_warning_says(smollm2: Backbone) -> None:
    texts = [row["sentence"] for row in paraphrases()][:50]
    other = Backbone.load("smollm2-135m", dtype="bfloat16")
    pairs = [Embedder(b, "norm", "e5v").encode(texts) for b in (smollm2, other)]
    short = 1 - torch.cosine_similarity(*pairs).min().item()
    assert DIFFERENCE / 3 < short <= DIFFERENCE


def test_a_store_of_an_earlier_version_is_opened(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity of such a store has no `loading`; the settings come from the fingerprint."""
    backbone = Backbone.load(model, dtype="bfloat16", max_tokens=50, device="cpu")

    def earlier(*made_with: Any) -> dict[str, Any]:
        return {k: v for k, v in store_identity(*made_with).items() if k != "loading"}

    with monkeypatch.context() as patch:
        patch.setattr("freeret.retriever.store_identity", earlier)
        FreeRet(backbone, RECIPE).index(WORDS, tmp_path / "s")
    assert "loading" not in Store.open(tmp_path / "s").identity
    opened = FreeRet.load(tmp_path / "s")
    assert opened.backbone.fingerprint() == backbone.fingerprint()
    assert opened.index(["one more"]).added == 1


def test_a_recorded_device_that_this_machine_lacks_is_ignored(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for place, where in enumerate(({"device": "cuda:7"}, {"device_map": {"": 7}})):
        backbone = Backbone.load(model)
        monkeypatch.setattr(backbone, "loading", replace(backbone.loading, **where))
        FreeRet(backbone, RECIPE).index(WORDS, tmp_path / f"{place}")
        assert Store.open(tmp_path / f"{place}").identity["loading"].items() >= where.items()
        caplog.clear()
        assert FreeRet.load(tmp_path / f"{place}").backbone.device == torch.device("cpu")
        assert "'cuda:7' cannot be used" in caplog.text
        caplog.clear()
        FreeRet.load(tmp_path / f"{place}", loading=Loading(device="cpu"))
        assert caplog.text == ""


def test_a_revision_belongs_to_its_repository(tmp_path: Path, model: Path) -> None:
    """A store remembers the commit, and drops it where the model is given by another name."""
    made = Backbone.load(TEXT["llama"](), tokenizer=tokenizer(), name="owner/model", revision="abc")
    FreeRet(made, RECIPE).index(WORDS[:2], tmp_path / "s")
    assert recorded_loading(Store.open(tmp_path / "s").identity).revision == "abc"
    assert FreeRet.load(tmp_path / "s", model).backbone.revision is None


def test_a_copy_keeps_what_made_the_vectors(half: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="dtype"):
        searching = FreeRet.load(half, loading=Loading(dtype="float32"))
    searching.save(tmp_path / "copy")
    assert Store.open(tmp_path / "copy").identity == Store.open(half).identity
    assert FreeRet.load(tmp_path / "copy").backbone.dtype == torch.bfloat16


def test_other_commands_load_as_the_index_command_did(tmp_path: Path) -> None:
    model, processor = MULTIMODAL["qwen2.5-vl"]()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    picture(64, 64).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.txt").write_text("the word")
    store, how = tmp_path / "s", ("--dtype", "bfloat16", "--frames", 4, "--max-pixels", 200_000)
    indexed = spawn(
        "index", tmp_path / "in", "--store", store, "--model", tmp_path / "model",
        "--recipe", "paper", *how,
    )  # fmt: skip
    assert indexed.returncode == 0, indexed.stderr
    identity = Store.open(store).identity
    assert identity["backbone"]["dtype"] == "bfloat16"
    assert identity["backbone"]["media"]["frames"] == 4
    assert (
        identity["loading"].items()
        >= {"dtype": "bfloat16", "frames": 4, "max_pixels": 200_000}.items()
    )
    searched = spawn("search", store, "the word", "--json")
    assert searched.returncode == 0, searched.stderr
    assert len(searched.stdout.splitlines()) == 2
    again = spawn("index", tmp_path / "in", "--store", store, "--model", tmp_path / "model")
    assert again.returncode == 0, again.stderr
    other = spawn("search", store, "the word", "--json", "--frames", 5)
    assert other.returncode == 1
    assert "another setting of pictures and videos" in other.stderr
