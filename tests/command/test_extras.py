"""Extras of the package, and completion in the shell."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from freeret.extras import EXTRAS, install_hint

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_every_extra_is_in_the_table() -> None:
    """The modules that the table names belong to packages that the extra installs."""
    wanted = importlib.metadata.requires("freeret") or []
    by_extra: dict[str, set[str]] = {}
    for line in wanted:
        if extra := re.search(r"extra == .(\w+)", line):
            by_extra.setdefault(extra[1], set()).add(re.split(r"[^\w-]", line)[0].lower())
    packages = importlib.metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        brought = {name.lower() for module in modules for name in packages.get(module, [module])}
        named = {package for package in by_extra[extra] if package.replace("-", "_") in modules}
        assert named or brought & by_extra[extra], extra
    assert set(EXTRAS) | {"dev"} == set(by_extra)
    assert install_hint("ray.data") == "pip install 'freeret[scale]'"
    assert install_hint("nowhere") == ""


@pytest.mark.parametrize(
    ("module", "said"),
    [("fastapi", "pip install 'freeret[serve]'"), ("lancedb", "no extra of freeret brings it")],
)
def test_a_missing_module_names_its_extra(module: str, said: str) -> None:
    code = f"""if True:
        import sys
        sys.modules[{module!r}] = None
        from freeret.cli import app, main
        @app.command
        def broken():
            "Broken."
            import {module}
        main(["broken"])
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("freeret: ")
    assert f"{module} is not installed" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_knows_commands_and_options() -> None:
    from freeret.cli import app

    script = app.generate_completion(shell="bash")
    for word in ("search", "--queries", "export", "--install-completion"):
        assert word in script
    checked = subprocess.run(["bash", "-n"], input=script, text=True, check=False)
    assert checked.returncode == 0
