"""All states of 200 texts: this project against nnterp and TransformerLens.

    python benchmarks/microscope.py --nnterp FOLDER --transformer-lens FOLDER

The states after attention and after the MLP of all 30 layers of SmolLM2-135M, at the last position
of 200 sentences, and at all positions. A FOLDER holds what `pip install --target` has put there; it
comes before the packages of the environment. nnterp 1.3 needs an nnsight before 0.8, so that folder
has its own. Each package stays in a process of its own with the model loaded, and these take turns.
Medians are of seconds of all threads together, since other work may share the cores. Peak memory is
that of a fresh process above what it held with the model loaded. Lines are those of the functions
below, which a user would write, imports and loading included. The error is the largest of any state
at the last position, relative to the norm of the state, against plain hooks. Writes
benchmarks/results/microscope.json.
"""

import contextlib
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, NamedTuple

import cyclopts
import torch
from torch import Tensor

from common import median, peak_memory, report_peak, save
from probes.data import paraphrases
from probes.embedded import ensure

MODEL, ROUNDS, SIZE = "smollm2-135m", 3, 32
"""SIZE: rows of a batch, for packages that leave batches to their user."""


# ------------------------------------------------------------------------------- this project


def load_probes(model: str) -> Any:
    from probes import Backbone

    return Backbone.load(model)


def last_by_probes(backbone: Any, texts: list[str]) -> Any:
    from probes import states_of

    return states_of(backbone, texts, "all")


def all_by_probes(backbone: Any, texts: list[str]) -> Any:
    from probes import record

    batches = [texts[i : i + SIZE] for i in range(0, len(texts), SIZE)]
    return [record(backbone, batch, "all", positions="all") for batch in batches]


# ------------------------------------------------------------------------------------- nnterp


def load_nnterp(model: str) -> Any:
    from nnterp import StandardizedTransformer  # pyright: ignore[reportMissingImports]

    return StandardizedTransformer(model)


def last_by_nnterp(model: Any, texts: list[str]) -> Any:
    states = []
    for start in range(0, len(texts), SIZE):
        with torch.no_grad(), model.trace(texts[start : start + SIZE]) as tracer:
            found = [].save()  # pyright: ignore[reportAttributeAccessIssue]
            for layer in range(model.num_layers):
                before = model.layers_input[layer][:, -1]
                found.append(before + model.attentions_output[layer][:, -1])
                found.append(model.layers_output[layer][:, -1].clone())
            tracer.stop()
        states.append(torch.stack(found, dim=1))
    return torch.cat(states)


def all_by_nnterp(model: Any, texts: list[str]) -> Any:
    states = []
    for start in range(0, len(texts), SIZE):
        with torch.no_grad(), model.trace(texts[start : start + SIZE]) as tracer:
            found = [].save()  # pyright: ignore[reportAttributeAccessIssue]
            for layer in range(model.num_layers):
                before = model.layers_input[layer]
                found.append(before + model.attentions_output[layer])
                found.append(model.layers_output[layer])
            tracer.stop()
        states.append(found)
    return states


# ----------------------------------------------------------------------------- TransformerLens


def load_transformer_lens(model: str) -> Any:
    from transformer_lens.model_bridge import (  # pyright: ignore[reportMissingImports]
        TransformerBridge,
    )

    bridge = TransformerBridge.boot_transformers(model)
    bridge.tokenizer.padding_side = "left"
    return bridge


def last_by_transformer_lens(bridge: Any, texts: list[str]) -> Any:
    hooks, states = ("hook_resid_mid", "hook_resid_post"), []
    names = [f"blocks.{i}.{hook}" for i in range(bridge.cfg.n_layers) for hook in hooks]
    for start in range(0, len(texts), SIZE):
        rows = bridge.tokenizer(texts[start : start + SIZE], return_tensors="pt", padding=True)
        mask = rows.attention_mask
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                rows.input_ids, attention_mask=mask, names_filter=names, pos_slice=[-1]
            )
        states.append(torch.cat([cache[name] for name in names], dim=1))
    return torch.cat(states)


def all_by_transformer_lens(bridge: Any, texts: list[str]) -> Any:
    hooks, states = ("hook_resid_mid", "hook_resid_post"), []
    names = [f"blocks.{i}.{hook}" for i in range(bridge.cfg.n_layers) for hook in hooks]
    for start in range(0, len(texts), SIZE):
        rows = bridge.tokenizer(texts[start : start + SIZE], return_tensors="pt", padding=True)
        mask = rows.attention_mask
        with torch.no_grad():
            _, cache = bridge.run_with_cache(
                rows.input_ids, attention_mask=mask, names_filter=names
            )
        states.append(cache)
    return states


# ---------------------------------------------------------------------------------- comparison


class Package(NamedTuple):
    load: Callable[[str], Any]
    last: Callable[[Any, list[str]], Any]
    all: Callable[[Any, list[str]], Any]

    def lines(self, task: str) -> int:
        """Lines of code of loading and of a task, without their definitions and empty lines."""
        sources = [inspect.getsource(function) for function in (self.load, getattr(self, task))]
        return sum(bool(line.strip()) for source in sources for line in source.splitlines()[1:])


PACKAGES = {
    "probes": Package(load_probes, last_by_probes, all_by_probes),
    "nnterp": Package(load_nnterp, last_by_nnterp, all_by_nnterp),
    "transformer-lens": Package(
        load_transformer_lens, last_by_transformer_lens, all_by_transformer_lens
    ),
}
TASKS = ("last", "all")


def texts() -> list[str]:
    return [row["sentence"] for row in paraphrases()]


def plain_hooks(folder: Path) -> Tensor:
    """The states by plain hooks, `[texts, 60, hidden]`; every text runs alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer, found = AutoTokenizer.from_pretrained(folder), []

    def keep(module: object, args: tuple) -> None:
        found.append(args[0][0, -1].clone())

    def keep_output(module: object, args: tuple, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0, -1].clone())

    for layer in model.model.layers:
        layer.post_attention_layernorm.register_forward_pre_hook(keep)
        layer.register_forward_hook(keep_output)
    with torch.no_grad():
        for text in texts():
            model(**tokenizer(text, return_tensors="pt"), logits_to_keep=1)
    return torch.stack(found).view(len(texts()), -1, found[0].shape[-1])


def work(name: str, folder: str) -> None:
    """Load a package, then run the task that each line of the input names."""
    package = PACKAGES[name]
    with contextlib.redirect_stdout(sys.stderr):
        loaded = package.load(folder)
        for task in TASKS:
            getattr(package, task)(loaded, texts()[:2])  # warm up
    print("ready", version("freeret" if name == "probes" else name), flush=True)
    for line in sys.stdin:
        start, wall = time.process_time(), time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            found = getattr(package, line.split()[0])(loaded, texts())
        seconds = [time.process_time() - start, time.perf_counter() - wall]
        if line.split()[1:] == ["error"]:
            found = found[:, 1:-1] if name == "probes" else found  # without embed and norm
            expected = plain_hooks(Path(folder))
            error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
            seconds.append(error.max().item())
        del found
        print(json.dumps(seconds), flush=True)


class Worker:
    """A process that keeps one package with its model loaded."""

    def __init__(self, name: str, folder: str, packages: str):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "work", name, folder], env=environment(packages), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.version = self.line().split()[1]

    def line(self) -> str:
        stream: IO[str] | None = self.process.stdout
        answer = stream.readline() if stream else ""
        if not answer:
            raise RuntimeError(f"{self.process.args} has ended")
        return answer

    def run(self, task: str) -> list[float]:
        """Seconds of all threads, and of the clock."""
        assert self.process.stdin is not None
        print(task, file=self.process.stdin, flush=True)
        return json.loads(self.line())


def environment(packages: str) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    paths = [path for path in (packages, root) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def main(nnterp: str, transformer_lens: str, rounds: int = ROUNDS) -> None:
    """Compare the packages.

    Args:
        nnterp: Folder of nnterp and its nnsight.
        transformer_lens: Folder of TransformerLens.
        rounds: Repeats of each task.
    """
    folder = ensure(MODEL)
    places = {"probes": "", "nnterp": nnterp, "transformer-lens": transformer_lens}
    workers = {name: Worker(name, str(folder), place) for name, place in places.items()}
    times: dict[str, dict[str, list[list[float]]]] = {
        task: {name: [] for name in workers} for task in TASKS
    }
    for turn in range(rounds):
        for task in TASKS:
            names = list(workers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[task][name].append(workers[name].run(task))
    results = {}
    for name, worker in workers.items():
        results[name] = {"version": worker.version, "error": worker.run("last error")[-1]}
        worker.process.terminate()
        os.environ.update(environment(places[name]))
        for task in TASKS:
            row = {
                "lines": PACKAGES[name].lines(task),
                "seconds of all threads": [each[0] for each in times[task][name]],
                "seconds": [each[1] for each in times[task][name]],
                "peak_mb": peak_memory(Path(__file__), "peak", name, str(folder), task),
            }
            results[name][task] = row
            print(
                f"{name:17} {task:5} {row['lines']:3} lines {row['peak_mb']:6.0f} MB "
                f"{median(row['seconds of all threads']):6.2f} s of all threads"
            )
    save("microscope", {"model": MODEL, "texts": len(texts()), "packages": results})


def peak(name: str, folder: str, task: str) -> None:
    package = PACKAGES[name]
    loaded = package.load(folder)
    getattr(package, task)(loaded, texts()[:2])  # what a first run sets up is none of the states
    kept: list[Any] = []
    report_peak(lambda: kept.append(getattr(package, task)(loaded, texts())))


if __name__ == "__main__":
    app = cyclopts.App()
    app.default(main)
    app.command(work)
    app.command(peak)
    app()
