"""The layout of the packages, read from their source: modules, imports and definitions."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("probes", "freeret")


@dataclass(frozen=True)
class Module:
    """One source file of the packages.

    Attributes:
        name: Its dotted name; that of the package for an `__init__.py`.
        path: The file.
    """

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())

    @cached_property
    def lines(self) -> int:
        return len(self.path.read_text().splitlines())

    @cached_property
    def imports(self) -> set[str]:
        """`module` or `module.name` of every import, in functions too, that runs."""
        return set(_imported(node for node in _running(self.tree)))

    @cached_property
    def reexports(self) -> dict[str, str]:
        """Name -> `module.name`, for what a package offers and imports at its first use.

        Such a name is imported under TYPE_CHECKING, where type checkers see it.
        """
        nodes = (node for block in self.tree.body if _is_typing(block) for node in ast.walk(block))
        return {imported.rpartition(".")[2]: imported for imported in _imported(nodes)}

    @cached_property
    def definitions(self) -> set[str]:
        """Functions, classes and variables of the module, and `Class.member` of its classes."""
        names: set[str] = set()
        for node in self.tree.body:
            names |= _bound(node)
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{name}" for line in node.body for name in _bound(line)}
        return names


def modules() -> dict[str, Module]:
    """Every module of the packages by its dotted name."""
    listed = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        listed[name] = Module(name, path)
    return listed


def import_graph(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Module -> the modules of the packages that it imports."""
    return {
        module.name: {_owner(imported, modules) for imported in module.imports} - {"", module.name}
        for module in modules.values()
    }


def _owner(imported: str, modules: dict[str, Module]) -> str:
    """The module that an import loads, or "" for one outside the packages."""
    if imported in modules:
        return imported
    parent, _, name = imported.rpartition(".")
    if parent not in modules:
        return ""
    lazily = modules[parent].reexports.get(name)
    return _owner(lazily, modules) if lazily else parent


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if not _is_typing(child):
            yield child
            yield from _running(child)


def _is_typing(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import of {node.module}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _bound(node: ast.stmt) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
    return {target.id for target in targets if isinstance(target, ast.Name)}
