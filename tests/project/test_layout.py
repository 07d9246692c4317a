"""The layout that `docs/architecture.md` states: layers, sizes, and where everything is."""

import graphlib
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.layout import PACKAGES, ROOT, Module, import_graph, modules

MODULES = modules()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md"]
MAX_LINES = 400
MAX_MODULES = 12
FOLDERS = (*PACKAGES, "benchmarks", "docs", "figures", "notebooks", "scripts", "tests")
PATH = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?")
FEW_NAMES = 40
"""The fewest definitions that the tables name; fewer mean that the parser misses some."""


def code_spans(text: str) -> list[str]:
    """The text in backticks, outside of fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def attributed(page: Path) -> list[tuple[str, str]]:
    """`attributed_in` the text of a page."""
    return attributed_in(page.read_text())


def attributed_in(text: str) -> list[tuple[str, str]]:
    """Pairs (file, name) of the tables of a text: a name is in the file before it in its row."""
    pairs = []
    for row in (line for line in text.splitlines() if line.startswith("|")):
        file = ""
        for span in code_spans(row):
            if PATH.fullmatch(span):
                file = span if span.endswith(".py") else ""
            elif file and NAME.fullmatch(span):
                pairs.append((file, span))
    return pairs


def test_probes_never_imports_freeret() -> None:
    above = {
        module.name: {name for name in module.imports if name.split(".")[0] == "freeret"}
        for module in MODULES.values()
        if module.name.split(".")[0] == "probes"
    }
    assert above
    assert not {name: imports for name, imports in above.items() if imports}


def test_one_module_imports_nnsight() -> None:
    importers = [
        module.name
        for module in MODULES.values()
        if any(name.split(".")[0] == "nnsight" for name in module.imports)
    ]
    assert importers == ["probes.model.trace"]


def test_there_is_no_import_cycle() -> None:
    """Imports inside functions count; those under TYPE_CHECKING don't."""
    try:
        graphlib.TopologicalSorter(import_graph(MODULES)).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_no_module_and_no_test_file_is_longer_than_400_lines() -> None:
    tests = [Module(str(path), path) for path in (ROOT / "tests").rglob("*.py")]
    assert tests
    files = [*MODULES.values(), *tests]
    assert not {file.name: file.lines for file in files if file.lines > MAX_LINES}


def test_no_folder_of_the_packages_holds_more_than_12_modules() -> None:
    count = Counter(
        str(module.path.parent.relative_to(ROOT))
        for module in MODULES.values()
        if module.path.name != "__init__.py"
    )
    assert not {folder: number for folder, number in count.items() if number > MAX_MODULES}


@pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)
def test_every_module_is_in_a_package_and_has_a_docstring(module: Module) -> None:
    package = module.path.parent / "__init__.py"
    assert package.is_file(), f"{module.path.parent} is no package"
    docstring = module.tree.body and getattr(module.tree.body[0], "value", None)
    assert isinstance(getattr(docstring, "value", None), str)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_exists(page: Path) -> None:
    paths = [span for span in code_spans(page.read_text()) if PATH.fullmatch(span)]
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert paths
    assert not missing


def test_the_table_of_folders_is_complete() -> None:
    folders = {f"{module.path.parent.relative_to(ROOT)}/" for module in MODULES.values()}
    missing = folders - set(code_spans(PAGES[-1].read_text()))
    assert not missing


def test_every_name_in_the_tables_is_defined_in_its_file() -> None:
    pairs = [pair for page in PAGES for pair in attributed(page)]
    definitions = {file: Module(file, ROOT / file).definitions for file, _ in pairs}
    missing = [f"{name} in {file}" for file, name in pairs if name not in definitions[file]]
    assert len(pairs) > FEW_NAMES
    assert not missing


def test_the_tracing_layer_has_its_short_name() -> None:
    from probes.trace import States, record

    assert (record.__module__, States.__module__) == ("probes.model.trace", "probes.model.trace")
