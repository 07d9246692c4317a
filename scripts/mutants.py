"""Mutation testing of the core modules: plant small mistakes, and count those that tests notice.

    python scripts/mutants.py                              # all modules, about an hour
    python scripts/mutants.py probes/stats.py              # a single module
    make mutants

A fixed number of mutants (`mutation.py`) is drawn per module, always the same ones for the same
source. Each is written into a temporary copy of the repository, where the tests of its module run
until the first failure. Outcomes are kept in out/mutants.jsonl, so an interrupted run resumes; a
mutant is run again when its module or the tests of it change. Mutants that no test can notice are
listed in scripts/equivalent.toml, each with the reason.

Exits with 1 when fewer than 95% are noticed, or when a survivor is not in that list.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cyclopts

from mutation import Mutant, mutants

ROOT = Path(__file__).parent.parent
TESTS: dict[str, tuple[str, ...]] = {
    "probes/model/backbone.py": ("lens", "bad_calls"),
    "probes/model/batches/packing.py": ("prefix", "batching"),
    "probes/model/batches/run.py": ("batching", "prefix", "states"),
    "probes/model/batches/cost.py": ("batching",),
    "probes/measure/diagnostic/extractions.py": ("diagnostic", "recipe"),
    "probes/measure/diagnostic/hybrid.py": ("hybrid_gain", "recipe"),
    "probes/measure/diagnostic/scores.py": ("diagnostic", "recipe"),
    "probes/measure/diagnostic/sets.py": ("diagnostic", "recipe"),
    "probes/model/encoding/encoder.py": ("encoding", "truncation", "perception"),
    "probes/measure/framing.py": ("framing",),
    "probes/geometry/corpus.py": ("geometry",),
    "probes/geometry/estimates.py": ("estimates", "geometry"),
    "probes/geometry/mapping.py": ("geometry",),
    "probes/measure/injection.py": ("injection",),
    "probes/measure/lexicalization.py": ("lexicalization",),
    "probes/model/locate.py": ("loading",),
    "probes/model/encoding/plain.py": ("encoding",),
    "probes/model/batches/prefix.py": ("prefix", "batching"),
    "probes/model/pretrained.py": ("loading",),
    "probes/prompts.py": ("encoding", "embedder"),
    "probes/measure/reference.py": ("reference", "geometry"),
    "probes/measure/fusion.py": ("reranking",),
    "probes/measure/reranking.py": ("reranking",),
    "probes/model/sites.py": ("sites", "trace"),
    "probes/measure/run.py": ("report", "probe_command"),
    "probes/stats.py": ("stats",),
    "probes/measure/synonyms.py": ("synonyms",),
    "probes/model/encoding/templates.py": ("templates",),
    "probes/model/trace.py": ("trace",),
    "freeret/search/geometry.py": ("store_geometry", "store", "exact"),
    "freeret/embedder.py": ("embedder",),
    "freeret/store/filters.py": ("exact", "cli_store"),
    "freeret/hits.py": ("reprs", "pages"),
    "freeret/serve/service.py": ("serve", "serve_faults"),
    "freeret/serve/worker.py": ("serve_faults", "serve"),
    "freeret/standalone.py": ("sentence_transformer", "mteb"),
    "freeret/evaluate/datasets.py": ("metrics", "loaders", "systems"),
    "freeret/evaluate/loaders/mmeb/media.py": ("mmeb",),
    "freeret/evaluate/loaders/mmeb/images.py": ("mmeb",),
    "freeret/evaluate/journal.py": ("resuming", "unfinished"),
    "freeret/evaluate/metrics.py": ("metrics", "skipping"),
    "freeret/evaluate/systems/realign.py": ("realign",),
    "freeret/evaluate/skipping.py": ("skipping", "unfinished"),
    "freeret/evaluate/stage2.py": ("systems", "runs", "skipping"),
    "freeret/search/exact.py": ("exact",),
    "freeret/search/hybrid.py": ("hybrid",),
    "freeret/search/lexical.py": ("hybrid",),
    "freeret/store/indexing.py": ("index", "ids"),
    "freeret/mteb.py": ("mteb",),
    "freeret/recipe.py": ("recipe", "recipe_files"),
    "freeret/reranker.py": ("reranker",),
    "freeret/retriever.py": ("search", "stages", "index", "saving"),
    "freeret/sources/sharding.py": ("sharding",),
}
"""The tests of each module, the quickest to notice first."""
PER_MODULE = 6
PATIENCE = 60
"""Seconds that a mutant may take beyond three times what the unchanged module took."""


def file_of_tests(name: str) -> str:
    """The path in the repository of the test file called `name`."""
    (path,) = (ROOT / "tests").rglob(f"test_{name}.py")
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Outcome:
    """The outcome of one mutant; `key` changes with its module and the tests of it."""

    key: str
    module: str
    line: int
    name: str
    outcome: str
    """noticed, survived or endless (which counts as noticed)."""
    seconds: float


class Bench:
    """A copy of the repository in which one module at a time is mutated and tested.

    Each test run is a fork of this process, which has imported the libraries already.
    """

    def __init__(self, folder: Path):
        self.folder = folder / "copy"
        shutil.copytree(
            ROOT,
            self.folder,
            ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "out", ".*_cache"),
        )
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ["PYTHONPATH"] = str(self.folder)  # for the tests that start processes
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        sys.dont_write_bytecode = True  # a mutant may have the age and length of its module
        os.chdir(self.folder)
        sys.path.insert(0, str(self.folder))
        import pytest  # noqa: F401
        import scipy.stats  # noqa: F401
        import torch

        from tests import models  # the tests' tiny models are built once

        torch.set_num_threads(1)
        for build in (*models.TEXT.values(), *models.MULTIMODAL.values()):
            build()
        self.limits: dict[str, float] = {}

    def time(self, module: str) -> float:
        """Time limit in seconds for a mutant; exits if the tests fail on the unchanged module."""
        if module not in self.limits:
            outcome, seconds = self._test(module, None)
            if outcome != "survived":
                sys.exit(f"the tests of the unchanged {module} fail or do not end: {TESTS[module]}")
            self.limits[module] = PATIENCE + 3 * seconds
        return self.limits[module]

    def run(self, mutant: Mutant) -> tuple[str, float]:
        """Outcome of one mutant, and the seconds that it took."""
        limit = self.time(mutant.module)
        path = self.folder / mutant.module
        text = path.read_bytes()
        path.write_bytes(mutant.source(text))
        try:
            return self._test(mutant.module, limit)
        finally:
            path.write_bytes(text)

    def _test(self, module: str, limit: float | None) -> tuple[str, float]:
        start = time.monotonic()
        process = multiprocessing.get_context("fork").Process(target=_pytest, args=(module,))
        process.start()
        process.join(limit)
        ended = process.exitcode is not None
        if not ended:
            os.killpg(process.pid or 0, signal.SIGKILL)
            process.join()
        seconds = time.monotonic() - start
        outcome = "endless" if not ended else "noticed" if process.exitcode else "survived"
        return outcome, seconds


def _pytest(module: str) -> None:
    """Run the tests of a module until the first failure; exits with pytest's status."""
    import pytest

    os.setsid()  # its own process group, to be killed as a whole
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    files = list(map(file_of_tests, TESTS[module]))
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # plugins, before the fork
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", imported, *files])
    os._exit(int(status))


def key(mutant: Mutant) -> str:
    """A hash of the mutant, its module, and the tests that should notice it."""
    files = [mutant.module, *map(file_of_tests, TESTS[mutant.module])]
    digest = hashlib.sha256(f"{mutant.start} {mutant.name}".encode())
    for file in files:
        digest.update((ROOT / file).read_bytes())
    return digest.hexdigest()[:16]


def main(*modules: str, count: int = PER_MODULE, out: Path = ROOT / "out") -> int:
    """Plant mistakes and report which were noticed.

    Parameters
    ----------
    modules
        Paths of the modules to change, by default all of those that have tests named here.
    count
        Mutants for each module.
    out
        The folder in which outcomes are kept.
    """
    log = out.resolve() / "mutants.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    lines = log.read_text().splitlines() if log.exists() else []
    outcomes = {outcome.key: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}
    planned = []
    for module in modules or TESTS:
        planned += mutants(module, (ROOT / module).read_bytes(), count)
    with tempfile.TemporaryDirectory() as folder, log.open("a") as file:
        bench = None
        for number, mutant in enumerate(planned, start=1):
            if key(mutant) in outcomes:
                continue
            bench = bench or Bench(Path(folder))
            outcome = Outcome(
                key(mutant), mutant.module, mutant.line, mutant.name, *bench.run(mutant)
            )
            outcomes[outcome.key] = outcome
            print(json.dumps(asdict(outcome), ensure_ascii=False), file=file, flush=True)
            print(f"{number}/{len(planned)} {outcome.outcome}: {mutant.module}:{mutant.line} "
                  f"{mutant.name}", flush=True)  # fmt: skip
    return report([outcomes[key(mutant)] for mutant in planned])


def report(outcomes: Sequence[Outcome]) -> int:
    """Print the noticed share per module and the survivors; returns the exit status."""
    reasons = tomllib.loads((ROOT / "scripts" / "equivalent.toml").read_text())
    survivors = [outcome for outcome in outcomes if outcome.outcome == "survived"]
    new = [s for s in survivors if s.name not in reasons.get(s.module, {})]
    print(f"\n{'module':32} noticed of all")
    for module in dict.fromkeys(outcome.module for outcome in outcomes):
        noticed = [o.outcome != "survived" for o in outcomes if o.module == module]
        print(f"{module:32} {sum(noticed):7} of {len(noticed)}")
    share = 1 - len(survivors) / len(outcomes)
    print(f"{share:.1%} of {len(outcomes)} noticed; {len(new)} survivors that are not listed")
    for survivor in new:
        print(f"  {survivor.module}:{survivor.line} {survivor.name}")
    return int(share < 0.95 or bool(new))


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
