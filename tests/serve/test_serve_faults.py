"""`freeret serve` under load, with malformed and hostile requests, and with slow or disconnected
callers."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from freeret.embedder import Embedder
from freeret.retriever import FreeRet
from freeret.serve.guard import Limits
from probes import Backbone, Item
from tests.served import JUDGING, TEXTS, Served, held, serving, wait_for

CLIENTS = 64
SMALL = Limits(body=20_000, seconds=0.5, queue=CLIENTS)


@pytest.fixture(scope="module")
def served(
    tiny: Callable[[str], Backbone], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    retriever = FreeRet(tiny("llama"), JUDGING)
    store = tmp_path_factory.mktemp("faults") / "store"
    retriever.index([Item(text, id=f"t{i}") for i, text in enumerate(TEXTS)], store)
    with serving(retriever, SMALL) as served:
        yield served


def raw(served: Served, content: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(content)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def head(served: Served, *lines: str, path: str = "/v1/embeddings") -> bytes:
    host = served.url.removeprefix("http://")
    all_lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
    return "\r\n".join([*all_lines, "", ""]).encode()


# -- many callers ------------------------------------------------------------------------------


def test_many_callers_share_forwards_and_get_their_own_results(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(text: str) -> tuple[Any, Any]:
        vector = served.post("/v1/embeddings", input=text).json()
        hits = served.post("/search", text=text, top_n=3).json()
        return vector["data"][0]["embedding"], [(h["id"], h["score"]) for h in hits["hits"]]

    texts = [f"{TEXTS[i % len(TEXTS)]} {'one ' * (i % 7)}" for i in range(CLIENTS)]
    alone = [ask(text) for text in texts]
    passes: list[int] = []
    encode = Embedder.encode_rows

    def counted(self: Embedder, rows: Any, **options: Any) -> Any:
        passes.append(len(rows))
        return encode(self, rows, **options)

    monkeypatch.setattr(Embedder, "encode_rows", counted)
    with ThreadPoolExecutor(CLIENTS) as pool:
        with held(served):
            futures = [pool.submit(ask, text) for text in texts]
            wait_for(lambda: len(served.worker._waiting) == CLIENTS)  # not only admitted
        together = [future.result() for future in futures]
    assert sum(passes) == 2 * CLIENTS
    assert passes[0] == CLIENTS
    assert len(passes) < CLIENTS
    for (vector, hits), (expected, right) in zip(together, alone, strict=True):
        np.testing.assert_allclose(vector, expected, atol=1e-5)
        assert [id for id, _ in hits] == [id for id, _ in right]
        np.testing.assert_allclose([s for _, s in hits], [s for _, s in right], atol=1e-5)


def test_a_bad_item_is_the_error_of_its_caller_alone(served: Served) -> None:
    picture = {"image_url": {"url": "data:image/png;base64,AAAA"}}
    with ThreadPoolExecutor(4) as pool:
        with held(served):
            inputs: list[Any] = ["the word", picture, "one of two", {"content": [picture]}]
            futures = [pool.submit(served.post, "/v1/embeddings", input=i) for i in inputs]
            wait_for(lambda: served.worker.requests == 4)
        answers = [future.result() for future in futures]
    assert [a.status_code for a in answers] == [200, 400, 200, 400]
    assert "reads text only" in answers[1].json()["error"]["message"]


def test_a_failing_pass_is_tried_again_for_each_caller(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode = Embedder.encode_rows
    broken = len(served.retriever.embedder.rows(Item("the broken word"))[0])

    def fails(self: Embedder, rows: Any, **options: Any) -> Any:
        if any(len(row[0]) == broken for row in rows):
            raise RuntimeError("no forward of this row succeeds")
        return encode(self, rows, **options)

    monkeypatch.setattr(Embedder, "encode_rows", fails)
    with ThreadPoolExecutor(2) as pool:
        with held(served):
            texts = ["one", "the broken word"]
            futures = [pool.submit(served.post, "/v1/embeddings", input=t) for t in texts]
            wait_for(lambda: served.worker.requests == 2)
        answers = [future.result() for future in futures]
    assert [a.status_code for a in answers] == [200, 500]
    assert "no forward" not in answers[1].text  # the log says it, the caller does not learn it
    assert "no forward" in caplog.text


def test_a_full_queue_turns_callers_away(served: Served) -> None:
    with ThreadPoolExecutor(CLIENTS) as pool:
        with held(served):
            futures = [pool.submit(served.post, "/search", text="a") for _ in range(CLIENTS)]
            wait_for(lambda: served.worker.requests == CLIENTS)
            refused = served.post("/v1/embeddings", input="a")
            assert served.get("/healthz").json()["queue"] == CLIENTS  # it still says how it is
        assert {future.result().status_code for future in futures} == {200}
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    wait_for(lambda: served.worker.requests == 0)


def test_the_request_of_a_disconnected_caller_is_not_started(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    rows = Embedder.rows

    def noted(self: Embedder, item: Item, *side: Any) -> Any:
        embedded.append(item.text)
        return rows(self, item, *side)

    monkeypatch.setattr(Embedder, "rows", noted)
    with held(served):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/embeddings", json={"input": "gone"}, timeout=0.3)
        wait_for(lambda: served.worker.requests == 0)
    assert served.post("/v1/embeddings", input="here").status_code == 200
    assert embedded == ["here"]


def test_generation_stops_when_the_reader_disconnects(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, finished = threading.Event(), threading.Event()

    def endless(*_: Any, on_text: Callable[[str], None]) -> str:
        try:
            while True:
                on_text("word ")
                begun.set()
                time.sleep(0.01)
        finally:
            finished.set()

    monkeypatch.setattr(served.retriever.backbone, "generate", endless)
    body = {"question": "what", "stream": True}
    with served.client.stream("POST", "/answer", json=body) as answer:
        next(answer.iter_lines())
        assert begun.wait(30)
    assert finished.wait(30)
    assert served.post("/v1/embeddings", input="here").status_code == 200


def test_an_error_in_a_streamed_answer_is_an_event(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: Any, on_text: Callable[[str], None]) -> str:
        on_text("a")
        raise RuntimeError("broken")

    monkeypatch.setattr(served.retriever.backbone, "generate", breaks)
    text = served.post("/answer", question="what", stream=True).text
    assert "event: error" in text
    assert "event: done" not in text
    assert served.post("/answer", question="what").status_code == 500


# -- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"{", b'{"input": ', b"\xff\xfe", b"[]", b"null", b"1" * 99])
def test_malformed_bodies(served: Served, body: bytes) -> None:
    for path in ("/v1/embeddings", "/v2/rerank", "/search", "/similar", "/answer"):
        answer = served.client.post(
            path, content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 400, path
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_another_content_type_is_refused_before_the_body_is_read(served: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = served.client.post(
            "/v1/embeddings", content=b'{"input": "a"}', headers={"content-type": kind}
        )
        assert answer.status_code == 415


def test_oversized_bodies(served: Served) -> None:
    text = "one " * 5_000
    assert served.post("/v1/embeddings", input=text).status_code == 413
    pieces = iter([b'{"input": "', *[b"one " * 500] * 20, b'"}'])  # chunked: no length is given
    with httpx.Client(base_url=served.url) as client:
        answer = client.post(
            "/v1/embeddings", content=pieces, headers={"content-type": "application/json"}
        )
    assert answer.status_code == 413
    lying = head(served, "Content-Type: application/json", "Content-Length: 9999999999")
    assert b" 413 " in raw(served, lying).splitlines()[0]


def test_a_caller_who_stalls_holds_up_nobody(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    stalled = [socket.create_connection((host, int(port))) for _ in range(2 * CLIENTS)]
    begin = head(served, "Content-Type: application/json", "Content-Length: 100")
    try:
        for place, connection in enumerate(stalled):
            connection.sendall(begin + b'{"input' if place % 2 else begin[:40])
        assert served.post("/v1/embeddings", input="here").status_code == 200
        stalled[1].settimeout(30)
        assert b" 408 " in stalled[1].recv(65536).splitlines()[0]
    finally:
        for connection in stalled:
            connection.close()


# -- hostile callers ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[", "10.0.0.1"])
def test_an_unknown_host_header_is_refused(served: Served, host: str) -> None:
    """The host name of another site may resolve to this machine (DNS rebinding)."""
    for path in ("/", "/healthz"):
        answer = served.client.get(path, headers={"host": host})
        assert answer.status_code in (400, 403), path
    assert served.client.get("/healthz", headers={"host": "localhost:1"}).status_code == 200
    assert served.client.get("/healthz", headers={"host": "[::1]:8000"}).status_code == 200


def test_cross_origin_requests_are_refused(served: Served) -> None:
    other = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert served.client.get("/search?q=a", headers=other).status_code == 403
    assert served.client.get("/", headers=other).status_code == 200  # a link to the page
    preflight = served.client.options(
        "/search", headers={**other, "access-control-request-method": "POST"}
    )
    assert preflight.status_code >= 400
    answer = served.client.get("/healthz", headers={"origin": "https://evil.example"})
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_the_log_holds_nothing_that_callers_sent(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="freeret.serve")
    served.get("/search?q=secret-query")
    served.get("/items/secret-id")
    served.get("/secret-path%0a%1b[31m")
    served.post("/v1/embeddings", input="secret-text")
    served.post("/v1/embeddings", input=[{"secret-form": 1}])
    served.client.request("SECRET-METHOD", "/")
    wait_for(lambda: len(caplog.messages) >= 6)
    assert "secret" not in caplog.text.lower()
    assert "\x1b" not in caplog.text
    assert any(line.startswith("GET /search 200 ") for line in caplog.messages)


# -- a long life -------------------------------------------------------------------------------


def resident() -> float:
    """MB of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_memory_stays_flat(served: Served) -> None:
    def ask(count: int) -> None:
        for i in range(count):
            served.post("/v1/embeddings", input=[f"{text} {i}" for text in TEXTS])
            served.post("/search", text=f"{i}")

    ask(30)
    before = resident()
    ask(150)
    assert resident() - before < 40


# -- the command ----------------------------------------------------------------------------------


def test_bodies_nested_too_deeply(served: Served) -> None:
    body = json.dumps("a").encode()
    deep = b'{"input": ' + b"[" * 5_000 + body + b"]" * 5_000 + b"}"
    answer = served.client.post(
        "/v1/embeddings", content=deep, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
