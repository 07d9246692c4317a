"""What benchmarks share: interleaved timing, medians, peak memory, the GEMM peak."""

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each run, taken in turn so that drift of the machine hits all alike. Where other
    work shares the cores, `time.process_time` tells more: seconds of all threads together."""
    for run in runs.values():  # warm up
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        names = list(runs)
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            gc.collect()
            start = clock()
            runs[name]()
            times[name].append(clock() - start)
    return times


def median(times: list[float]) -> float:
    return statistics.median(times)


def ratio(times: Mapping[str, list[float]], slower: str, faster: str) -> float:
    """Median over repeats of time(slower) / time(faster), each pair from one round."""
    pairs = zip(times[slower], times[faster], strict=True)
    return statistics.median(a / b for a, b in pairs)


def fastest(runs: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the quickest run; each is taken once, after a warm-up of the first."""
    next(iter(runs.values()))()
    seconds = {}
    for name, run in runs.items():
        start = time.perf_counter()
        run()
        seconds[name] = time.perf_counter() - start
    return min(seconds, key=seconds.__getitem__)


def gemm_peak(
    size: int = 2048, repeats: int = 9, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> float:
    """The best matrix product that the device does now, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    best = 0.0
    for _ in range(repeats):
        wait()
        start = time.perf_counter()
        torch.mm(a, b)
        wait()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def peak_memory(script: Path, *arguments: str) -> float:
    """Extra peak resident MB of one way, run by `report_peak` in a fresh process."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    return float(done.stdout.rsplit("PEAK", 1)[1])


def report_peak(run: Callable[[], Any]) -> None:
    """Print how much the resident peak of this process rises while `run` works (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    run()
    print("PEAK", resident("VmHWM") - before)


def resident(name: str) -> float:
    """VmRSS or VmHWM of this process, now or at its peak, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def matrix_flops(model: Any, tokens: int, *, last_mlp: bool = True) -> float:
    """FLOPs of the layers' matrix products for so many tokens, attention scores left out."""
    layers = model.get_decoder().layers
    weights = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim == 2)
    if not last_mlp:
        weights -= sum(p.numel() for p in layers[-1].mlp.parameters() if p.ndim == 2)
    return 2.0 * weights * tokens


def save(name: str, data: dict[str, Any]) -> None:
    """Write the results with what they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine, **data}, indent=1) + "\n")
