"""Plant small mistakes in the core modules, one at a time: do the tests notice?

    python scripts/mutants.py                              # all modules, about an hour
    python scripts/mutants.py probes/stats.py              # one of them
    make mutants

A mutant is one small change inside a function: a comparison or an operator turned, a constant moved
by one, two arguments swapped, a condition negated, a call or a statement dropped. A fixed number is
drawn from each module, always the same ones for the same source. Each is written into a temporary
copy of the repository and the tests of its module run there until one fails. Outcomes are kept in
out/mutants.jsonl, so that a run that was stopped goes on where it was; a module or a test that has
changed since is run again. What no test can notice is listed in scripts/equivalent.toml, each with
the reason.

Exits with 1 when fewer than 95% are noticed, or when a survivor is not in that list.
"""

import ast
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cyclopts

ROOT = Path(__file__).parent.parent
TESTS: dict[str, tuple[str, ...]] = {
    "probes/model/backbone.py": ("lens", "bad_calls"),
    "probes/model/batching.py": ("batching", "prefix", "states"),
    "probes/measure/paraphrases.py": ("diagnostic", "recipe"),
    "probes/model/encoding/encoder.py": ("encoding", "perception"),
    "probes/measure/framing.py": ("framing",),
    "probes/geometry.py": ("geometry",),
    "probes/measure/injection.py": ("injection",),
    "probes/measure/lexicalization.py": ("lexicalization",),
    "probes/model/prefix.py": ("prefix", "batching"),
    "probes/model/pretrained.py": ("loading",),
    "probes/prompts.py": ("encoding", "embedder"),
    "probes/measure/reference.py": ("reference", "geometry"),
    "probes/measure/fusion.py": ("reranking",),
    "probes/model/sites.py": ("sites", "trace"),
    "probes/measure/run.py": ("report", "probe_command"),
    "probes/stats.py": ("stats",),
    "probes/measure/synonyms.py": ("synonyms",),
    "probes/model/encoding/templates.py": ("templates",),
    "probes/model/trace.py": ("trace",),
    "freeret/search/geometry.py": ("store", "exact", "retriever"),
    "freeret/embedder.py": ("embedder",),
    "freeret/store/filters.py": ("exact", "cli_store"),
    "freeret/hits.py": ("reprs", "pages"),
    "freeret/serve/service.py": ("serve", "serve_faults"),
    "freeret/serve/worker.py": ("serve_faults", "serve"),
    "freeret/standalone.py": ("sentence_transformer", "mteb"),
    "freeret/evaluate/datasets.py": ("metrics", "loaders", "eval", "eval_faults"),
    "freeret/evaluate/loaders/mmeb/media.py": ("mmeb",),
    "freeret/evaluate/loaders/mmeb/images.py": ("mmeb",),
    "freeret/evaluate/margins.py": ("eval_faults",),
    "freeret/evaluate/metrics.py": ("metrics", "eval_faults"),
    "freeret/evaluate/systems/realign.py": ("realign",),
    "freeret/evaluate/skipping.py": ("eval_faults",),
    "freeret/evaluate/stage2.py": ("eval", "eval_faults"),
    "freeret/search/exact.py": ("exact",),
    "freeret/store/indexing.py": ("retriever", "ids"),
    "freeret/mteb.py": ("mteb",),
    "freeret/recipe.py": ("recipe",),
    "freeret/reranker.py": ("reranker",),
    "freeret/retriever.py": ("retriever",),
    "freeret/store/sharding.py": ("sharding",),
}
"""The tests of each module, the quickest to notice first."""
PER_MODULE = 6
PATIENCE = 60
"""Seconds that a mutant may take beyond three times what the unchanged module took."""

TURNED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
EXCHANGED = {
    "min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "argmin": "argmax",
    "mean": "sum", "sum": "mean", "ceil": "floor", "floor": "ceil", "topk": "sort",
    "startswith": "endswith", "endswith": "startswith",
}  # fmt: skip
DROPPED = {"sorted", "unit", "normalize", "abs", "sqrt", "log", "exp", "clamp_min", "clone"}
LIBRARIES = {"torch", "np", "math"}
SILENT = {"log", "logging", "warnings", "tqdm", "bar", "progress"}
"""Messages and progress bars are left alone: what has one of these names in it."""
CRUDE = {"dim", "axis", "strict", "dtype"}
"""Keywords whose change only ends in an exception, or in nothing."""
ALONG = {
    "argmax", "argmin", "argsort", "cat", "gather", "logsumexp", "max", "mean", "min", "norm",
    "softmax", "stack", "split", "squeeze", "sum", "unsqueeze",
}  # fmt: skip
"""Functions whose bare number is an axis."""


def test_file(name: str) -> str:
    """Where the tests called `name` are, as a path in the repository."""
    (path,) = (ROOT / "tests").rglob(f"test_{name}.py")
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Mutant:
    """One changed module; `start` and `end` are offsets of the change in its bytes."""

    module: str
    function: str
    line: int
    before: str
    after: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """The change without its place in the file, as the list of equivalents writes it."""
        return f"{self.function}: {self.before} -> {self.after}"

    def source(self, text: bytes) -> bytes:
        return text[: self.start] + self.after.encode() + text[self.end :]


def mutants(module: str, text: bytes, count: int) -> list[Mutant]:
    """`count` changes of a module, drawn by its path; those that leave no valid Python are none."""
    found = list(_changes(module, text))
    random.Random(module).shuffle(found)
    chosen: dict[int, Mutant] = {}
    for mutant in found:  # one change at a place
        try:
            compile(mutant.source(text), module, "exec")
        except SyntaxError:
            continue
        chosen.setdefault(mutant.start, mutant)
        if len(chosen) == count:
            break
    return sorted(chosen.values(), key=lambda mutant: mutant.start)


def _changes(module: str, text: bytes) -> Iterator[Mutant]:
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + column

    for name, function in _functions(ast.parse(text)):
        for changed, after in (change for part in _parts(function) for change in _changed(part)):
            start = offset(changed.lineno, changed.col_offset)
            end = offset(changed.end_lineno or 0, changed.end_col_offset or 0)
            before = " ".join(text[start:end].decode().split())
            yield Mutant(module, name, changed.lineno, before, after, start, end)


def _functions(node: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """The functions of a module and the methods of its classes, by qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{within}.{child.name}".lstrip(".")
            if isinstance(child, ast.FunctionDef):
                yield name, child
            else:
                yield from _functions(child, name)


def _parts(node: ast.AST) -> Iterator[ast.AST]:
    """What of a function computes: without messages, docstrings, annotations and defaults."""
    match node:
        case ast.FunctionDef():
            inner = node.body
        case ast.AnnAssign():
            inner = [node.value] if node.value is not None else []
        case ast.Raise() | ast.Assert() | ast.JoinedStr() | ast.Expr(ast.Constant()):
            return
        case ast.Expr() | ast.IfExp() if _names(node) & SILENT:
            return
        case ast.keyword(name) if name in CRUDE:
            return
        case ast.Call() if _called(node) in ALONG:
            yield node
            inner = [part for part in ast.iter_child_nodes(node) if not _number(part)]
        case _:
            yield node
            inner = list(ast.iter_child_nodes(node))
    for child in inner:
        yield from _parts(child)


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _number(node: ast.AST) -> bool:
    node = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(node, ast.Constant)


def _changed(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """The node or a part of it, and what stands there in a mutant."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in TURNED:
            yield node, _write(ast.Compare(left, [TURNED[type(operator)]()], [right]))
        case ast.BinOp(left, operator, right) if type(operator) in TURNED and not _text(node):
            yield node, _write(ast.BinOp(left, TURNED[type(operator)](), right))
        case ast.BoolOp(operator, values):
            yield node, _write(ast.BoolOp(TURNED[type(operator)](), values))
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield node, _write(operand)
        case ast.Constant(bool(value)):
            yield node, str(not value)
        case ast.Constant(int(value)):
            yield node, str(value + 1)
        case ast.Constant(float(value)):
            yield node, str(value * 2 or 1.0)
        case ast.IfExp(test, body, orelse):
            yield node, _write(ast.IfExp(test, orelse, body))
        case ast.If(test) | ast.While(test):
            yield test, _write(ast.UnaryOp(ast.Not(), test))
        case ast.AugAssign() | ast.Continue() | ast.Expr(ast.Call()):
            yield node, "pass"
        case ast.Call():
            yield from _changed_call(node)


def _changed_call(node: ast.Call) -> Iterator[tuple[ast.expr, str]]:
    function, arguments, name = node.func, node.args, _called(node)
    if name in EXCHANGED:
        other = ast.Name(EXCHANGED[name])
        if isinstance(function, ast.Attribute):
            other = ast.Attribute(function.value, EXCHANGED[name])
        yield node, _write(ast.Call(other, arguments, node.keywords))
    if name in DROPPED:
        if isinstance(function, ast.Attribute) and not _names(function) & LIBRARIES:
            yield node, _write(function.value)
        else:
            yield node, _write(arguments[0])
    if len(arguments) >= 2:
        first, second, *rest = arguments
        written = ast.unparse(first), ast.unparse(second)
        alike = type(first) is type(second) and written[0] != written[1]
        if alike and not _names(first) & {"backbone", "self"} and not _number(first):
            yield node, _write(ast.Call(function, [second, first, *rest], node.keywords))


def _text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str)
        for part in (node.left, node.right)
    )


def _write(node: ast.expr) -> str:
    """In brackets where it takes the place of an expression that may have had none."""
    written = ast.unparse(ast.fix_missing_locations(node))
    simple = isinstance(node, ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
    return written if simple else f"({written})"


# ------------------------------------------------------------------------------------ running


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. `key` changes with its module and the tests of it."""

    key: str
    module: str
    line: int
    name: str
    outcome: str
    """noticed, survived or endless (which counts as noticed)."""
    seconds: float


class Bench:
    """A copy of the repository in which one module at a time is changed and tested.

    Each test run is a fork of this process, in which the libraries are imported already.
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
        sys.dont_write_bytecode = True  # a mutant is as old and as long as the module before it
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
        """How long a mutant of this module may run. Exits where the unchanged module fails."""
        if module not in self.limits:
            outcome, seconds = self._test(module, None)
            if outcome != "survived":
                sys.exit(f"the tests of {module} fail or do not end as it is: {TESTS[module]}")
            self.limits[module] = PATIENCE + 3 * seconds
        return self.limits[module]

    def run(self, mutant: Mutant) -> tuple[str, float]:
        """Outcome and seconds of one mutant."""
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
    """In the fork: the tests of a module until the first failure; exits with pytest's status."""
    import pytest

    os.setsid()  # so that it can be ended with everything that it started
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    files = list(map(test_file, TESTS[module]))
    imported = "ignore::pytest.PytestAssertRewriteWarning"  # plugins, before the fork
    status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", imported, *files])
    os._exit(int(status))


def key(mutant: Mutant) -> str:
    """Changes with the mutant, its module, and the tests that should notice."""
    files = [mutant.module, *map(test_file, TESTS[mutant.module])]
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
    kept = out.resolve() / "mutants.jsonl"
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {outcome.key: outcome for outcome in (Outcome(**json.loads(line)) for line in lines)}
    planned = []
    for module in modules or TESTS:
        planned += mutants(module, (ROOT / module).read_bytes(), count)
    with tempfile.TemporaryDirectory() as folder, kept.open("a") as file:
        bench = None
        for number, mutant in enumerate(planned, start=1):
            if key(mutant) in known:
                continue
            bench = bench or Bench(Path(folder))
            outcome = Outcome(
                key(mutant), mutant.module, mutant.line, mutant.name, *bench.run(mutant)
            )
            known[outcome.key] = outcome
            print(json.dumps(asdict(outcome), ensure_ascii=False), file=file, flush=True)
            print(f"{number}/{len(planned)} {outcome.outcome}: {mutant.module}:{mutant.line} "
                  f"{mutant.name}", flush=True)  # fmt: skip
    return report([known[key(mutant)] for mutant in planned])


def report(outcomes: Sequence[Outcome]) -> int:
    """Print the share that was noticed, by module, and the survivors; the exit status."""
    reasons = tomllib.loads((ROOT / "scripts" / "equivalent.toml").read_text())
    survivors = [outcome for outcome in outcomes if outcome.outcome == "survived"]
    new = [s for s in survivors if s.name not in reasons.get(s.module, {})]
    print(f"\n{'module':32} noticed of all")
    for module in dict.fromkeys(outcome.module for outcome in outcomes):
        own = [outcome.outcome != "survived" for outcome in outcomes if outcome.module == module]
        print(f"{module:32} {sum(own):7} of {len(own)}")
    share = 1 - len(survivors) / len(outcomes)
    print(f"{share:.1%} of {len(outcomes)} noticed; {len(new)} survivors that are not listed")
    for survivor in new:
        print(f"  {survivor.module}:{survivor.line} {survivor.name}")
    return int(share < 0.95 or bool(new))


if __name__ == "__main__":
    sys.exit(cyclopts.run(main))
