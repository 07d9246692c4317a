"""An evaluation spread over Ray: what one process finds, whatever dies on the way."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from freeret.evaluate import actors as spread
from freeret.evaluate.actors import Actors, ray_actors
from freeret.evaluate.datasets import Dataset
from freeret.evaluate.results.file import Result
from freeret.evaluate.run import evaluate
from freeret.evaluate.stage2 import judge_run
from freeret.evaluate.systems.registry import PromptedSystem, system
from freeret.evaluate.systems.vectors import VectorSystem
from freeret.preflight import SYSTEMS
from freeret.recipe import Recipe
from freeret.reports import recipe_for
from freeret.reranker import Reranker
from probes import Backbone, Item, Loading
from probes.errors import BackboneNotFound, BadItem, BadSetting, Mismatch
from probes.prompts import NAMED, Side
from tests.commands import own_lines, run
from tests.stores import save_tiny

RECIPE = Recipe("prompteol", "attn[-1]", "whiten", "mcq", 0.2, reasons=("chosen",))
WORDS = ["the", "word", "of", "image", "one", "Yes", "No", "means"]


def words(number: int) -> str:
    """Texts of many lengths, none of them twice."""
    return " ".join(WORDS[number * step % 8] for step in range(1, number % 7 + 3)) + f" n{number}"


def dataset(name: str = "small", queries: int = 12, documents: int = 30) -> Dataset:
    return Dataset(
        name=name,
        queries=[Item(words(2 * i), id=f"q{i}") for i in range(queries)],
        documents=[Item(words(i), id=f"d{i}") for i in range(documents)],
        judgements={f"q{i}": {f"d{i}": 1} for i in range(queries)},
        metrics=("nDCG@10", "P@1"),
    )


def without_timings(file: Path) -> dict[str, Any]:
    data = json.loads(file.read_text())
    assert data.pop("timings")
    return data


def same_runs(ours: Path, theirs: Path) -> None:
    """The same files, the same figures, and scores within 1e-5 (fused ones are ranks)."""
    files = sorted(file.relative_to(theirs) for file in theirs.rglob("*.*"))
    assert sorted(file.relative_to(ours) for file in ours.rglob("*.*")) == files
    for file in files:
        if file.suffix == ".json":
            assert without_timings(ours / file) == without_timings(theirs / file)
            continue
        found, wanted = (
            {(line.split()[0], line.split()[2]): float(line.split()[4]) for line in text}
            for text in ((root / file).read_text().splitlines() for root in (ours, theirs))
        )
        assert found.keys() == wanted.keys()
        np.testing.assert_allclose(
            list(found.values()), [wanted[key] for key in found], rtol=0, atol=1e-5
        )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def backbone(model: Path) -> Backbone:
    return Backbone.load(model)


@pytest.fixture(scope="module")
def actors() -> Iterator[Actors]:
    """Ray is started once; its processes find the classes of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)
        with ray_actors(num_actors=2) as started:
            yield started


# ------------------------------------------------------------------------------- the same results


def test_the_command_with_ray_writes_what_it_writes_without(
    actors: Actors,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    small, folder = dataset(), tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    for name, items in (("corpus", small.documents), ("queries", small.queries)):
        rows = [json.dumps({"_id": item.id, "text": item.text}) for item in items]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    judged = [f"{q}\t{d}\t1" for q, row in small.judgements.items() for d in row]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]))
    asked: list[Any] = []

    def started(*arguments: Any) -> contextlib.nullcontext[Actors]:
        asked.append(arguments)
        return contextlib.nullcontext(actors)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the driver loads weights")

    monkeypatch.setattr(spread, "ray_actors", started)
    recipe = RECIPE.save(tmp_path / "recipe.json")
    for out, more in (
        ("local", []),
        ("ray", ["--engine", "ray", "--num-actors", 2, "--address", "auto"]),
    ):
        if out == "ray":
            monkeypatch.setattr(Backbone, "load", refuse)
        assert run(
            "eval", f"beir:{folder}", "--model", model, "--recipe", recipe, "--rerank", "2,4",
            "--system", "recipe", "--system", "bm25", "--out", tmp_path / out, *more,
        ) == 0, capsys.readouterr().err  # fmt: skip
    assert asked == [(2, "auto")]
    same_runs(tmp_path / "ray", tmp_path / "local")
    timings = {
        file.stem: Result.load(file).timings["small"] for file in (tmp_path / "ray").glob("*.json")
    }
    assert timings.keys() == {"recipe", "recipe-top2", "recipe-top4", "bm25"}
    engines = {
        name: (timing.get("engine"), timing.get("actors")) for name, timing in timings.items()
    }
    assert engines.pop("bm25") == (None, None), "it is nothing that actors could share"
    assert set(engines.values()) == {("ray", 2)}


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name != "bm25"])
def test_vectors_are_those_of_one_process(name: str, actors: Actors, backbone: Backbone) -> None:
    alone = system(name, lambda: backbone, lambda: RECIPE)
    assert isinstance(alone, VectorSystem)
    shared = actors.system(alone)
    assert (shared.name, shared.recipe) == (alone.name, alone.recipe)
    assert shared.identity() == alone.identity()
    items = dataset().documents
    for side in ("query", "document"):
        found = shared.encode(items, side, "question")
        torch.testing.assert_close(found, alone.encode(items, side, "question"), atol=1e-5, rtol=0)
    assert len(shared.encode(items[:1], "query", "question")) == 1


def test_the_driver_knows_a_backbone_without_its_weights(actors: Actors) -> None:
    found, whole = actors.backbone("smollm2-135m", Loading()), Backbone.load("smollm2-135m")
    assert all(weight.is_meta for weight in found.model.parameters())
    assert found.fingerprint() == whole.fingerprint()
    assert found.anatomy == whole.anatomy
    prompt = NAMED["control"].apply(Item("a text"), "query")
    assert found.encoder.wording(prompt) == whole.encoder.wording(prompt)
    assert found.row(prompt) == whole.row(prompt)
    assert actors.recipe(found) == recipe_for(whole)


def test_a_backbone_that_is_not_there_is_named_before_an_actor_is_asked(actors: Actors) -> None:
    with pytest.raises(BackboneNotFound, match="no/where"):
        actors.backbone("/no/where", Loading())


class Together(Reranker):
    """Says of each pair how many were judged in one call."""

    def margins(self, pairs: Any, **options: Any) -> np.ndarray:
        return np.full(len(pairs), len(pairs))


def test_margins_are_those_of_one_process(actors: Actors, backbone: Backbone) -> None:
    reranker = Reranker(backbone, "yes_no", calibrate=True)
    small = dataset()
    pairs = [(query, document) for query in small.queries for document in small.documents[:3]]
    found = actors.judge(reranker).margins(pairs)
    np.testing.assert_allclose(found, reranker.margins(pairs), rtol=0, atol=1e-5)
    assert actors.judge(reranker).margins([]).shape == (0,)
    together = actors.judge(Together(backbone)).margins(pairs)
    assert together.tolist() == [3] * len(pairs), "a query's pairs share its computation"


def test_a_run_goes_on_with_ray_or_without(
    actors: Actors, backbone: Backbone, tmp_path: Path
) -> None:
    alone = PromptedSystem.of("recipe", backbone, RECIPE)
    loaders = [dataset, lambda: dataset("second"), lambda: dataset("third")]
    evaluate(loaders, alone, tmp_path / "local", rerank=[3])
    evaluate(loaders[:1], alone, tmp_path / "mixed", rerank=[3], actors=actors)
    evaluate(loaders[:2], alone, tmp_path / "mixed", rerank=[3])
    files = evaluate(loaders, alone, tmp_path / "mixed", rerank=[3], actors=actors)
    same_runs(tmp_path / "mixed", tmp_path / "local")
    for file in files:
        engines = [timing.get("engine") for timing in Result.load(file).timings.values()]
        assert engines == ["ray", None, "ray"]


# ------------------------------------------------------------------------- actors that are killed


def die_once(marker: Path) -> None:
    """SIGKILL to the process that comes here first."""
    with contextlib.suppress(FileExistsError):
        marker.touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Mortal(PromptedSystem):
    marker: Path = Path()

    def encode(self, items: Sequence[Item], side: Side, task: str, **options: Any) -> Tensor:
        if items[0].id == "d20":  # somewhere in the middle
            die_once(self.marker)
        return super().encode(items, side, task, **options)


class MortalReranker(Reranker):
    marker: Path

    def margins(self, pairs: Any, **options: Any) -> np.ndarray:
        if pairs[0][0].id == "q7":
            die_once(self.marker)
        return super().margins(pairs, **options)


def test_a_killed_actor_changes_nothing(actors: Actors, backbone: Backbone, tmp_path: Path) -> None:
    alone, small = PromptedSystem.of("recipe", backbone, RECIPE), dataset()
    mortal = Mortal(
        "recipe", backbone, alone.prompts, alone.site, alone.geometry, RECIPE, tmp_path / "encode"
    )
    found, wanted = actors.system(mortal).run(small), alone.run(small)
    assert mortal.marker.exists()
    for query, row in wanted.items():
        assert found[query] == pytest.approx(row, abs=1e-5)
    reranker = MortalReranker(backbone)
    reranker.marker = tmp_path / "margins"
    judged = judge_run(small, wanted, actors.judge(reranker), 4)
    assert reranker.marker.exists()
    for query, row in judge_run(small, wanted, Reranker(backbone), 4).items():
        assert judged[query] == pytest.approx(row, abs=1e-5)


# ------------------------------------------------------------------------------------------ errors


def test_errors_in_an_actor_arrive_as_they_are(
    actors: Actors, backbone: Backbone, model: Path
) -> None:
    items = [*dataset().documents, Item(images=[Image.new("RGB", (8, 8))], id="picture")]
    for name, error in (("recipe", BadItem), ("echo", BadSetting)):
        one = system(name, lambda: backbone, lambda: RECIPE)
        assert isinstance(one, VectorSystem)
        with pytest.raises(error, match="'picture'") as caught:
            actors.system(one).encode(items, "document", "question")
        assert type(caught.value) is error
        assert "Traceback" not in str(caught.value)
        assert len(actors.system(one).encode(items[:9], "document", "question")) == 9, "goes on"
    changed = Backbone.load(model)
    with torch.no_grad():
        changed.model.get_input_embeddings().weight[0] += 1
    with pytest.raises(Mismatch, match="with another weights than the driver"):
        actors.system(PromptedSystem.of("recipe", changed, RECIPE)).encode(
            items[:9], "query", "question"
        )


def test_a_system_without_a_backbone_is_shared_too(actors: Actors) -> None:
    missing = system("st:/nowhere", lambda: pytest.fail("no backbone is needed"), Recipe.paper)
    assert isinstance(missing, VectorSystem)
    with pytest.raises(BadSetting, match="no model '/nowhere'"):
        actors.system(missing).encode(dataset().queries, "query", "question")


def test_no_actors_are_too_few(actors: Actors) -> None:
    with pytest.raises(BadSetting, match="at least one actor, not 0"), ray_actors(num_actors=0):
        pass


def test_without_ray_it_says_how_to_get_it(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    rows = [f"{words(i)}\t{words(2 * i)}\t{i}\n" for i in range(6)]
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "".join(rows))
    arguments = ["eval", f"sts:{tmp_path}/pairs.tsv", "--model", model, "--recipe", "paper",
                 "--out", tmp_path / "out"]  # fmt: skip
    assert run(*arguments, "--engine", "ray") == 1
    [line] = own_lines(capsys.readouterr().err)
    assert "pip install 'freeret[scale]'" in line
    assert run(*arguments) == 0
