"""The command `freeret`: its help, and messages of one line for mistakes."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from cyclopts import App
from rich.console import Console

from freeret.cli import app
from freeret.cli.output import this_command
from freeret.recipe import Recipe
from freeret.store.table import Store
from probes import Loading
from tests.commands import own_lines, run, spawn
from tests.models import TEXT, tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


# -------------------------------------------------------------------------------------- mistakes


def test_mistakes_print_one_line_and_exit_with_1(
    store: Path, model: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cut.json").write_text('{"prompt": "e5')
    Recipe("e5v", "attn[40]").save(tmp_path / "deep.json")
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "file").write_text("")
    to_store = ("--store", tmp_path / "s", "--model", model)
    mistakes: list[tuple[tuple, str]] = [
        (("search", tmp_path / "none", "q"), "there is no store at"),
        (("info", tmp_path / "none"), "there is no store at"),
        (("answer", tmp_path / "none", "q"), "there is no store at"),
        (("search", store, " "), "nothing to search with"),
        (("search", store, "q", "--model", "nosuch/model"), "cannot load 'nosuch/model'"),
        (("search", store, "q", "--model", tmp_path), "is not a model folder"),
        (("probe", "nosuch"), "there is no model 'nosuch'"),
        (("probe", model, "--out", tmp_path / "file" / "out"), "Not a directory"),
        (("check", tmp_path / "none"), "there is no folder"),
        (("index", tmp_path / "none", *to_store, "--recipe", recipe), "nothing at"),
        (("index", "file:///none", *to_store, "--recipe", recipe), "nothing at file:///none"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "none"), "cannot read"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "cut.json"), "not JSON"),
        (("index", tmp_path / "a.txt", *to_store, "--recipe", tmp_path / "deep.json"), "4 layers"),
        (("index", tmp_path / "a.txt", "--store", tmp_path / "file", "--model", model,
          "--recipe", recipe), "file"),
    ]  # fmt: skip
    for arguments, said in mistakes:
        assert run(*arguments) == 1, arguments
        captured = capsys.readouterr()
        [line] = own_lines(captured.err)
        assert said in line, arguments
        assert "Traceback" not in captured.err


def test_another_models_store_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TEXT["qwen2"]().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    assert run("search", store, "q", "--model", tmp_path) == 1
    line = own_lines(capsys.readouterr().err)[0]
    made_with = Store.open(store).identity["backbone"]["model"]
    assert f"{store} was made with {made_with}, you asked for {tmp_path}." in line


def test_a_wrong_command_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("nonsense") != 0
    assert run("search") != 0
    assert run("index", "x", "--top-n", "3") != 0


def commands() -> dict[str, App]:
    """Every command of the app by its name."""
    return {name: app[name] for name in app if not name.startswith("-")}


def settings() -> dict[str, str]:
    """Field of `Loading` -> its docstring, for the fields that are options."""
    written = re.findall(
        r'^    (\w+): .*\n    """([^"]+)"""', inspect.getsource(Loading), re.MULTILINE
    )
    return {name: said for name, said in written if name not in ("images", "videos")}


def parameters(source: Any) -> dict[str, Any]:
    """Hints of a command's parameters, where a group of options stands for its fields."""
    found = {}
    for name, hint in get_type_hints(source, include_extras=True).items():
        spread = any(note.name == ("*",) for note in getattr(hint, "__metadata__", ()))
        grouped = spread and hint.__origin__ is not Loading
        found |= parameters(hint.__origin__) if grouped else {name: hint}
    found.pop("return", None)
    return found


@pytest.mark.parametrize("command", list(commands()))
def test_help_describes_every_option(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The help shows the description of every parameter in full."""
    for one in (app, commands()[command]):
        monkeypatch.setattr(one, "_fallback_console", Console(width=400))
    assert run("--help") == 0
    listed = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith(f"│ {command} ")
    )
    function = commands()[command].default_command
    written = inspect.getdoc(function) or ""
    assert written.splitlines()[0].replace("`", "") in listed
    assert run(command, "--help") == 0
    out = capsys.readouterr().out
    assert f"Usage: freeret {command}" in out
    shown = " ".join(out.split())
    described = dict(re.findall(r"^    (\w+): (.+(?:\n        .+)*)", written, re.MULTILINE))
    hints = parameters(function)
    names = dict.fromkeys(hints)
    if "loading" in names:
        del names["loading"]
        described |= settings()
        names |= dict.fromkeys(settings())
    for name in names:
        notes = getattr(hints.get(name), "__metadata__", ())
        said = described.get(name) or next((note.help for note in notes if note.help), "")
        sentence = " ".join(said.replace("`", "").split())
        assert len(sentence.split()) >= 4, f"{name} is hardly described"
        assert sentence[0].isupper()
        assert sentence[-1] == ".", name
        assert sentence in shown, name
    assert set(described) <= names.keys()
    loads = {
        "probe", "check", "card", "index", "fit", "search", "answer", "estimate", "serve",
        "eval", "ablate", "scenes", "demo", "lens",
    }  # fmt: skip
    assert ("--token-budget" in out) == (command in loads)
    assert "--images" not in out


# -------------------------------------------------------------------------- before slow imports


NEVER = ("torch", "transformers", "lancedb")


def imported(*arguments: Any) -> tuple[int, str, set[str]]:
    """Run a command in its own process: exit code, standard error, and the slow packages that it
    imported."""
    code = """if True:
        import sys
        from freeret.cli import app, main
        try:
            main(sys.argv[2:])
        finally:
            print(*(set(sys.argv[1].split()) & set(sys.modules)), file=sys.stderr)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, " ".join(NEVER), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    *said, packages = done.stderr.splitlines()
    return done.returncode, "\n".join(said), set(packages.split())


@pytest.mark.parametrize("arguments", ["--version", "--help", "index --help", "eval --help"])
def test_help_is_fast(arguments: str) -> None:
    assert imported(*arguments.split()) == (0, "", set())


def test_arguments_are_checked_before_slow_imports(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "file").write_text("")
    (tmp_path / "cut.json").write_text('{"prompt": "e5')
    text, new = tmp_path / "a.txt", ("--store", tmp_path / "s")
    mistakes: list[tuple[tuple, str]] = [
        (("index", tmp_path / "none", *new), "there is nothing at"),
        (("index", text, tmp_path / "none", *new), "there is nothing at"),
        (("index", *new), "name at least one file"),
        (("index", "--store", tmp_path), "`freeret fit STORE`"),
        (("index", text, *new, "--num-actors", 2), "--num-actors goes with --engine ray"),
        (("index", text, *new, "--address", "auto"), "--address goes with --engine ray"),
        (("index", text, *new, "--engine", "ray", "--num-actors", 0), "Must be >= 1"),
        (("index", text, *new, "--engine", "spark"), "spark"),
        (("index", text, *new, "--shards", "3/2"), "write k/n"),
        (("index", text, *new, "--dtype", "int8"), "--dtype. Choose from"),
        (("index", text, *new, "--quantize", "3bit"), "--quantize. Choose from"),
        (("search", tmp_path, "q", "--frames", 0), "frames must be a whole number"),
        (("check", "none", "--device", "cpu", "--device-map", "auto"), "give one"),
        (("check", tmp_path / "none"), "there is no folder"),
        (("check", "smolsight", "--quantize", "4bit"), "needs bitsandbytes"),
        (("probe", tmp_path / "none"), "there is no folder"),
        (("demo", "--model", tmp_path / "none"), "there is no folder"),
        (("probe", "smolsight", "--only", "curve"), "did you mean 'curves'?"),
        (("plot", tmp_path / "none.json"), "cannot read"),
        (("plot", tmp_path), "report.json"),
        (("plot", "smolsight", "--width", "wide"), "--width takes a number of inches"),
        (("plot", "smolsight", "smolsight", "--label", "a"), "give 2 different labels"),
        (("index", text, "--store", tmp_path / "file"), "Not a directory"),
        (("index", text, "--store", tmp_path / "file" / "s"), "Not a directory"),
        (("index", text, "--store", "/proc/s"), "cannot write to /proc/s"),
        (("index", text, *new, "--recipe", tmp_path / "none.json"), "cannot read"),
        (("index", text, *new, "--recipe", tmp_path / "cut.json"), "is not JSON"),
        (("search", tmp_path / "none", "q"), "there is no store at"),
        (("search", tmp_path, "q", "--model", "smollm2-135m"), "there is no store at"),
        (("search", tmp_path / "none", "q", "--top-n", 0), "Must be >= 1"),
        (("answer", tmp_path / "none", "q"), "there is no store at"),
        (("info", tmp_path / "none"), "there is no store at"),
        (("delete", tmp_path / "none", "a"), "there is no store at"),
        (("fit", tmp_path / "none"), "there is no store at"),
        (("export", tmp_path / "none", "--to", "npy", "--out", tmp_path / "x"), "no store at"),
        (("estimate", tmp_path / "none"), "there is nothing at"),
        (("estimate", text, "--rerank", 10), "give both --rerank (candidates per query) and"),
        (("search", tmp_path, "q", "--rerank", "5,10"), "--rerank takes one depth"),
        (("probe", "smollm2-135m", "--out", tmp_path / "file" / "out"), "Not a directory"),
        (("demo", "--out", tmp_path / "file"), "Not a directory"),
        (("eval", "nosuch:suite"), "'nosuch:suite' is not a suite"),
        (("eval", f"beir:{tmp_path}"), "cannot read"),
        (("eval", "scenes:1", "--system", "recipe", "--system", "bert"), "no system 'bert'"),
        (("eval", "scenes:1", "--rerank", "ten"), "--rerank takes depths"),
        (("eval", "scenes:1", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("eval", "scenes:1", "--out", tmp_path / "file"), "Not a directory"),
        (("eval", "scenes:1", "--num-actors", 2), "--num-actors goes with --engine ray"),
        (("ablate", f"sts:{tmp_path / 'none'}"), "cannot read"),
        (("ablate", "scenes:1", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("compare", tmp_path / "none.json", tmp_path / "none.json"), "cannot read"),
        (("scenes", "smolsight", "--recipe", tmp_path / "none.json"), "cannot read"),
        (("scenes", "smolsight", "--seeds", 0), "Must be >= 1"),
    ]
    for arguments, said in mistakes:
        code, message, packages = imported(*arguments)
        assert (code, packages) == (1, set()), (arguments, message)
        assert message.startswith("freeret: "), arguments
        assert said in message, arguments
    assert not (tmp_path / "s").exists()


# ------------------------------------------------------------------------------- the program name


def test_hints_name_the_program_as_it_can_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "a venv" / "bin" / "freeret"
    script.parent.mkdir(parents=True)
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.chdir(tmp_path)
    assert this_command() == "'a venv/bin/freeret'"
    monkeypatch.chdir("/usr")
    assert this_command() == f"'{script}'"
    monkeypatch.setenv("PATH", str(script.parent))
    assert this_command() == "freeret"
    monkeypatch.setattr(sys, "argv", ["/somewhere/freeret/__main__.py"])
    assert this_command() == f"{sys.executable} -m freeret"


# --------------------------------------------------------------------------------- as a process


def test_a_mistake_is_no_traceback() -> None:
    done = spawn("check", "nosuch/model")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("freeret: cannot load 'nosuch/model'")
    assert len(done.stderr.splitlines()) == 1
