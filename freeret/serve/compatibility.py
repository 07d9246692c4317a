"""Let nnsight and anyio work in one process.

nnsight mounts a method `save` on every object. anyio inspects the classes of its typed attributes
when it defines them, at first use, and rejects a method that it does not know.
"""

import importlib
import sys


def load_anyio() -> None:
    """Import anyio's classes while nnsight's method is unmounted."""
    nnsight = sys.modules.get("nnsight")
    mounted = nnsight is not None and hasattr(object, "save")
    if mounted:
        from nnsight._c import unmount

        unmount("save")
    try:
        for name in ("anyio.abc._sockets", "anyio.streams.tls", "anyio.streams.file"):
            importlib.import_module(name)
    finally:
        if nnsight is not None and mounted:
            from nnsight._c import mount

            mount(nnsight.save, "save")
