"""The guard: checks of every request before the application sees it.

It checks host and origin, the token, and the type, size and pace of the body; then it cancels the
work of callers who disconnect. It logs one line per request, which holds nothing that the caller
sent except the method.
"""

import asyncio
import hmac
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freeret.serve.api.errors import as_response
from freeret.serve.page import FILES

log = logging.getLogger(__name__)

LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
}
"""Headers of every response, unless the endpoint sets them."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of the number of requests at once."""

    body: int = 32 * 2**20
    """Largest body, bytes."""
    seconds: float = 20.0
    """Time in which the whole body must arrive."""
    queue: int = 64
    """Maximum number of active and waiting requests."""


class Guard:
    """ASGI middleware around the whole application.

    Args:
        token: Bearer token that every request except for the page must carry, if any.
        hosts: Accepted values of the Host header; an empty tuple accepts all.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, token: str | None, hosts: tuple[str, ...] = LOOPBACK
    ):
        self.app, self.limits, self.hosts = app, limits, hosts
        self._token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"].startswith("/items/"):  # an id is one segment, whatever it holds
            scope["path"] = scope["raw_path"].decode("ascii", "replace")
        response = _Response(send)
        start = time.perf_counter()
        try:
            self._check(scope)
            body = await self._body(scope, receive)
            await _while_connected(self.app, scope, body, receive, response)
        except Exception as error:
            if not response.status:
                await as_response(error)(scope, receive, response)
            else:
                log.error("a response was cut short", exc_info=error)
        finally:
            route = getattr(scope.get("route"), "path", "-")
            milliseconds = 1000 * (time.perf_counter() - start)
            method = scope["method"] if scope["method"] in ("GET", "POST") else "other"
            status = response.status or "gone"
            log.info("%s %s %s %.0f ms", method, route, status, milliseconds)
        return None

    def _check(self, scope: Scope) -> None:
        """Raise HTTPException for a request that is not allowed."""
        headers = Headers(scope=scope)
        if self.hosts and _hostname(headers.get("host", "")) not in self.hosts:
            raise HTTPException(403, "this server answers to localhost and 127.0.0.1 only")
        if scope["path"] in FILES:
            return
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            raise HTTPException(403, "pages of other sites may not use this server")
        credentials = dict(scope["headers"]).get(b"authorization", b"")
        if self._token is not None and not hmac.compare_digest(credentials, self._token):
            raise HTTPException(401, "send the token of this server: Authorization: Bearer TOKEN")
        if scope["method"] == "POST" and not _is_json(headers.get("content-type", "")):
            raise HTTPException(415, "send JSON, with Content-Type: application/json")

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Read the whole body. Raises HTTPException if it is too large or too slow."""
        too_large = HTTPException(413, f"a request holds at most {self.limits.body} bytes")
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self.limits.body:
            raise too_large
        parts, size, more = [], 0, True
        try:
            async with asyncio.timeout(self.limits.seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise HTTPException(400, "the body is incomplete")
                    parts.append(message.get("body", b""))
                    size, more = size + len(parts[-1]), message.get("more_body", False)
                    if size > self.limits.body:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time") from None
        return b"".join(parts)


class _Response:
    """Forwards a response with the headers of every response, and tracks its progress."""

    def __init__(self, send: Send):
        self.send, self.status, self.complete = send, 0, False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.status in (408, 413):  # the rest of the body is not read
                headers["connection"] = "close"
        elif message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)
        await self.send(message)


async def _while_connected(
    app: ASGIApp, scope: Scope, body: bytes, receive: Receive, response: _Response
) -> None:
    """Run the application until it is done, or cancel it when the caller disconnects."""
    gone = asyncio.ensure_future(_disconnected(receive))
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if not replayed:
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(gone)
        return {"type": "http.disconnect"}

    work = asyncio.ensure_future(app(scope, replay, response))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done() and not response.complete:
            work.cancel()
        with suppress(asyncio.CancelledError):
            await work
    finally:
        work.cancel()
        gone.cancel()


async def _disconnected(receive: Receive) -> None:
    """Return when the caller has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"
