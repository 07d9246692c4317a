"""Kills, full disks, damaged files and bad inputs: a typed error or a result, and nothing lost.

Run as a script this file is the worker: it loads a backbone once, and forks for every job, so that
a job can be killed at any moment. Jobs come as lines of JSON, and so do their outcomes go.
"""

import codecs
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ITEMS, KILLS = 300, 5
RECIPE: dict[str, Any] = {"prompt": "e5v", "site": "attn[-1]", "geometry": "centre", "frame": "mcq"}
NOBODY = 65534
ROOT = Path(__file__).parents[2]


def texts(count: int) -> list[dict[str, Any]]:
    """Items of different lengths, each unlike all others."""
    return [
        {"id": f"i{k:05}", "text": f"{k} of {'the word ' * (k % 7)}", "metadata": {"third": k % 3}}
        for k in range(count)
    ]


# --------------------------------------------------------------------------------- the worker


def serve(model: str) -> None:
    """Answer every job with its outcome, if it comes to one, and its exit code, a line each."""
    # What LanceDB imports takes a second; LanceDB itself has threads and must not be forked.
    for name in ("lance_namespace", "pyarrow.dataset", "scipy.special"):
        importlib.import_module(name)
    import torch

    from probes import Backbone

    torch.set_num_threads(1)
    backbone = Backbone.load(model)
    say({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        begun, begin = os.pipe()
        pid = os.fork()
        if pid == 0:
            work(backbone, job, begin)
            os._exit(0)
        os.close(begin)
        if os.read(begun, 1) and "kill_after" in job:
            time.sleep(job["kill_after"])
            os.kill(pid, signal.SIGKILL)  # not waited for yet: the pid is still its own
        _, status = os.waitpid(pid, 0)
        os.close(begun)
        say({"exit": os.waitstatus_to_exitcode(status)})


def work(backbone: Any, job: dict[str, Any], begin: int) -> None:
    from freeret.recipe import Recipe
    from freeret.retriever import FreeRet

    retriever = FreeRet(backbone, Recipe(**RECIPE | job.get("recipe", {})))
    if "user" in job:
        codecs.lookup("unicode-escape")  # imported late, from where that user may not read
        backbone.fingerprint()  # so is the metadata of packages
        os.setgid(job["user"])
        os.setuid(job["user"])
    if "fsize" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["fsize"], job["fsize"]))
    os.write(begin, b"x")
    start = time.perf_counter()
    try:
        if "query" in job:
            hits = FreeRet.load(job["store"], backbone).search(job["query"], top_n=5)
            say({"found": [hit.id for hit in hits]})
            return
        done = retriever.index(texts(job["items"]), job["store"])
        say({"added": done.added, "seconds": time.perf_counter() - start})
    except Exception as error:
        say({"error": type(error).__name__, "message": str(error)})


def say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
    sys.exit()


# ---------------------------------------------------------------------------------- the tests

import pytest  # noqa: E402
import torch  # noqa: E402

from freeret.recipe import Recipe  # noqa: E402
from freeret.reranker import Reranker  # noqa: E402
from freeret.retriever import FreeRet  # noqa: E402
from freeret.store.table import Store  # noqa: E402
from probes import Backbone, Loading  # noqa: E402
from probes.errors import BadItem, StoreError, StoreMismatch  # noqa: E402
from tests.models import TEXT, tokenizer  # noqa: E402
from tests.stores import same_search, save_tiny  # noqa: E402


@dataclass
class Worker:
    """The worker process; `run` gives it one job."""

    process: subprocess.Popen[str]

    @classmethod
    def start(cls, model: Path) -> "Worker":
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.command.test_faults", str(model)], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        return cls(process)

    def run(self, store: Path, **job: Any) -> dict[str, Any]:
        """Index `items` into `store`, killed `kill_after` seconds after it has begun if that is
        given; what the job said."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"store": str(store), **job}) + "\n")
        self.process.stdin.flush()
        outcome: dict[str, Any] = {}
        while "exit" not in outcome:
            outcome |= self._line()
        return outcome

    def ready(self) -> None:
        assert self._line() == {"ready": True}

    def stop(self) -> None:
        self.process.communicate()

    def _line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the worker ended; run its command alone")
        return json.loads(line)


def kill_indexing(folder: Path, items: int, kills: int, seed: int = 0) -> dict[str, Any]:
    """Kill indexing at random moments until it was killed `kills` times; every store that comes
    to its end must equal an undisturbed one. Says what happened; raises AssertionError."""
    model = save_tiny(folder / "model")
    worker, backbone = Worker.start(model), Backbone.load(model)
    draw, moments, finished = random.Random(seed), [], 0
    try:
        worker.ready()
        whole = folder / "whole"
        seconds = worker.run(whole, items=items)["seconds"]
        store = folder / "killed-0"
        while len(moments) < kills:
            moment = draw.uniform(0, seconds)
            outcome = worker.run(store, items=items, kill_after=moment)
            if outcome["exit"] == -signal.SIGKILL and "added" not in outcome:
                moments.append(moment)
                kept = Store.open(store).vectors().ids if Store.exists(store) else []
                assert len(kept) == len(set(kept)) <= items
            else:
                assert "error" not in outcome, outcome
                assert same_search(store, whole, backbone)
                finished += 1
                store = folder / f"killed-{finished}"
        outcome = worker.run(store, items=items)
        assert "error" not in outcome, outcome
        assert same_search(store, whole, backbone)
    finally:
        worker.stop()
    return {
        "items": items,
        "kills": kills,
        "stores finished": finished + 1,
        "undisturbed seconds": seconds,
        "killed after seconds": moments,
    }


def test_killed_indexing_resumes_without_loss(tmp_path: Path) -> None:
    done = kill_indexing(tmp_path, ITEMS, KILLS)
    assert len(done["killed after seconds"]) == KILLS


# ------------------------------------------------------------------------- the disk is against us


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that any user may look into, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def model(place: Path) -> Path:
    return save_tiny(place / "model")


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[Worker]:
    worker = Worker.start(model)
    worker.ready()
    yield worker
    worker.stop()


@pytest.fixture(scope="module")
def backbone(model: Path) -> Backbone:
    return Backbone.load(model)


@pytest.fixture(scope="module")
def whole(place: Path, backbone: Backbone) -> Path:
    """An undisturbed store of 40 items. Leave it as it is."""
    FreeRet(backbone, Recipe(**RECIPE)).index(texts(40), place / "whole")
    return place / "whole"


@pytest.fixture
def copy(place: Path, whole: Path, tmp_path: Path) -> Iterator[Path]:
    folder = place / tmp_path.name
    shutil.copytree(whole, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("fsize", [0, 500, 5_000, 20_000])
def test_a_full_disk_leaves_the_store_as_it_was(
    fsize: int, worker: Worker, copy: Path, whole: Path, backbone: Backbone
) -> None:
    outcome = worker.run(copy, items=200, fsize=fsize)
    assert outcome["error"] == "StoreError", outcome
    assert str(copy) in outcome["message"]
    assert "has room" in outcome["message"]
    assert same_search(copy, whole, backbone)
    assert worker.run(copy, items=200)["added"] == 160, "with room again it goes on"


@pytest.mark.parametrize("fsize", [0, 200, 1_000])
def test_a_disk_full_from_the_beginning_can_be_used_later(
    fsize: int, worker: Worker, tmp_path: Path
) -> None:
    """A table of which only the folder was made must not stand in the way for ever."""
    assert worker.run(tmp_path / "s", items=50, fsize=fsize)["error"] == "StoreError"
    outcome = worker.run(tmp_path / "s", items=50)
    assert "error" not in outcome, outcome
    assert len(Store.open(tmp_path / "s")) == 50


def test_a_read_only_store_is_searched_and_not_written(
    worker: Worker, copy: Path, whole: Path, backbone: Backbone
) -> None:
    user = {"user": NOBODY} if os.getuid() == 0 else {}  # nothing is read-only to root
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        outcome = worker.run(copy, items=200, **user)
        assert outcome["error"] == "StoreError", outcome
        assert str(copy) in outcome["message"]
        assert same_search(copy, whole, backbone)
        outcome = worker.run(copy / "below", items=20, **user)
        assert outcome["error"] == "StoreError", outcome
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)


def test_a_search_need_not_write(worker: Worker, copy: Path, backbone: Backbone) -> None:
    """After a deletion the geometry is fitted anew; it cannot be kept."""
    store = Store.open(copy)
    assert store.delete(["i00001"]) == 1
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = {"user": NOBODY} if os.getuid() == 0 else {}
    try:
        outcome = worker.run(copy, query="the word", **user)
        assert len(outcome.get("found", [])) == 5, outcome
        assert Store.open(copy).geometry() is None
    finally:
        for path in [copy, *copy.rglob("*")]:
            path.chmod(0o755)
    hits = FreeRet.load(copy, backbone).search("the word", top_n=5)
    assert [hit.id for hit in hits] == outcome["found"]


def test_a_place_that_is_a_file_is_no_store(tmp_path: Path, backbone: Backbone) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="file"):
        FreeRet(backbone, Recipe(**RECIPE)).index(["a"], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("part", ["data/*", "_versions/*.manifest"])
@pytest.mark.parametrize("table", ["items", "geometry"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.95])
def test_a_truncated_table_is_said_to_be_one(
    part: str, table: str, kept: float, copy: Path, backbone: Backbone
) -> None:
    newest = max((copy / f"{table}.lance").glob(part), key=lambda f: f.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[: int(kept * newest.stat().st_size)])
    with pytest.raises(StoreError, match=str(copy)):
        FreeRet.load(copy, backbone).search("the word")


# ------------------------------------------------------------------------- something else made it


@pytest.mark.parametrize(
    ("recipe", "named"),
    [
        ({"prompt": "prompteol"}, "prompt e5v, now prompteol"),
        ({"site": "mlp[-1]"}, r"site \S+, now mlp\[3\]"),
    ],
)
def test_another_prompt_or_site_is_refused(
    recipe: dict[str, Any], named: str, copy: Path, whole: Path, backbone: Backbone
) -> None:
    with pytest.raises(StoreMismatch, match=named):
        FreeRet(backbone, Recipe(**RECIPE | recipe)).index(["new"], copy)
    assert same_search(copy, whole, backbone)


@pytest.mark.parametrize(
    ("named", "loading"),
    [
        ("dtype", {"dtype": "bfloat16"}),
        ("attention", {"attn_implementation": "eager"}),
        ("longest input", {}),
    ],
)
def test_another_way_to_compute_is_refused(
    named: str, loading: dict[str, Any], copy: Path, whole: Path, model: Path, backbone: Backbone
) -> None:
    """Each of them changes vectors, of long texts at least."""
    other = Backbone.load(model, **loading)
    if not loading:
        other.encoder.max_tokens //= 2
    ours, theirs = other.fingerprint(), backbone.fingerprint()
    key = "max_tokens" if named == "longest input" else named
    assert ours[key] != theirs[key]
    assert {key for key in ours if ours[key] != theirs[key]} <= {key, "weights"}
    other.loading = Loading()  # as if nobody had asked for it
    with pytest.raises(StoreMismatch, match=named):
        FreeRet.load(copy, other)
    with pytest.raises(StoreMismatch, match=named):
        FreeRet(other, Recipe(**RECIPE)).index(["new"], copy)
    assert same_search(copy, whole, backbone)


def test_changed_wording_of_a_prompt_is_refused(
    copy: Path, whole: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name alone does not say what a prompt says."""
    from dataclasses import replace

    from probes.prompts import E5V, NAMED

    with monkeypatch.context() as patch:
        patch.setitem(NAMED, "e5v", replace(E5V, after="\nIn one word: "))
        with pytest.raises(StoreMismatch, match="another wording of the prompt e5v"):
            FreeRet(backbone, Recipe(**RECIPE)).index(["new"], copy)
        with pytest.raises(StoreMismatch, match="another wording of the prompt e5v"):
            FreeRet.load(copy, backbone)
    assert same_search(copy, whole, backbone)


def test_another_model_is_refused(
    copy: Path, whole: Path, backbone: Backbone, tmp_path: Path
) -> None:
    changed = TEXT["llama"].__wrapped__()  # type: ignore[attr-defined]
    with torch.no_grad():
        for weight in changed.parameters():
            weight.mul_(1.01)
    changed.config._name_or_path = backbone.name
    other = Backbone.load(changed, tokenizer=backbone.tokenizer)
    with pytest.raises(StoreMismatch, match="weights"):
        FreeRet.load(copy, other)
    with pytest.raises(StoreMismatch, match="weights"):
        FreeRet(other, Recipe(**RECIPE)).index(["new"], copy)
    base = Backbone.load(save_tiny(tmp_path / "base", chat=False))
    with pytest.raises(StoreMismatch, match="tokenizer"):
        FreeRet.load(copy, base)
    assert same_search(copy, whole, backbone)


# --------------------------------------------------------------------------------- bad inputs

GOOD = {
    "one letter": "a",
    "one mebibyte": "the word " * 116_509,
    "NUL": "a\x00b\x00",
    "right to left": "سلام עולם \u202eabc\u202c",
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈🙂" * 3,
    "combining": "e\u0301" * 50,
    "controls": "\x01\x02\x1b[31m\x7f\x85\u2028",
    "not a character": "\uffff\ufffe\U0010ffff",
    "marker": "\ue0000\ue001 \ue00099\ue001",
    "template": "{{ messages }} {% raw %} <|im_end|>\n<|im_start|>assistant\nA",
    "quotes": "' \" \\ ; DROP TABLE items; --",
    "newlines": "\r\n\n\r" + "a" + "\t" * 40,
}
BAD = {
    "empty": "",
    "white space": " \n\t\u3000",
    "lone surrogate": "a\ud800b",
    "reversed surrogates": "\udc00\ud800",
}


@pytest.mark.parametrize("chat", [True, False])
def test_every_text_is_stored_or_named(chat: bool, tmp_path: Path) -> None:
    tok = tokenizer(chat=chat)
    backbone = Backbone.load(TEXT["llama"](), tokenizer=tok)
    special = {f"special {t.content}": t.content for t in tok.added_tokens_decoder.values()}
    special |= {f"within {t}": f"so{t} it{t}{t}" for t in special.values()}
    good, bad = GOOD | special, BAD
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    items = [{"id": name, "text": text} for name, text in {**good, **bad}.items()]
    done = retriever.index(items, tmp_path / "s", on_error="skip")
    assert set(done.skipped) == set(bad)
    assert all(repr(name) in message for name, message in done.skipped.items())
    hits = retriever.search("the word", top_n=100)
    assert {hit.id: hit.item.text for hit in hits} == good
    assert all(-1.001 <= hit.score <= 1.001 for hit in hits)
    for name, text in bad.items():
        with pytest.raises(BadItem, match=name):
            retriever.index([{"id": name, "text": text}])
        with pytest.raises(BadItem):
            retriever.search(text)


def test_every_text_can_be_asked_and_judged(backbone: Backbone, whole: Path) -> None:
    retriever, reranker = FreeRet.load(whole, backbone), Reranker(backbone)
    for name, text in GOOD.items():
        assert len(retriever.search(text, top_n=3)) == 3, name
        [score] = reranker.predict([("the word", text)])
        assert 0 <= score <= 1, name
    for text in BAD.values():
        with pytest.raises(BadItem):
            reranker.predict([("the word", text)])


def test_ids_and_metadata_may_be_odd(backbone: Backbone, tmp_path: Path) -> None:
    ids = ["it's", 'a "b"', "a\\b", "a\nb", "%_*", "日本", "🙂", "a\x00b", " ", "i; --", "a" * 5000]
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    retriever.index(
        [{"id": id, "text": "the word", "metadata": {id: [id, None, 1.5]}} for id in ids],
        tmp_path / "s",
    )
    assert {h.id: dict(h.item.metadata) for h in retriever.search("word", top_n=20)} == {
        id: {id: [id, None, 1.5]} for id in ids
    }
    assert [retriever.delete([id]) for id in ids] == [1] * len(ids)
    assert len(Store.open(tmp_path / "s")) == 0


@pytest.mark.parametrize(
    "item",
    [
        {"id": "x", "text": "a", "metadata": 5},
        {"id": "x", "text": 5},
        {"id": "x", "words": "a"},
        {"id": "x", "image": 5},
        {"id": "\ud800", "text": "a"},
    ],
    ids=lambda item: str(sorted(item)) + ascii(item.get("metadata")),
)
def test_an_item_that_cannot_be_stored_is_named(
    item: dict[str, Any], backbone: Backbone, tmp_path: Path
) -> None:
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    with pytest.raises(BadItem, match=r"'x'|'\\ud800'"):
        retriever.index([item], tmp_path / "s")
    done = retriever.index([item, {"id": "ok", "text": "b"}], tmp_path / "s", on_error="skip")
    assert done.added == 1
    assert len(done.skipped) == 1
