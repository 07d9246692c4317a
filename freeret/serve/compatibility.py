"""Let nnsight and anyio work in one process.

anyio inspects the classes of its typed attributes when it defines them, at first use, and rejects
a method that it does not know, such as nnsight's `save`.
"""

import importlib

from probes.model.trace import without_save


def load_anyio() -> None:
    """Import the modules of anyio that inspect classes."""
    with without_save():
        for name in ("anyio.abc._sockets", "anyio.streams.tls", "anyio.streams.file"):
            importlib.import_module(name)
