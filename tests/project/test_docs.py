"""The documentation: its examples run and print what is shown, its links lead somewhere."""

import ast
import functools
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freeret.cli import app, main
from probes import Backbone
from tests.documents import PAGES, ROOT, Block, blocks, commands

EXAMPLES = [(page, block) for page in PAGES for block in blocks(page)]
RUN = sorted({page for page, block in EXAMPLES if not block.needs})
SEEN_FIRST = 30
LINES = 130
DECIMAL = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.011
"""Of a score that is printed with two or three digits."""
NOTES = {
    "bread.txt": "Loaves go stale because the starch in them crystallises.",
    "moon.txt": "The moon is lit by the sun and gives no light of its own.",
    "cats.txt": "Cats sleep for about fifteen hours a day.",
}
NOT_RUN = ("make", "pip", "git", "cd", "hf", "python")
"""Programs of the examples that are not run: they fetch, or take long."""


def where(value: Any) -> str:
    return value.name if isinstance(value, Path) else f"line{value.line}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the notes that the examples search; a backbone is loaded once."""
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backbone, "load", functools.partial(load_once, Backbone.load))
    return tmp_path


LOADED: dict[str, Backbone] = {}


def load_once(load: Callable[..., Backbone], *arguments: Any, **settings: Any) -> Backbone:
    key = repr((arguments, settings))
    if key not in LOADED:
        LOADED[key] = load(*arguments, **settings)
    return LOADED[key]


@pytest.mark.parametrize("page", RUN, ids=where)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_examples_of_a_page_run(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order, each with what the ones above it made, and with the output that is shown."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.needs:
            continue
        capsys.readouterr()
        place = f"{page.name}, line {block.line}"
        if block.language == "python":
            exec(compile(block.body, place, "exec"), names)
            missing = not_printed(block.shown.splitlines(), capsys.readouterr().out)
            assert not missing, f"{place}: {missing}"
            continue
        for command in commands(block):
            run(command.line)
            printed = capsys.readouterr()
            missing = not_printed(command.shown, printed.out + printed.err)
            assert not missing, f"{place}: {command.line}: {missing}"


def run(line: str) -> None:
    """A command `freeret` in this process, another one in a shell."""
    program, *arguments = shlex.split(line, comments=True)
    if program in NOT_RUN:
        return
    if program == "freeret":
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert not end.value.code, line
    else:
        subprocess.run(["bash", "-ec", line], check=True)


def not_printed(shown: list[str], printed: str) -> list[str]:
    """The shown lines that were not printed. `…` stands for anything, decimals agree roughly."""
    lines = [plain(line) for line in printed.splitlines()]
    return [line for line in shown if not any(agrees(plain(line), p) for p in lines)]


def agrees(shown: str, printed: str) -> bool:
    words = [re.escape(words).replace("…", ".*") for words in DECIMAL.split(shown)]
    match = re.fullmatch(f"({DECIMAL.pattern})".join(words), printed)
    expected = [float(number) for number in DECIMAL.findall(shown)]
    return match is not None and [float(number) for number in match.groups()] == pytest.approx(
        expected, abs=TOLERANCE
    )


def plain(line: str) -> str:
    """A line without what depends on the width of a terminal."""
    return " ".join(line.split())


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in EXAMPLES if block.language == "console"],
    ids=where,
)
def test_every_command_of_the_documentation_exists(page: Path, block: Block) -> None:
    """Whether or not it can be run here, with all its options."""
    for command in commands(block):
        program, *arguments = shlex.split(command.line, comments=True)
        if program == "freeret":
            app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in EXAMPLES if block.language == "python" and block.needs],
    ids=where,
)
def test_python_that_is_not_run_names_what_exists(page: Path, block: Block) -> None:
    """Found in the source: importing `freeret.mteb` takes ten seconds."""
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("probes", "freeret")
        ):
            found = importlib.util.find_spec(node.module or "")
            assert found
            assert found.origin
            source = Path(found.origin).read_text()
            assert all(re.search(rf"\b{alias.name}\b", source) for alias in node.names)


def test_the_readme_is_one_page_and_searches_at_once() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < LINES
    assert any(line.startswith("$ freeret search") for line in lines[:SEEN_FIRST])


@pytest.mark.parametrize("page", PAGES, ids=where)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    """Where the pages are read in the repository; `make docs` checks the site and its anchors."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Broken links, anchors and docstrings are errors; nothing comes from another host."""
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {page.name: page.read_text() for page in tmp_path.rglob("*.html")}
    assert 'id="freeret-search"' in pages["cli.html"]
    assert 'id="freeret.FreeRet.search"' in pages["freeret.html"]
    assert 'id="probes.Backbone.load"' in pages["probes.html"]
    assert not re.search(r'id="probes\.Backbone\.(lock|traced|_\w+)"', pages["probes.html"])
    loaded = re.compile(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//")
    assert not [name for name, text in pages.items() if loaded.search(text)]
