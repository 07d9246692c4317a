"""A real server on a free port, in a thread of the test process."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from freeret.retriever import FreeRet
from freeret.serve.app import create_app
from freeret.serve.guard import Limits
from freeret.serve.server import listen


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
