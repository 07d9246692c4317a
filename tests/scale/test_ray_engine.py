"""Ray: what one process would store, whatever dies on the way."""

import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.scale.opening import Opening
from freeret.scale.ray import Cluster, Indexing, _groups, _reader, index_with_ray
from freeret.sources.files import Files
from freeret.store import indexing
from freeret.store.indexing import Indexed
from freeret.store.table import Store
from probes import Backbone, Loading
from probes.errors import BadItem, BadSetting, StoreMismatch
from tests.buckets import Bucket
from tests.stores import same_search, save_tiny

RECIPE = Recipe("e5v", "attn[-1]", "centre", "mcq")
ITEMS, KILLS = 600, 2


def write_corpus(folder: Path, count: int) -> Path:
    """Rows in three files of two kinds, and a few files that are one item each."""
    folder.mkdir()
    rows = [
        {"id": f"i{k:05}", "text": f"{k} of {'the word ' * (k % 7)}", "third": k % 3}
        for k in range(count)
    ]
    for part in range(3):
        lines = (json.dumps(row) + "\n" for row in rows[part::3])
        (folder / f"{part}.jsonl").write_text("".join(lines))
    for k in range(5):
        (folder / f"note{k}.txt").write_text(f"note {k}")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


# ------------------------------------------------------------------------- actors that are killed


class Driver:
    """`freeret index --engine ray` in a process of its own."""

    def __init__(self, corpus: Path, store: Path, model: Path):
        recipe = RECIPE.save(store.parent / "recipe.json")
        command = [
            sys.executable, "-m", "freeret", "index", corpus, "--store", store, "--model", model,
            "--recipe", recipe, "--engine", "ray", "--num-actors", "2",
        ]  # fmt: skip
        with (store.parent / "driver.log").open("a") as log:
            self.process = psutil.Popen(
                list(map(str, command)), stdout=log, stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"},
            )  # fmt: skip

    def running(self) -> bool:
        return self.process.poll() is None

    def actors(self) -> list[psutil.Process]:
        found = []
        for child in self.process.children(recursive=True):
            try:
                if "MapWorker" in "".join(child.cmdline()):
                    found.append(child)
            except psutil.Error:  # gone meanwhile
                continue
        return found

    def kill(self) -> None:
        """Ray's own processes die with the one that started them."""
        family = self.process.children(recursive=True)
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=60)


def rows_in(store: Path) -> int:
    return len(Store.open(store)) if Store.exists(store) else 0


def kill_ray(folder: Path, model: Path, items: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Index with Ray while actors and, one time in four, the driver are killed at random moments
    until `kills` have died, every second time not before more was stored; then let it end. The
    store must equal that of one process, which has never been disturbed. Says what happened;
    raises AssertionError."""
    folder.mkdir(exist_ok=True)
    corpus, draw = write_corpus(folder / "corpus", items), random.Random(seed)
    backbone = Backbone.load(model)
    FreeRet(backbone, RECIPE).index(Files([corpus]), folder / "whole")
    died: list[dict[str, Any]] = []
    round, before = 0, 0
    driver = Driver(corpus, folder / "0", model)
    while len(died) < kills:
        seen = rows_in(folder / f"{round}")
        if not driver.running():  # came to its end before it could be killed: take a new store
            assert driver.process.returncode == 0, (folder / "driver.log").read_text()[-2000:]
            assert same_search(folder / f"{round}", folder / "whole", backbone)
            round, before = round + 1, 0
            driver = Driver(corpus, folder / f"{round}", model)
        elif len(died) % 2 and seen == before:
            pass
        elif len(died) % 4 == 3:
            driver.kill()
            died.append({"what": "driver", "rows": (before := seen)})
            driver = Driver(corpus, folder / f"{round}", model)
        elif actors := driver.actors():
            time.sleep(draw.uniform(0, 1))
            victim = draw.choice(actors)
            if victim.is_running():
                victim.kill()
                died.append({"what": "actor", "rows": (before := seen)})
                victim.wait()
        time.sleep(draw.uniform(0, 0.5))
    assert driver.process.wait() == 0, (folder / "driver.log").read_text()[-2000:]
    assert same_search(folder / f"{round}", folder / "whole", backbone)
    return {"items": items, "killed": died, "stores finished": round + 1}


def test_what_dies_is_taken_up_and_the_store_is_that_of_one_process(
    model: Path, tmp_path: Path
) -> None:
    assert len(kill_ray(tmp_path / "run", model, ITEMS, KILLS)["killed"]) == KILLS


WITHOUT_WEIGHTS = """if True:
    import sys
    from freeret.cli import main
    from probes import Backbone
    Backbone.load = None
    main(sys.argv[1:])
"""


def test_the_driver_of_the_command_loads_no_weights(model: Path, tmp_path: Path) -> None:
    """Actors are other processes, so what is broken in the driver is whole there."""
    recipe, corpus = RECIPE.save(tmp_path / "recipe.json"), write_corpus(tmp_path / "in", 300)

    def index(*options: Any) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable, "-c", WITHOUT_WEIGHTS, "index", corpus, "--store", tmp_path / "s",
            "--model", model, "--recipe", recipe, "--engine", "ray", "--num-actors", 1, *options,
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, env=environment, check=False
        )

    done = index("--dtype", "bfloat16", "--ann", "pq")
    assert done.returncode == 0, done.stderr
    assert "305 added" in done.stdout
    assert "recall@10" in done.stdout
    (corpus / "note0.txt").unlink()
    done = index("--prune")
    assert "0 added, 0 replaced, 304 unchanged, 0 skipped, 1 pruned" in done.stdout, done.stderr
    opened = Store.open(tmp_path / "s")
    assert opened.geometry() is not None
    assert Recipe.from_json(opened.recipe()) == RECIPE
    assert opened.identity["loading"]["dtype"] == "bfloat16"
    hits = FreeRet.load(tmp_path / "s").search("17 of the word", 5)
    assert len(hits) == 5
    assert set(opened.hashes()) == {item.id for item in Files([corpus])}


def test_actors_are_sent_what_was_asked_for_and_not_what_was_decided_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Float32 is the choice of a driver without a GPU, and would be wrong on one."""
    sent: list[Loading] = []

    def index(opening: Opening, *_: Any, **__: Any) -> Indexed:
        sent.append(opening.loading)
        return Indexed()

    monkeypatch.setattr("freeret.scale.ray.index_with_ray", index)
    for dtype in (None, "bfloat16"):
        retriever = FreeRet(Backbone.load(model, dtype=dtype, frames=3, token_budget=99), RECIPE)
        retriever.index(["a text"], tmp_path / f"{dtype}", engine="ray")
        assert (sent[-1].dtype, sent[-1].frames, sent[-1].token_budget) == (dtype, 3, 99)


# ------------------------------------------------------------------- one reader, one actor, no Ray


def test_a_reader_gives_what_is_at_a_url_in_blocks_that_fit_in_memory(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_corpus(tmp_path / "corpus", 20)
    for k in range(7):
        (corpus / f"{k}.png").write_bytes(bytes(100))
    files = Files([bucket.put(corpus)])
    monkeypatch.setattr(indexing, "HELD", 250)
    reader = _reader(pickle.loads(pickle.dumps(files)))
    groups = [pickle.dumps(group) for group in _groups(files.listing())]
    found = [pickle.loads(b) for group in groups for row in reader({"block": [group]})
             for b in row["block"]]  # fmt: skip
    items = [item for block in found for _, item in block]
    assert sorted(items, key=lambda i: i.id) == sorted(files, key=lambda i: i.id)
    assert [sum(1 for _, item in block if item.media) for block in found[-3:]] == [3, 3, 1]


def actor(store: Path, model: Path, on_error: str = "raise", **recipe: Any) -> Indexing:
    chosen = Recipe(**{**RECIPE.to_json(), **recipe, "reasons": ()})
    return Indexing(Opening(str(store), str(model), Loading(), chosen), on_error, 1)


def outcome(actor: Indexing, block: list[Any]) -> Any:
    [found] = actor({"block": [pickle.dumps(list(enumerate(block)))]})["outcome"]
    return pickle.loads(found)


@pytest.fixture
def store(model: Path, tmp_path: Path) -> Path:
    FreeRet(Backbone.load(model), RECIPE).index([{"id": "a", "text": "one"}], tmp_path / "s")
    return tmp_path / "s"


def test_an_actor_embeds_what_is_not_stored(store: Path, model: Path) -> None:
    block = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    assert outcome(actor(store, model), block) == Indexed(added=1, unchanged=1)
    assert Store.open(store).vectors().ids == ["a", "b"]


def test_an_actor_looks_up_the_ids_of_its_block_and_no_others(
    store: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    plain = Store.hashes
    monkeypatch.setattr(Store, "hashes", lambda self, ids: asked.append(ids) or plain(self, ids))
    block = [{"id": "b", "text": "two"}, {"id": "c", "text": "three"}]
    assert outcome(actor(store, model), block) == Indexed(added=2)
    assert asked == [["b", "c"]]


def test_two_actors_given_the_same_block_store_it_once(store: Path, model: Path) -> None:
    """As when the first one died after its commit, before Ray had heard of it."""
    block = [{"id": "b", "text": "two"}, {"id": "c", "text": "three"}]
    first, second = (actor(store, model) for _ in range(2))
    assert outcome(first, block) == Indexed(added=2)
    outcome(second, block)
    assert Store.open(store).vectors().ids == ["a", "b", "c"]


def test_errors_come_back_as_they_are(store: Path, model: Path) -> None:
    bad = ["fine", BadItem("row.jsonl:3: no text", "row.jsonl:3")]
    error = outcome(actor(store, model), bad)
    assert isinstance(error, BadItem)
    assert "row.jsonl:3" in str(error)
    skipped = outcome(actor(store, model, "skip"), bad)
    assert (skipped.added, list(skipped.skipped)) == (1, ["row.jsonl:3"])
    error = outcome(actor(store, model, prompt="prompteol"), ["x"])
    assert isinstance(error, StoreMismatch)
    assert "prompt e5v, now prompteol" in str(error)


def test_without_ray_it_says_how_to_get_it(
    store: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    backbone = Backbone.load(model)
    opening = Opening(str(store), str(model), Loading(), RECIPE)
    with pytest.raises(BadSetting, match=r"pip install 'freeret\[scale\]'"):
        index_with_ray(opening, ["more"], Cluster())
    assert index_with_ray(opening, [], Cluster()) == Indexed()
    assert FreeRet.load(store, backbone).index(["more"]).added == 1
