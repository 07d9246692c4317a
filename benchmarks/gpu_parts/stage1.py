"""Stage 1: texts and pictures per second, pictures from encoded files, and how busy the GPU is."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from common import median
from freeret.embedder import Embedder
from gpu_parts.others import encoded, plain_vectors, rendered, sentence_transformer
from gpu_parts.run import (
    OURS,
    Results,
    Run,
    pictures,
    rounds,
    summary,
    texts,
    tower_flops,
    useful_tokens,
)
from probes import ControlPrompt, record

PROMPT = ControlPrompt()


def embedding_texts(run: Run) -> Iterator[Results]:
    """Texts per second; every round has its own, and so batches of shapes of its own."""
    weights = run.made.text_weights - run.made.last_mlp
    yield {"one forward of equal rows": forward(run, weights)}
    for name, (count, low, high), seconds in run.each(run.scale.texts):
        warm_up, *given = (
            texts(run.made, count, low, high, seed) for seed in range(run.scale.repeats + 1)
        )
        rows = [[row.ids for row in run.backbone.rows(map(PROMPT.apply, some))] for some in given]
        useful = useful_tokens(rows) / len(given)
        times = timed(run, warm_up[: -(-count // 4)], given.__getitem__, 32, seconds)
        ways = summary(times, count, {"of_gemm_peak": 2.0 * weights * useful}, run.peak)
        tokens = sum(len(ids) for some in rows for ids in some) / len(given)
        yield {name: {"texts": count, "tokens": tokens, "useful_tokens": useful, "ways": ways}}


def embedding_pictures(run: Run) -> Iterator[Results]:
    """Pictures per second; every round has its own pictures, so that none is cached."""
    weights = run.made.text_weights - run.made.last_mlp
    for number, (size, count, seconds) in enumerate(run.each(run.scale.pictures[run.family])):
        [row] = run.backbone.rows([PROMPT.apply(picture) for picture in pictures(size, 1, 900)])
        shared = row.ids.index(run.made.image_token)
        useful = len(row) * count - shared * (count - 1)
        language, tower = 2.0 * weights * useful, tower_flops(run.made, row.ids) * count
        flops = {
            "of_gemm_peak": language + tower,
            "language_model_of_gemm_peak": language,
            "tower_of_gemm_peak": tower,
        }

        def fresh(
            repeat: int, size: tuple[int, int] = size, count: int = count, number: int = number
        ) -> list[bytes]:
            return pictures(size, count, seed=100 * number + repeat)

        times = timed(run, fresh(98)[:8], fresh, 8, seconds * 0.8)
        name = "×".join(map(str, size))
        yield {
            name: {
                "pictures": count,
                "tokens_of_one": row.ids.count(run.made.image_token),
                "useful_tokens": useful,
                "ways": summary(times, count, flops, run.peak),
            }
        }
        if run.device == "cuda":
            given, embedder = fresh(99), Embedder(run.backbone)
            yield {f"{name}, busy": busy(lambda: embedder.encode(given))}  # noqa: B023


def forward(run: Run, weights: int) -> Results:
    """What the model's own forward reaches in a large batch without padding: a trace up to
    `attn[-1]` of rows that are tokenised already."""
    count, length = run.scale.rows
    batch = run.backbone.encode(texts(run.made, count, length, length))
    times = []
    for _ in range(run.scale.repeats + 1):
        start = time.perf_counter()
        record(run.backbone, batch, "attn[-1]")["attn[-1]"].float().cpu()
        times.append(time.perf_counter() - start)
    work = 2.0 * weights * sum(batch.lengths)
    return {
        "tokens": sum(batch.lengths),
        "seconds": times[1:],
        "of_gemm_peak": work / median(times[1:]) / run.peak,
    }


def timed(
    run: Run,
    warm_up: Sequence[Any],
    fresh: Callable[[int], Sequence[Any]],
    size: int,
    seconds: float,
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """`rounds` of all ways, each of which gets the items themselves."""
    embedder, other = Embedder(run.backbone), sentence_transformer(run.made)

    def prepared(items: Sequence[Any]) -> list[Any]:
        return [rendered(run.made, PROMPT.apply(item)) for item in items]

    ways: dict[str, Callable[[Sequence[Any]], Any]] = {
        OURS: embedder.encode,
        f"transformers, {size} a batch": lambda items: plain_vectors(
            run.made, prepared(items), size
        ),
        f"sentence-transformers, {size} a batch": lambda items: encoded(
            other, prepared(items), size
        ),
    }
    return rounds(ways, warm_up, fresh, run.scale.repeats, seconds)


def busy(work: Callable[[], Any]) -> Results:
    """The share of the time of `work` in which at least one kernel or copy runs on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    recorded: Any = profiler.profiler
    spans = sorted(
        (event.start_ns(), event.start_ns() + event.duration_ns())
        for event in recorded.kineto_results.events()
        if event.device_type() == DeviceType.CUDA
    )
    covered = end = 0
    for first, last in spans:
        covered += max(0, last - max(first, end))
        end = max(end, last)
    return {"share": covered / 1e9 / seconds, "seconds": seconds, "kernels": len(spans)}
