"""nnsight and anyio in one process.

nnsight puts a method `save` on every object. When anyio defines its sets of attributes, at its
first use, it inspects their classes and refuses the method that it does not know.
"""

import importlib
import sys


def load_anyio() -> None:
    """Let anyio define its classes while nnsight's method is not there."""
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
