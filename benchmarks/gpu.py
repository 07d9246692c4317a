"""FreeRet on one GPU, against plain transformers and sentence-transformers on the same weights.

    python benchmarks/gpu.py                                    one H100: about five minutes
    python benchmarks/gpu.py --parts qwen-texts,search --out some.json
    python benchmarks/gpu.py --tiny --out tiny.json             a CPU, seconds, to test the script

Qwen2.5-VL-7B and SmolVLM-256M at their published sizes, with random weights: there is nothing to
download. Every part writes its results as it goes, is ended when its time is over, and is recorded
with its error where it fails. In the results, `seconds` are those of every round, in which the ways
take turns, and rates are of their median. Of the GEMM peak, only useful work counts: no padding,
what begins all rows once, and neither attention scores nor the LM head.
Writes benchmarks/results/gpu.json.
"""

import argparse
import gc
import json
import os
import platform
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from common import RESULTS, gemm_peak, resident
from gpu_parts.exactness import exactness
from gpu_parts.models import QWEN_7B, SMOL_256M, TINY_QWEN, TINY_SMOL, Made, qwen, smolvlm
from gpu_parts.run import FULL, TINY, Results, Run
from gpu_parts.searching import searching
from gpu_parts.stage1 import embedding_pictures, embedding_texts
from gpu_parts.stage2 import reranking

PARTS: dict[str, tuple[str, Callable[[Run], Iterator[Results]], float]] = {
    "qwen-exactness": ("qwen", exactness, 20),
    "qwen-pictures": ("qwen", embedding_pictures, 65),
    "qwen-rerank": ("qwen", reranking, 45),
    "qwen-texts": ("qwen", embedding_texts, 85),
    "smolvlm-texts": ("smolvlm", embedding_texts, 25),
    "smolvlm-pictures": ("smolvlm", embedding_pictures, 30),
    "smolvlm-rerank": ("smolvlm", reranking, 30),
    "search": ("", searching, 35),
}
"""The model of each part, the part, and its seconds: rounds end then, and half as much again ends
it by force."""
PACKAGES = ("torch", "transformers", "tokenizers", "nnsight", "sentence-transformers", "numpy")


class OutOfTime(BaseException):
    """The time of a part is over; nothing but `main` catches it."""


class Report:
    """The results so far, written after every change."""

    def __init__(self, path: Path, machine: Results):
        self.path, self.data = path, {"machine": machine, "parts": {}}

    def update(self, part: str, results: Results) -> None:
        self.data["parts"].setdefault(part, {}).update(results)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps(self.data, indent=1) + "\n")
        whole.replace(self.path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="FreeRet on one GPU.")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of: %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.json")
    parser.add_argument("--seconds", type=float, default=450, help="no part starts after that")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to test this script")
    options = parser.parse_args(arguments)
    names = options.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")

    start = time.perf_counter()
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    dtype = torch.float32 if options.tiny else torch.bfloat16
    scale = TINY if options.tiny else FULL
    peak = gemm_peak(scale.gemm, device=device, dtype=dtype)
    report = Report(options.out, {**machine(device), "gemm_peak": peak})
    print(f"{report.data['machine']['device']}: GEMM peak {peak / 1e12:.1f} TFLOP/s", flush=True)

    family, made = "", None
    for name in names:
        wanted, part, limit = PARTS[name]
        began = time.perf_counter()
        if began - start > options.seconds:
            report.update(name, {"error": f"not begun within {options.seconds:g} seconds"})
            continue
        try:
            with time_limit(1.5 * limit + 30 * (wanted != family)):
                if wanted != family:
                    made, family = None, ""
                    free(device)
                    made, family = build(wanted, device, dtype, options.tiny), wanted
                free(device)
                built = time.perf_counter()
                for results in part(Run(family, device, scale, made, peak, built + limit)):
                    report.update(name, results)
        except (Exception, OutOfTime) as error:
            report.update(name, {"error": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
        seconds = time.perf_counter() - began
        report.update(name, {"seconds": seconds, **peaks(device)})
        failed = report.data["parts"][name].get("error", "")
        print(f"{name:20} {seconds:6.1f} s  {failed}", flush=True)
    print(f"{'all':20} {time.perf_counter() - start:6.1f} s  {options.out}", flush=True)


def build(family: str, device: str, dtype: torch.dtype, tiny: bool) -> Made | None:
    """The model of a part, if it has one."""
    match family:
        case "qwen":
            return qwen(device, dtype, TINY_QWEN if tiny else QWEN_7B)
        case "smolvlm":
            return smolvlm(device, dtype, TINY_SMOL if tiny else SMOL_256M)
    return None


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in whatever runs when the seconds are over."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"ended after {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def machine(device: str) -> Results:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    packages = {package: version(package) for package in PACKAGES}
    return {
        "device": name,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **packages,
    }


def free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peaks(device: str) -> Results:
    """Peak memory in bytes: of the GPU since the part began, of the process since it started."""
    found = {"peak_host_bytes": int(resident("VmHWM") * 2**20)}
    if device == "cuda":
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return found


if __name__ == "__main__":
    gc.freeze()  # what was imported stays, and need not be searched for garbage
    main()
