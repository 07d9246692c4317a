"""Many processes on one store: none fails, nothing is lost, and no work is done twice.

On a disk and in a bucket of an object store.
"""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.search import ann
from freeret.search.geometry import fit_geometry
from freeret.search.scan import scan
from freeret.store import commits, fitted
from freeret.store.payload import Record
from freeret.store.table import Store
from probes import Backbone, Geometry
from probes.errors import StoreError, StoreMismatch
from probes.measure.reference import no_reference
from tests.buckets import SECRET, Bucket
from tests.crowd import RECIPE, Crowd
from tests.store.records import IDENTITY, SIZE, changed, made
from tests.stores import save_tiny

ROUNDS, PROCESSES = 3, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def crowd(model: Path) -> Iterator[Crowd]:
    crowd = Crowd.start(model)
    yield crowd
    crowd.stop()


@pytest.fixture(scope="module")
def shards(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after several shards wrote it, without a geometry. Do not modify it."""
    place = tmp_path_factory.mktemp("shards") / "s"
    backbone = Backbone.load(model)
    items = [{"id": f"i{k:03}", "text": f"{k} of {'the word ' * (k % 5)}"} for k in range(90)]
    for k in (1, 2, 3):
        FreeRet(backbone, Recipe(**RECIPE)).index(items, place, shards=f"{k}/3")
    return place


@pytest.fixture
def on_s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Environment variables for LanceDB to reach the bucket; also set in this process."""
    environment = {
        "AWS_ENDPOINT": f"http://{bucket.host}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def size(table: Path) -> int:
    return sum(file.stat().st_size for file in (table / "data").iterdir())


# ------------------------------------------------------------------------------ on a disk


def test_first_searches_at_once_all_answer(crowd: Crowd, shards: Path, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        place = shutil.copytree(shards, tmp_path / f"{number}")
        outcomes = crowd.run("search", place, PROCESSES)
        assert all(isinstance(ids, list) and len(ids) == 5 for ids in outcomes), outcomes
        assert outcomes == outcomes[:1] * PROCESSES
        assert Store.open(place).geometry() is not None


def test_of_processes_that_finish_together_one_compacts(
    crowd: Crowd, shards: Path, tmp_path: Path
) -> None:
    once = shutil.copytree(shards, tmp_path / "once")
    Store.open(once).compact()
    for number in range(ROUNDS):
        place = shutil.copytree(shards, tmp_path / f"{number}")
        assert crowd.run("finish", place, PROCESSES) == [0] * PROCESSES
        after = Store.open(place)
        assert after.geometry() is not None, "it is of the version that the compaction left"
        assert after.version == Store.open(once).version
        assert size(place / "items.lance") == size(once / "items.lance")
        assert len(after) == 90


def test_processes_that_create_one_store_lose_nothing(crowd: Crowd, tmp_path: Path) -> None:
    for number in range(ROUNDS):
        place = tmp_path / f"{number}"
        assert crowd.run("index", place, PROCESSES, items=2) == [2] * PROCESSES
        store = Store.open(place)
        assert store.version == 3 + PROCESSES, "a creation, two indexes, a commit of each"
        assert store.vectors().ids == [f"{n}.{k}" for n in range(PROCESSES) for k in range(2)]


# ------------------------------------------------------------------------------ in a bucket


def test_a_store_in_a_bucket_is_one(on_s3: dict[str, str], model: Path) -> None:
    """It is created, filled, reopened, searched and deleted from; a missing store is an error."""
    url, backbone = "s3://corpora/whole", Backbone.load(model)
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    with pytest.raises(StoreError, match="no store at s3://corpora/whole"):
        Store.open(url)
    assert retriever.index([{"id": "a", "text": "one"}, {"id": "b", "text": "two"}], url).added == 2
    again = FreeRet(backbone, Recipe(**RECIPE))
    done = again.index([{"id": "b", "text": "two"}, {"id": "c", "text": "the word"}], url)
    assert (done.added, done.unchanged) == (1, 1)
    opened = FreeRet.load(url, backbone)
    assert opened.corpus.store.geometry() is not None
    assert opened.search("the word", top_n=1)[0].item.text == "the word"
    assert opened.delete(["a", "it's"]) == 1
    assert [hit.id for hit in sorted(opened.search("one"), key=lambda hit: hit.id)] == ["b", "c"]
    with pytest.raises(StoreMismatch, match="site"):
        FreeRet(backbone, Recipe.e5v()).index(["new"], url)


def test_a_creation_that_was_cut_short_in_a_bucket_is_taken_up(
    on_s3: dict[str, str], bucket: Bucket, tmp_path: Path
) -> None:
    from pyarrow.fs import FileSystem

    filesystem, _ = FileSystem.from_uri(bucket.url(""))
    for number, left in enumerate(("data/part.lance", "_transactions/0.txn")):
        with filesystem.open_output_stream(f"corpora/cut{number}/items.lance/{left}") as file:
            file.write(b"half")
        assert not Store.exists(f"s3://corpora/cut{number}")
        assert len(Store.create(f"s3://corpora/cut{number}", IDENTITY, SIZE)) == 0


def test_two_processes_at_once_in_a_bucket(crowd: Crowd, on_s3: dict[str, str]) -> None:
    for number in range(2):
        url = f"s3://corpora/crowd{number}"
        assert crowd.run("index", url, 2, items=2, environment=on_s3) == [2, 2]
        assert Store.open(url).vectors().ids == ["0.0", "0.1", "1.0", "1.1"]
        found = crowd.run("search", url, 2, environment=on_s3)
        assert found == [sorted(found[0], key=found[0].index)] * 2
        assert len(found[0]) == 4
        assert crowd.run("finish", url, 2, environment=on_s3) == [0, 0]
        assert Store.open(url).geometry() is not None


def test_what_a_bucket_does_not_let_write_is_searched(
    on_s3: dict[str, str], bucket: Bucket, model: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """With permission to read and none to write."""
    url, backbone = "s3://corpora/still", Backbone.load(model)
    FreeRet(backbone, Recipe(**RECIPE)).index(["one", "two", "the word"], url, shards="1/1")
    with bucket.read_only() as credentials:
        for name, value in credentials.items():
            monkeypatch.setenv(name, value)
        found = FreeRet.load(url, backbone)
        assert found.search("the word", top_n=1)[0].item.text == "the word"
        assert "the geometry is not kept" in caplog.text
        with pytest.raises(StoreError, match="still"):
            found.index(["new"])


# ------------------------------------------------------------ every way to lose a race, in turn


def test_a_late_creation_puts_back_what_it_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LanceDB looks for the table, and overwrites one that was created since."""
    first = Store.create(tmp_path, IDENTITY, SIZE)
    first.write([made("a"), made("b")])
    with monkeypatch.context() as late:
        late.setattr(commits, "open_table", lambda *_: None)
        connection = type(first.database)
        plain = connection.create_table
        late.setattr(connection, "create_table", lambda *a, **k: plain(*a, **k, mode="overwrite"))
        commits.create_table(first.database, tmp_path, "items", first.table.schema)
    assert first.write([made("c")]).added == 1, "by who opened the store before"
    assert Store.open(tmp_path).vectors().ids == ["a", "b", "c"]


def test_a_late_creation_with_other_settings_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Store.create(tmp_path, IDENTITY, SIZE)
    first.write([made("a")])
    other = Store.create(tmp_path / "other", changed("backbone.weights", "other"), SIZE)
    with monkeypatch.context() as late:
        late.setattr(commits, "open_table", lambda *_: None)
        connection = type(first.database)
        plain = connection.create_table
        late.setattr(connection, "create_table", lambda *a, **k: plain(*a, **k, mode="overwrite"))
        commits.create_table(first.database, tmp_path, "items", other.table.schema)
    assert Store.open(tmp_path).identity == IDENTITY
    assert Store.open(tmp_path).vectors().ids == ["a"]


@pytest.mark.parametrize("known", [True, False])
def test_an_id_that_two_writers_know_to_be_new_is_stored_once(known: bool, tmp_path: Path) -> None:
    """Rows are appended as long as nobody else writes; the one who comes second merges."""
    first, second = Store.create(tmp_path, IDENTITY, SIZE), Store.open(tmp_path)
    absent = first.version if known else None
    for store, seed in ((first, 1), (second, 2), (first, 3)):
        store.write([made("a", seed=seed), made(f"{seed}")], absent)
    assert Store.open(tmp_path).vectors().ids == ["1", "2", "3", "a"]
    assert np.array_equal(second.vectors(["a"]).vectors[0], made("a", seed=2).vector)
    second.refresh()
    assert np.array_equal(second.vectors(["a"]).vectors[0], made("a", seed=3).vector)


def test_threads_that_write_the_same_ids_at_once_store_each_once(tmp_path: Path) -> None:
    Store.create(tmp_path, IDENTITY, SIZE)
    start = Barrier(PROCESSES)

    def write(number: int) -> None:
        store = Store.open(tmp_path)
        for k in range(6):
            start.wait()
            store.refresh()
            absent = store.version
            start.wait()  # all have seen that the ids are new
            store.write([made(f"{k}"), made(f"{number}.{k}")], absent)

    with ThreadPoolExecutor(PROCESSES) as pool:
        list(pool.map(write, range(PROCESSES)))
    ids = Store.open(tmp_path).vectors().ids
    assert len(ids) == len(set(ids)) == 6 * (1 + PROCESSES)


def test_only_new_rows_that_nobody_else_could_have_written_are_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = Store.create(tmp_path, IDENTITY, SIZE), Store.open(tmp_path)
    merges: list[int] = []
    plain = Store._upsert
    monkeypatch.setattr(Store, "_upsert", lambda self: merges.append(1) or plain(self))
    absent = store.version
    for id in "abc":
        store.write([made(id)], absent)
    assert not merges
    other.write([made("x")])
    store.write([made("d")], absent)
    assert len(merges) == 2
    store.write([made("e")], store.version)
    assert len(merges) == 2, "from here on it is alone again"
    store.write([made("a")])
    assert len(merges) == 3
    assert Store.open(tmp_path).vectors().ids == list("abcdex")


def test_an_older_geometry_never_replaces_a_newer_one(tmp_path: Path) -> None:
    slow, fast = Store.create(tmp_path, IDENTITY, SIZE), Store.open(tmp_path)
    fast.write([made(id) for id in "abc"])
    newer = fit_geometry("centre", fast, no_reference)
    fast.save_geometry(newer, {"prompt": "new"})
    slow.save_geometry(Geometry("none"), {"prompt": "old"})
    kept = Store.open(tmp_path)
    geometry = kept.geometry()
    assert geometry is not None
    assert geometry.kind == "centre"
    assert kept.recipe() == {"prompt": "new"}


def conflict(store: Store) -> None:
    """Cause the commit conflict of a replacement that came too late."""
    table = commits.create_table(store.database, store.location, "side", fitted.NAMED_VECTORS)
    late = store.extra("side")
    fitted._replace(table, [{"name": "a", "values": [1.0]}], {})
    fitted._replace(late, [{"name": "b", "values": [1.0]}], {})


def test_a_lost_race_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As often as there are pauses; then the conflict is an error."""
    store = Store.create(tmp_path, IDENTITY, SIZE)
    monkeypatch.setattr(commits, "PAUSES", (0.0, 0.0))
    tries: list[int] = []

    def lose(times: int) -> int:
        tries.append(len(tries))
        if len(tries) <= times:
            conflict(store)
        return len(tries)

    assert commits.commit(tmp_path, lambda: lose(2)) == 3
    tries.clear()
    with pytest.raises(StoreError, match="commit conflict"):
        commits.commit(tmp_path, lambda: lose(9))
    assert len(tries) == 3
    tries.clear()

    def fail() -> None:
        tries.append(0)
        raise OSError("No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        commits.commit(tmp_path, fail)
    assert len(tries) == 1, "no other fault is tried again"


@pytest.mark.parametrize("what", ["write", "delete", "compact", "take"])
def test_every_commit_to_the_items_is_run_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replacement by another process makes a commit from an older version impossible."""
    store = Store.create(tmp_path / "s", IDENTITY, SIZE)
    for id in "abc":
        store.write([made(id)])
    other = Store.create(tmp_path / "other", IDENTITY, SIZE)
    other.write([made("x")])
    monkeypatch.setattr(commits, "PAUSES", (0.0,) * 3)
    table, names = type(store.table), {"write": "merge_insert", "take": "merge_insert",
                                       "delete": "delete", "compact": "optimize"}  # fmt: skip
    plain, fell = getattr(table, names[what]), []

    def late(self: Any, *arguments: Any, **options: Any) -> Any:
        if not fell:
            fell.append(1)
            conflict(store)
        return plain(self, *arguments, **options)

    monkeypatch.setattr(table, names[what], late)
    actions: dict[str, Any] = {
        "write": lambda: store.write([made("x")]),
        "delete": lambda: store.delete(["a"]),
        "compact": store.compact,
        "take": lambda: store.take(other),
    }
    actions[what]()
    expected = {"write": "abcx", "delete": "bc", "compact": "abc", "take": "abcx"}[what]
    assert Store.open(tmp_path / "s").vectors().ids == list(expected)
    if what == "compact":
        assert store.table.stats()["fragment_stats"]["num_fragments"] == 1
    assert fell


def test_an_index_that_lost_a_race_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(tmp_path, {"recipe": {}}, SIZE)
    noise = np.random.default_rng(0).normal(size=(300, SIZE)).astype(np.float32)
    store.write([Record(f"{k:03}", "", "text", "[]", [], "{}", row) for k, row in enumerate(noise)])
    monkeypatch.setattr(commits, "PAUSES", (0.0,))
    passes: list[int] = []

    def blocks() -> Any:
        passes.append(1)
        if len(passes) == 1:
            conflict(store)
        return scan(store, Geometry(), 100)

    ann.build_index(store, blocks)
    assert len(passes) == 2
    assert ann.current(store).count_rows() == 300


def test_a_search_answers_where_nothing_can_be_kept(
    shards: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def refuse(*_: Any) -> None:
        raise StoreError("Read-only file system")

    place = shutil.copytree(shards, tmp_path / "s")
    monkeypatch.setattr(Store, "save_geometry", refuse)
    retriever = FreeRet.load(place, Backbone.load(model))
    assert len(retriever.search("the word", top_n=3)) == 3
    assert "the geometry is not kept" in caplog.text
    assert retriever.index([]).added == 0
