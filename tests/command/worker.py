"""A process that indexes for tests, and can be killed at any moment.

Run as a script this file is the worker: it loads a backbone once, and forks for every job. Jobs
come as lines of JSON on its standard input, and their outcomes go to its standard output.
"""

import codecs
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.forking import Script, loaded, say

RECIPE: dict[str, Any] = {"prompt": "e5v", "site": "attn[-1]", "geometry": "centre", "frame": "mcq"}


def texts(count: int) -> list[dict[str, Any]]:
    """Different items, of several lengths."""
    return [
        {"id": f"i{k:05}", "text": f"{k} of {'the word ' * (k % 7)}", "metadata": {"third": k % 3}}
        for k in range(count)
    ]


def serve(model: str) -> None:
    """Do every job in a fork. Print its outcome, unless it was killed, and its exit code."""
    backbone = loaded(model)
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
    """Do one job, in a process forked for it; a byte goes to the pipe `begin` when it begins."""
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


class Worker(Script):
    """The worker process; `run` gives it one job."""

    @classmethod
    def start(cls, model: Path) -> "Worker":
        return cls.run_module("tests.command.worker", model)

    def run(self, store: Path, **job: Any) -> dict[str, Any]:
        """Index `items` into `store`, killed `kill_after` seconds after it has begun if that is
        given; what the job said."""
        self.give({"store": str(store), **job})
        outcome: dict[str, Any] = {}
        while "exit" not in outcome:
            outcome |= self.line()
        return outcome

    def ready(self) -> None:
        assert self.line() == {"ready": True}


if __name__ == "__main__":
    serve(sys.argv[1])
