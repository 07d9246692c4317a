"""Scripts that load a backbone once and fork for every job, so that processes are ready in little
time. Jobs come as lines of JSON on their standard input, outcomes go to their standard output."""

import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]


def loaded(model: str) -> Any:
    """The backbone, in a process that may be forked."""
    # What LanceDB imports takes a second; LanceDB itself has threads and must not be forked.
    for name in ("lance_namespace", "pyarrow.dataset", "scipy.special"):
        importlib.import_module(name)
    import torch

    from probes import Backbone

    torch.set_num_threads(1)
    return Backbone.load(model)


def say(what: Any) -> None:
    """Print an outcome."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


@dataclass
class Script:
    """A script that runs."""

    process: subprocess.Popen[str]

    @classmethod
    def run_module(cls, module: str, model: Path) -> Self:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(model)], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        return cls(process)

    def give(self, job: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def line(self) -> Any:
        """The next outcome."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(map(str, self.process.args[1:]))  # type: ignore[index]
            raise RuntimeError(f"the script ended; run `python {command}` alone")
        return json.loads(line)

    def stop(self) -> None:
        self.process.communicate()
