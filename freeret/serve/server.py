"""Run the server: bind the socket, then load the model, then serve with uvicorn until a signal."""

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from probes.errors import BadSetting

CONNECTIONS = 512
"""Most connections that are open at once; more are answered with 503."""
GRACE = 60
"""Seconds that admitted requests have to finish after a signal."""


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket, so that a port in use is an error before a model is loaded.

    Raises:
        BadSetting: The address cannot be bound.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=CONNECTIONS)
    except OSError as error:
        raise BadSetting(f"cannot listen on {host}:{port}: {error.strerror}") from None


def run(app: FastAPI, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then refuse new requests and finish the admitted ones."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=GRACE,
    )
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A uvicorn server that does not raise the signal again, so that the exit code is 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {s: signal.signal(s, self.handle_exit) for s in signals}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        app = self.config.app
        if isinstance(app, FastAPI):
            app.state.worker.refuse()
        super().handle_exit(sig, frame)
