"""`freeret serve` beside a server for sentence-transformers in 30 lines, on equal weights.

    python benchmarks/serve.py

Both servers run all the time, each in a process of its own, and take turns: the same texts from the
same clients, each of which sends its next request when the last one is answered. The other server
puts the same prompt around a text and reads the last token. Then the latency of a search, served
and by the command. Writes benchmarks/results/serve.json.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from common import median, save

CLIENTS = {1: 12, 8: 48, 64: 128}
"""How many clients at once, and how many requests they send in all."""
REPEATS, SEARCHES, COMMANDS = 2, 20, 3
OURS, THEIRS = "freeret serve", "sentence-transformers, 30 lines"


def other_server(folder: str, before: str, after: str, port: int) -> None:
    """The other server: a thread of the framework for each request, a forward for each."""
    from freeret.serve.compatibility import load_anyio

    load_anyio()
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    plain: Any = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    reader = Transformer(folder, modality_config=plain, module_output_name="token_embeddings")
    pooling = Pooling(reader.get_embedding_dimension(), "lasttoken")
    model = SentenceTransformer(modules=[reader, pooling], device="cpu")
    app = FastAPI()

    class Request(BaseModel):
        input: str

    @app.post("/v1/embeddings")
    def embeddings(request: Request) -> dict[str, Any]:
        prompt = before + request.input + after
        vector = model.encode([prompt], show_progress_bar=False, normalize_embeddings=True)[0]
        return {"data": [{"index": 0, "embedding": vector.tolist()}]}

    uvicorn.run(app, port=port, log_level="warning")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start(stack: ExitStack, arguments: list[str], port: int) -> str:
    """A process that serves on a port, and its address once it listens."""
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            url = f"http://127.0.0.1:{port}"
            httpx.post(f"{url}/v1/embeddings", json={"input": "warm"}, timeout=600)
            return url
        except (OSError, httpx.HTTPError):
            if process.poll() is not None:
                raise SystemExit(f"{arguments} ended with {process.returncode}") from None
            time.sleep(0.5)


def load(url: str, texts: list[str], clients: int, requests: int) -> tuple[list[float], float]:
    """Seconds of every request, and of all together."""
    numbers = count()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    with httpx.Client(base_url=url, timeout=600, limits=limits) as client:

        def work(_: int) -> list[float]:
            taken = []
            while (number := next(numbers)) < requests:
                start = time.perf_counter()
                client.post(
                    "/v1/embeddings", json={"input": texts[number % len(texts)]}
                ).raise_for_status()
                taken.append(time.perf_counter() - start)
            return taken

        start = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            seconds = [s for some in pool.map(work, range(clients)) for s in some]
        return seconds, time.perf_counter() - start


def figures(seconds: list[float], walls: list[float]) -> dict[str, float]:
    return {
        "p50_ms": 1000 * float(np.quantile(seconds, 0.5)),
        "p95_ms": 1000 * float(np.quantile(seconds, 0.95)),
        "requests_per_second": len(seconds) / sum(walls),
    }


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="freeret serve against 30 lines.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--other", nargs=4, help=argparse.SUPPRESS)  # in a process of its own
    options = parser.parse_args()
    if options.other:
        folder, before, after, port = options.other
        other_server(folder, before, after, int(port))
        return

    from freeret.retriever import FreeRet
    from probes import Item
    from probes.measure.reference import reference_items

    texts = [item.text for item in reference_items("document", "text")]
    with ExitStack() as stack:
        store = str(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store")
        retriever = FreeRet(options.model)
        retriever.index(texts, store)
        backbone = retriever.backbone
        [row] = retriever.embedder.rows(Item("TEXT"))
        before, after = backbone.tokenizer.decode(row.ids).split("TEXT")
        folder = backbone.model.config._name_or_path
        del retriever, backbone

        ports = free_port(), free_port()
        other = [__file__, "--other", folder, before, after, str(ports[1])]
        urls = {
            OURS: start(
                stack, ["-m", "freeret", "serve", store, "--port", str(ports[0])], ports[0]
            ),
            THEIRS: start(stack, other, ports[1]),
        }
        seconds: dict[tuple[str, int], list[float]] = {}
        walls: dict[tuple[str, int], list[float]] = {}
        averages = [os.getloadavg()[0]]
        for repeat in range(REPEATS):
            for clients, requests in CLIENTS.items():
                for name in list(urls)[:: -1 if repeat % 2 else 1]:
                    taken, wall = load(urls[name], texts, clients, requests)
                    seconds.setdefault((name, clients), []).extend(taken)
                    walls.setdefault((name, clients), []).append(wall)
            averages.append(os.getloadavg()[0])
        queries = texts[:SEARCHES]
        with httpx.Client(base_url=urls[OURS], timeout=600) as client:
            client.post("/search", json={"text": "warm"})
            served = [
                timed(lambda q=q: client.post("/search", json={"text": q}).raise_for_status())
                for q in queries
            ]
        search = [sys.executable, "-m", "freeret", "search", store, queries[0], "--json"]
        commands = [
            timed(lambda: subprocess.run(search, check=True, capture_output=True))
            for _ in range(COMMANDS)
        ]

    rows = {
        name: {str(n): figures(seconds[name, n], walls[name, n]) for n in CLIENTS} for name in urls
    }
    print(f"{'':34}{'clients':>8}{'p50 ms':>9}{'p95 ms':>9}{'requests/s':>12}")
    for name, by_clients in rows.items():
        for n, f in by_clients.items():
            p50, p95, speed = f["p50_ms"], f["p95_ms"], f["requests_per_second"]
            print(f"{name:34}{n:>8}{p50:9.0f}{p95:9.0f}{speed:12.1f}")
    print(f"search, served {median(served):.3f} s, by the command {median(commands):.1f} s")
    print(f"load average {averages} on {os.cpu_count()} cores")
    save(
        "serve",
        {
            "model": options.model,
            "texts": len(texts),
            "requests": CLIENTS,
            "repeats": REPEATS,
            "embeddings": rows,
            "search_seconds": {"served": median(served), "command": median(commands)},
            "load_average": averages,
        },
    )


if __name__ == "__main__":
    main()
