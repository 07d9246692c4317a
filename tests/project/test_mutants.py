"""Mutants: each changes one expression or statement of a function and remains valid Python."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from mutants import PER_MODULE, TESTS, file_of_tests  # noqa: E402
from mutation import changes, mutants  # noqa: E402

SOURCE = b'''"""A docstring with 1 > 0."""
LIMIT = 10


def area(sides: list[float], count: int = 3) -> float:
    """Not 1 either."""
    total = sum(sides) / 2
    if total <= 0 and not sides:
        raise ValueError(f"no {1 + 1}")
    log.info("done", total - 1)
    pairs = zip(sides, sorted(sides), strict=True)
    return max(total, -1, key=lambda x: x * 1.5) if len(sides) > count else swap(total, count)


class Shape:
    sides = 4

    def grow(self) -> None:
        self.sides += 1
'''


def test_each_kind_of_change_is_made() -> None:
    names = {mutant.name for mutant in changes("toy.py", SOURCE)}
    for change in (
        "sum(sides) / 2 -> (sum(sides) * 2)",
        "sum(sides) -> mean(sides)",
        "2 -> 3",
        "total <= 0 -> (total < 0)",
        "0 -> 1",
        "not sides -> sides",
        "sorted(sides) -> sides",
        "1.5 -> 3.0",
        "len(sides) > count -> (len(sides) >= count)",
        "swap(total, count) -> swap(count, total)",
    ):
        assert f"area: {change}" in names
    assert "Shape.grow: self.sides += 1 -> pass" in names
    assert not [name for name in names if "docstring" in name or "log" in name or "f'" in name]
    assert not [name for name in names if name.endswith(("3 -> 4", "10 -> 11", "True -> False"))]


@pytest.mark.parametrize("module", TESTS)
def test_every_mutant_is_a_different_program(module: str) -> None:
    text = (ROOT / module).read_bytes()
    planted = mutants(module, text, PER_MODULE)
    assert planted == mutants(module, text, PER_MODULE)
    assert len({mutant.start for mutant in planted}) == len(planted) == 6
    whole = ast.dump(ast.parse(text))
    for mutant in planted:
        assert ast.dump(ast.parse(mutant.source(text))) != whole, mutant.name
        assert text[mutant.start : mutant.end].decode().split() == mutant.before.split()
    assert all((ROOT / file_of_tests(name)).is_file() for name in TESTS[module])
