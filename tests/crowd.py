"""Several processes that do the same at the same moment.

Run as a script this file loads a backbone once and forks for every job, so that many processes are
ready in little time. Jobs come as lines of JSON, and so do their outcomes go.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.forking import Script, loaded, say

RECIPE: dict[str, Any] = {"prompt": "e5v", "site": "attn[-1]", "geometry": "centre", "frame": "mcq"}


def serve(model: str) -> None:
    """Answer every job with a list of what each of its processes said."""
    backbone = loaded(model)
    say("ready")
    for line in sys.stdin:
        say(together(backbone, json.loads(line)))


def together(backbone: Any, job: dict[str, Any]) -> list[Any]:
    """Fork, wait until every process is ready, let all of them go."""
    (ready, is_ready), (gate, lock), (said, saying) = os.pipe(), os.pipe(), os.pipe()
    pids = []
    for number in range(job["processes"]):
        pid = os.fork()
        if pid == 0:
            for end in (ready, lock, said):
                os.close(end)
            outcome = work(backbone, job, number, is_ready, gate)
            os.write(saying, (json.dumps(outcome) + "\n").encode())
            os._exit(0)
        pids.append(pid)
    for end in (is_ready, saying):
        os.close(end)
    for _ in pids:
        os.read(ready, 1)
    os.close(lock)  # whoever reads the gate now finds its end
    with os.fdopen(said) as lines:
        outcomes = [json.loads(line) for line in lines]
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(ready)
    os.close(gate)
    return outcomes


def work(backbone: Any, job: dict[str, Any], number: int, ready: int, gate: int) -> Any:
    os.environ |= job["environment"]
    from freeret.recipe import Recipe
    from freeret.retriever import FreeRet
    from freeret.store.identity import store_identity
    from freeret.store.table import Store

    Store.exists(job["store"])  # LanceDB is loaded and has its threads
    retriever = FreeRet(backbone, Recipe(**RECIPE))
    store_identity(retriever.embedder, retriever.recipe)
    os.write(ready, b"x")
    os.read(gate, 1)
    try:
        if job["do"] == "search":
            hits = FreeRet.load(job["store"], backbone).search("the word", top_n=5)
            return [hit.id for hit in hits]
        items = [{"id": f"{number}.{k}", "text": f"{k} of the word"} for k in range(job["items"])]
        shard = None if job["do"] == "finish" else "1/1"
        return retriever.index(items, job["store"], shards=shard).added
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


class Crowd(Script):
    """The script, running."""

    @classmethod
    def start(cls, model: Path) -> "Crowd":
        crowd = cls.run_module("tests.crowd", model)
        assert crowd.line() == "ready"
        return crowd

    def run(
        self, do: str, store: Any, processes: int, items: int = 0, environment: Any = None
    ) -> list[Any]:
        """What `processes` at once said: the ids that a "search" found; of "index" (a shard) and
        "finish" (all shards), how many items were added; of a failure its message."""
        job = {"do": do, "store": str(store), "processes": processes, "items": items}
        self.give({**job, "environment": environment or {}})
        return self.line()


if __name__ == "__main__":
    serve(sys.argv[1])
