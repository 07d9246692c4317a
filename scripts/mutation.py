"""Mutants of a module: each is one small change inside a function.

A comparison or an operator is replaced, a constant moved by one, two arguments swapped, a condition
negated, a call or a statement dropped. Messages, docstrings, annotations and defaults stay.
"""

import ast
import random
from collections.abc import Iterator
from dataclasses import dataclass

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
"""Statements with one of these names are messages and progress bars: they are left alone."""
CRUDE = {"dim", "axis", "strict", "dtype"}
"""Keywords whose change ends in an exception, or changes nothing."""
ALONG = {
    "argmax", "argmin", "argsort", "cat", "gather", "logsumexp", "max", "mean", "min", "norm",
    "softmax", "stack", "split", "squeeze", "sum", "unsqueeze",
}  # fmt: skip
"""Functions that take an axis as a bare number."""


@dataclass(frozen=True)
class Mutant:
    """A change of a module; `start` and `end` are its offsets in the bytes of the module."""

    module: str
    function: str
    line: int
    before: str
    after: str
    start: int
    end: int

    @property
    def name(self) -> str:
        """The change without its place in the file, as in scripts/equivalent.toml."""
        return f"{self.function}: {self.before} -> {self.after}"

    def source(self, text: bytes) -> bytes:
        return text[: self.start] + self.after.encode() + text[self.end :]


def mutants(module: str, text: bytes, count: int) -> list[Mutant]:
    """`count` mutants of a module, drawn with its path as the seed; all are valid Python."""
    candidates = list(changes(module, text))
    random.Random(module).shuffle(candidates)
    drawn: dict[int, Mutant] = {}  # one change per place
    for mutant in candidates:
        try:
            compile(mutant.source(text), module, "exec")
        except SyntaxError:
            continue
        drawn.setdefault(mutant.start, mutant)
        if len(drawn) == count:
            break
    return sorted(drawn.values(), key=lambda mutant: mutant.start)


def changes(module: str, text: bytes) -> Iterator[Mutant]:
    """All mutants of a module, some of which may not be valid Python."""
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
    """The nodes of a function that compute: no messages, docstrings, annotations or defaults."""
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
    """The node or a part of it, and its replacement."""
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
    """The source of an expression, in brackets unless it is simple."""
    written = ast.unparse(ast.fix_missing_locations(node))
    simple = isinstance(node, ast.Name | ast.Constant | ast.Call | ast.Attribute | ast.Subscript)
    return written if simple else f"({written})"
