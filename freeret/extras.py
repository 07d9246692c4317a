"""Optional packages: the extra of this project that installs a missing module."""

import importlib.util

from probes.errors import BadSetting

EXTRAS = {
    "eval": ("datasets", "ir_datasets", "mteb", "sentence_transformers"),
    "scale": ("ray",),
    "formats": ("pillow_heif", "pypdfium2"),
    "serve": ("fastapi", "starlette", "uvicorn"),
    "notebooks": ("IPython", "ipykernel", "ipywidgets", "jupyterlab", "nbclient"),
    "docs": ("material", "mkdocs", "mkdocstrings"),
}
"""Modules by the extra that installs them, as in pyproject.toml."""


def install_hint(module: str) -> str:
    """How to install a module: `pip install 'freeret[serve]'`, or "" when no extra installs it."""
    top = module.partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if top in modules), None)
    return f"pip install 'freeret[{extra}]'" if extra else ""


def require(module: str, purpose: str) -> None:
    """Raise BadSetting, naming the extra, unless a module can be imported.

    Args:
        purpose: The option or command that needs it, as the user typed it.
    """
    if importlib.util.find_spec(module) is None:
        hint = install_hint(module) or f"pip install {module}"
        raise BadSetting(f"{purpose} needs {module}, which is not installed: {hint}")


def missing(error: ImportError) -> str:
    """A message for an ImportError that says how to install the module."""
    name = error.name or ""
    hint = install_hint(name)
    if hint:
        return f"{name} is not installed: {hint}"
    if isinstance(error, ModuleNotFoundError) and name:
        return (
            f"the module {name} is not installed, and no extra of freeret brings it; install the "
            "package that provides it"
        )
    return f"a module cannot be imported: {error}"
