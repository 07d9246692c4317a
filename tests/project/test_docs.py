"""The documentation: examples run and print what the page shows, links and anchors exist."""

import ast
import functools
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from freeret.cli import app, main
from probes import Backbone
from tests.documents import PAGES, ROOT, Block, blocks, commands

EXAMPLES = [(page, block) for page in PAGES for block in blocks(page)]
RUN = sorted({page for page, block in EXAMPLES if not block.needs})
FIRST_LINES = 30
"""Lines of the README that a reader sees without scrolling."""
MAX_LINES = 130
DECIMAL = re.compile(r"-?\d+\.\d+")
TOLERANCE = 0.011
"""Absolute tolerance of decimals, which are printed with two or three digits."""
NOTES = {
    "bread.txt": "Loaves go stale because the starch in them crystallises.",
    "moon.txt": "The moon is lit by the sun and gives no light of its own.",
    "cats.txt": "Cats sleep for about fifteen hours a day.",
}
NOT_RUN = ("make", "pip", "git", "cd", "hf", "python")
"""Programs in examples that are not run, because they fetch something or take long."""


def label(value: Any) -> str:
    return value.name if isinstance(value, Path) else f"line{value.line}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with the notes that the examples search; each backbone is loaded once, and
    the figures that the examples open are closed."""
    (tmp_path / "notes").mkdir()
    for name, text in NOTES.items():
        (tmp_path / "notes" / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Backbone, "load", functools.partial(load_once, Backbone.load))
    yield tmp_path
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


LOADED: dict[str, Backbone] = {}


def load_once(load: Callable[..., Backbone], *arguments: Any, **settings: Any) -> Backbone:
    key = repr((arguments, settings))
    if key not in LOADED:
        LOADED[key] = load(*arguments, **settings)
    return LOADED[key]


@pytest.mark.parametrize("page", RUN, ids=label)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_examples_of_a_page_run(
    page: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Blocks run in order in one namespace and one folder, and print the output that is shown."""
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
    """Run a `freeret` command in this process, and any other in a shell."""
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
    """The shown lines that were not printed. `…` matches anything; decimals match roughly."""
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
    """A line with single spaces, so that the width of the terminal does not matter."""
    return " ".join(line.split())


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in EXAMPLES if block.language == "console"],
    ids=label,
)
def test_every_command_of_the_documentation_exists(page: Path, block: Block) -> None:
    """With all its options, also where it cannot be run here."""
    for command in commands(block):
        program, *arguments = shlex.split(command.line, comments=True)
        if program == "freeret":
            app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("page", "block"),
    [(page, block) for page, block in EXAMPLES if block.language == "python" and block.needs],
    ids=label,
)
def test_python_that_is_not_run_names_what_exists(page: Path, block: Block) -> None:
    """Names are looked up in the source, because importing `freeret.mteb` takes ten seconds."""
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            ("probes", "freeret")
        ):
            spec = importlib.util.find_spec(node.module or "")
            assert spec
            assert spec.origin
            source = Path(spec.origin).read_text()
            assert all(re.search(rf"\b{alias.name}\b", source) for alias in node.names)


def test_the_readme_is_one_page_and_shows_a_search_at_its_top() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) < MAX_LINES
    assert any(line.startswith("$ freeret search") for line in lines[:FIRST_LINES])


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=label)
def test_links_lead_to_files_and_headings_of_the_repository(page: Path) -> None:
    """As the pages are read in the repository; the build of the site checks links within it."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)", text):
        file, _, anchor = link.partition("#")
        if "://" not in link:
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The anchors that the headings of a page get, on the site and in the repository."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Broken links, anchors and docstrings are errors; nothing is loaded from another host."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", tmp_path]
    build = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    pages = {page.name: page.read_text() for page in tmp_path.rglob("*.html")}
    assert 'id="freeret-search"' in pages["cli.html"]
    assert 'id="freeret.FreeRet.search"' in pages["freeret.html"]
    assert 'id="probes.Backbone.load"' in pages["probes.html"]
    assert 'id="probes.plots.draw_alpha"' in pages["probes.html"]
    assert not re.search(r'id="probes\.Backbone\.(lock|_\w+)"', pages["probes.html"])
    external = re.compile(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"']?(?:https?:)?//")
    assert not [name for name, text in pages.items() if external.search(text)]
