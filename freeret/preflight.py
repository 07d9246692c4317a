"""Cheap checks of command-line arguments, before torch is imported or a model is loaded.

Nothing here imports torch, transformers or LanceDB. Each check raises the error that the command
itself would raise later.
"""

import ipaddress
import tempfile
from collections.abc import Sequence
from pathlib import Path

from freeret.extras import require
from probes.errors import BadSetting, StoreError
from probes.files import read_json

SYSTEMS = (
    "recipe", "hybrid", "paper", "e5v", "e5v-whiten", "prompteol", "metaeol", "hierarchical",
    "realign", "echo", "mean", "last", "bm25",
)  # fmt: skip


def check_writable(location: str | Path) -> None:
    """Raise StoreError unless files can be written at a local location, which need not exist yet.
    A URL is not checked."""
    if "://" in str(location):
        return
    place = Path(location).absolute()
    existing = next(path for path in (place, *place.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()  # permissions alone do not tell
    except OSError as error:
        raise StoreError(f"cannot write to {location}: {error.strerror}: {existing}") from None


def check_store(location: str | Path) -> None:
    """Raise StoreError when a local folder holds no table. A URL is not checked."""
    if "://" not in str(location) and not any(Path(location).glob("*.lance")):
        raise StoreError(f"there is no store at {location}; make one with `freeret index`")


def check_recipe(name: str) -> None:
    """Raise BadFile unless it is `auto`, `paper` or a file of JSON."""
    if name not in ("auto", "paper"):
        read_json(Path(name))


def check_engine(engine: str, num_actors: int | None, address: str | None) -> None:
    """Raise BadSetting for options of Ray with another engine, and when Ray is not installed."""
    if engine == "ray":
        require("ray", "--engine ray")
    elif num_actors is not None or address is not None:
        option = "--address" if num_actors is None else "--num-actors"
        raise BadSetting(f"{option} goes with --engine ray")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_server(host: str, token: str | None) -> None:
    """Raise BadSetting when the server is not installed, for a token that no client can send, and
    for a host that others can reach without a token."""
    for module in ("fastapi", "uvicorn"):
        require(module, "freeret serve")
    if token is not None and (not token.isascii() or not token.strip() or token != token.strip()):
        raise BadSetting("a token is ASCII text without white space around it")
    if token is None and not is_loopback(host):
        raise BadSetting(
            f"others can reach {host}: set a token in the environment variable FREERET_TOKEN, or "
            "listen on 127.0.0.1"
        )


def check_systems(names: Sequence[str]) -> None:
    """Raise BadSetting for the name of a system that does not exist."""
    for name in names:
        kind, _, model = name.partition(":")
        if name not in SYSTEMS and not (kind == "st" and model):
            raise BadSetting(
                f"there is no system {name!r}; there are {', '.join(SYSTEMS)}, st:MODEL"
            )
        if kind == "st":
            require("sentence_transformers", name)
