"""All states of 200 texts: this project against nnterp and TransformerLens.

    python benchmarks/microscope.py --nnterp FOLDER --transformer-lens FOLDER

The states after attention and after the MLP of all 30 layers of SmolLM2-135M, at the last position
of 200 sentences, and at all positions. A FOLDER holds what `pip install --target` has put there; it
comes before the packages of the environment. nnterp 1.3 needs an nnsight before 0.8, so that folder
has its own. Each package has a process for each task, which keeps the model loaded. All of them run
at once, so that whatever else the machine does hits all alike, and medians are of the seconds that
a process computes, of all its threads. Peak memory is that of the first run above what the process
held with the model loaded. Lines are those of the functions below, which a user would write,
imports and loading included. The error is the largest of any state at the last position, relative
to the norm of the state, against plain hooks on texts that run alone. Writes
benchmarks/results/microscope.json after each round.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

import contextlib
import gc
import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cyclopts
import torch
from torch import Tensor

from common import median, resident, save
from probes.data import paraphrases
from probes.embedded import ensure

MODEL, ROUNDS, SIZE = "smollm2-135m", 3, 32
"""SIZE: rows of a batch, for packages that leave batches to their user."""
COMPARED = 40
"""Texts whose states are compared with plain hooks."""


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
    from nnterp import StandardizedTransformer

    return StandardizedTransformer(model)


def last_by_nnterp(model: Any, texts: list[str]) -> Any:
    states = []
    for start in range(0, len(texts), SIZE):
        with torch.no_grad(), model.trace(texts[start : start + SIZE]) as tracer:
            found = [].save()
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
            found = [].save()
            for layer in range(model.num_layers):
                before = model.layers_input[layer]
                found.append(before + model.attentions_output[layer])
                found.append(model.layers_output[layer])
            tracer.stop()
        states.append(found)
    return states


# ----------------------------------------------------------------------------- TransformerLens


def load_transformer_lens(model: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

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
        for text in texts()[:COMPARED]:
            model(**tokenizer(text, return_tensors="pt"), logits_to_keep=1)
    return torch.stack(found).view(COMPARED, -1, found[0].shape[-1])


def work(name: str, task: str, folder: str) -> None:
    """Load a package, then run a task for each line of the input."""
    package, run = PACKAGES[name], getattr(PACKAGES[name], task)
    with contextlib.redirect_stdout(sys.stderr):
        loaded = package.load(folder)
        run(loaded, texts()[:2])  # what a first run sets up is none of the states
    answer: dict[str, Any] = {"version": version("freeret" if name == "probes" else name)}
    for line in sys.stdin:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before, start = resident("VmRSS"), time.process_time()
        with contextlib.redirect_stdout(sys.stderr):
            found = run(loaded, texts())
        answer["seconds"] = time.process_time() - start
        answer["peak_mb"] = resident("VmHWM") - before
        if line.strip() == "error":
            answer["error"] = largest_error(found, Path(folder))
        del found
        print(json.dumps(answer), flush=True)


def largest_error(found: Tensor, folder: Path) -> float:
    expected = plain_hooks(folder)
    if found.shape[1] > expected.shape[1]:  # "all" holds embed and norm too
        found = found[:, 1:-1]
    distance = (found[:COMPARED] - expected).norm(dim=-1)
    return (distance / expected.norm(dim=-1)).max().item()


class Worker:
    """A process that keeps one package with its model loaded, for one task."""

    def __init__(self, name: str, task: str, folder: Path, packages: str):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "work", name, task, str(folder)], text=True,
            env=environment(packages), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, request: str = "") -> None:
        assert self.process.stdin is not None
        print(request, file=self.process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} has ended")
        return json.loads(answer)


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
    workers = {
        (name, task): Worker(name, task, folder, place)
        for task in TASKS
        for name, place in places.items()
    }
    answers: dict[tuple[str, str], list[dict[str, Any]]] = {key: [] for key in workers}
    for turn in range(rounds):
        for (_, task), worker in workers.items():
            worker.start("error" if turn == 0 and task == "last" else "")
        for key, worker in workers.items():
            answers[key].append(worker.answer())
        write(answers)
    for worker in workers.values():
        worker.process.terminate()


def write(answers: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
    """Print and save what was measured so far."""
    results: dict[str, Any] = {}
    for (name, task), found in answers.items():
        first = found[0]
        row = {
            "lines": PACKAGES[name].lines(task),
            "peak_mb": first["peak_mb"],
            "seconds": [each["seconds"] for each in found],
        }
        if task == "last":
            results[name] = {"version": first["version"], "error": first["error"]}
        results[name][task] = row
        print(
            f"{name:17} {task:5} {row['lines']:3} lines {row['peak_mb']:6.0f} MB "
            f"{median(row['seconds']):6.2f} s"
        )
    save("microscope", {"model": MODEL, "texts": len(texts()), "packages": results})


if __name__ == "__main__":
    app = cyclopts.App()
    app.default(main)
    app.command(work)
    app()
