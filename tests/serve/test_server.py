"""The server itself: tokens, other processes, restarts, and what its errors and options say."""

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from freeret.recipe import Recipe
from freeret.retriever import FreeRet
from probes import Backbone, Item
from tests.served import JUDGING, NOT_JUDGING, TEXTS, held, open_ai, serving, wait_for
from tests.stores import save_tiny


def test_no_error_says_where_the_store_is(tiny: Callable[[str], Backbone], tmp_path: Path) -> None:
    retriever = FreeRet(tiny("llama"), NOT_JUDGING)
    retriever.index([Item("a text", id="only")], tmp_path / "store")
    with serving(retriever) as served:
        unknown = served.get("/items/nobody"), served.post("/similar", id="nobody")
        retriever.delete("only")
        nothing = served.post("/answer", question="what?")
        empty = served.post("/search", text="what?", kinds=["image"]).json()
        assert (empty["hits"], empty["note"]) == ([], "the store holds no items")
        for answer, status in ((unknown[0], 404), (unknown[1], 404), (nothing, 500)):
            assert answer.status_code == status
            message = answer.json()["error"]["message"]
            assert str(tmp_path) not in message
            assert message.startswith(("the store ", "nothing to answer from"))


def test_what_another_process_stores_is_found(
    tiny: Callable[[str], Backbone], tmp_path: Path
) -> None:
    store, recipe = tmp_path / "store", Recipe(geometry="centre", frame=None)
    FreeRet(tiny("llama"), recipe).index(["one of two", "after the user"], store)
    with serving(FreeRet.load(store, tiny("llama"))) as served:
        assert len(served.post("/search", text="what").json()["hits"]) == 2
        FreeRet(tiny("llama"), recipe).index([Item("the word", id="new")], store)
        assert len(served.post("/search", text="what").json()["hits"]) == 3
        assert served.get("/items/new").json()["text"] == "the word"
        FreeRet.load(store, tiny("llama")).delete("new")
        assert len(served.post("/search", text="what").json()["hits"]) == 2


def test_every_endpoint_but_the_page_needs_the_token(
    tiny: Callable[[str], Backbone], tmp_path: Path
) -> None:
    retriever = FreeRet(tiny("llama"), NOT_JUDGING)
    retriever.index(TEXTS, tmp_path / "store")
    with serving(retriever, token="sesame") as served:
        assert served.get("/healthz").status_code == 200
        with open_ai(served, "sesame") as client:
            assert len(client.embeddings.create(model="any", input="a").data) == 1
        with open_ai(served, "other") as wrong, pytest.raises(openai.AuthenticationError):
            wrong.embeddings.create(model="any", input="a")
        assert httpx.get(f"{served.url}/").status_code == 200
        for path in ("/healthz", "/openapi.json", "/items/x", "/nothing", "//", "/search?q=a"):
            assert httpx.get(served.url + path).status_code == 401, path


def test_the_token_is_compared_whole(tiny: Callable[[str], Backbone], tmp_path: Path) -> None:
    retriever = FreeRet(tiny("llama"), JUDGING)
    retriever.index(TEXTS, tmp_path / "store")
    with serving(retriever, token="sesame") as served:
        for given in (
            "",
            "sesame",
            "Bearer",
            "Bearer sesam",
            "Bearer sesame2",
            "Basic sesame",
            "ü",
        ):
            answer = httpx.get(f"{served.url}/healthz", headers={"authorization": given.encode()})
            assert answer.status_code == 401, given
            assert answer.headers["www-authenticate"] == "Bearer"


@contextmanager
def command(store: Path, *options: str) -> Iterator[tuple[Any, str]]:
    """Run `freeret serve` in a process; yields the process and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "freeret", "serve", str(store), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        yield process, line.split(" at ")[1].split(" ")[0]
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_killed_and_restarted_it_serves_the_same(tmp_path: Path) -> None:
    folder, store = save_tiny(tmp_path / "model"), tmp_path / "store"
    FreeRet(Backbone.load(folder), JUDGING).index(TEXTS, store)

    def ask(url: str) -> Any:
        found = httpx.post(f"{url}/search", json={"text": "what", "rerank": 2}, timeout=60).json()
        return [(hit["id"], hit["score"]) for hit in found["hits"]]

    with command(store) as (process, url):
        first = ask(url)
        process.send_signal(signal.SIGKILL)
    with command(store) as (process, url):
        assert ask(url) == first
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert len(first) == len(TEXTS)


def test_requests_in_progress_finish_at_shutdown(
    tiny: Callable[[str], Backbone], tmp_path: Path
) -> None:
    retriever = FreeRet(tiny("llama"), JUDGING)
    retriever.index(TEXTS, tmp_path / "store")
    with ThreadPoolExecutor(2) as pool, serving(retriever) as served:
        with held(served):
            waiting = pool.submit(served.post, "/search", text="a")
            wait_for(lambda: served.worker.requests == 1)
            served.worker.refuse()
            assert served.post("/search", text="b").status_code == 503
        assert len(waiting.result().json()["hits"]) == len(TEXTS)
        refused = served.post("/v1/embeddings", input="a")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "others can reach 0.0.0.0"),
        (["--host", "example.org"], "others can reach example.org"),
        (["--token", " "], "a token is"),
        (["--host", "127.0.0.1", "--port", "PORT"], "cannot listen on 127.0.0.1"),
    ],
)
def test_bad_server_options_are_refused_before_a_model_is_loaded(
    tmp_path: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from freeret.cli import main

    monkeypatch.delenv("FREERET_TOKEN", raising=False)
    (tmp_path / "items.lance").mkdir()  # enough for the check of the store, and not for loading it
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit):
            main(["serve", str(tmp_path), *(o.replace("PORT", port) for o in options)])
    assert said in capsys.readouterr().err


def test_the_environment_names_the_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from freeret.cli import main

    monkeypatch.setenv("FREERET_TOKEN", "sesame")
    with pytest.raises(SystemExit):
        main(["serve", str(tmp_path / "nothing"), "--host", "0.0.0.0"])
    said = capsys.readouterr()
    assert "there is no store" in said.err
    assert "sesame" not in said.err + said.out
