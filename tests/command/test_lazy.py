"""The packages' public names are there, and are imported only when they are asked for."""

import subprocess
import sys

import pytest

import freeret
import probes


@pytest.mark.parametrize("package", [probes, freeret])
def test_every_public_name_is_there(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert len(names) >= 8
    assert set(names) <= set(dir(package))
    for name in names:
        found = getattr(package, name)
        assert getattr(found, "__name__", name) == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_packages_is_cheap() -> None:
    code = "import sys, probes, freeret; from probes import Item; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
