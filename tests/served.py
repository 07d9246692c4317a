"""A real server on a free port, in a thread of the test process."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import uvicorn

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from freeret.serve.app import create_app
from freeret.serve.guard import Limits
from freeret.serve.server import listen

TEXTS = ["the word", "one of two", "what moves", "after the user", "all of them"]
JUDGING = Recipe(geometry="centre", frame="mcq")
NOT_JUDGING = Recipe(geometry="centre", frame=None, why_not_reranked="judging gains nothing")


@dataclass
class Served:
    """Where it listens, and a client that speaks to it."""

    url: str
    retriever: FreeRet
    client: httpx.Client
    worker: Any

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.client.post(path, json=body)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)


@contextmanager
def serving(
    retriever: FreeRet, limits: Limits | None = None, token: str | None = None
) -> Iterator[Served]:
    """Serve until the block ends; then the server shuts down as on a signal."""
    app = create_app(retriever, limits=limits, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    listener = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=120) as client:
            yield Served(url, retriever, client, app.state.worker)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def open_ai(served: Served, key: str = "none") -> openai.OpenAI:
    """Use it as a context: it closes its connections."""
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0)


@contextmanager
def held(served: Served) -> Iterator[None]:
    """The worker is busy until the block ends."""
    begun, end = threading.Event(), threading.Event()

    def wait(_: list[None]) -> list[None]:
        begun.set()
        end.wait(30)
        return [None]

    thread = threading.Thread(target=lambda: run_on(served, wait))
    thread.start()
    begun.wait(30)
    try:
        yield
    finally:
        end.set()
        thread.join()


def run_on(served: Served, work: Any) -> None:
    """Have the worker do some work, as a request does."""
    asyncio.run(served.worker.submit(work, None))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
