"""Find out where a model is from its name: an embedded backbone, a folder, or the hub.

Nothing here imports torch or reaches the network, so a mistyped name is an error at once.
"""

import difflib
import importlib.util
import re
from pathlib import Path

from probes import embedded
from probes.errors import BackboneNotFound, BadSetting, one_line
from probes.model.loading import Loading

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
"""An id on the hub, with its owner."""
EXAMPLE = "Qwen/Qwen2.5-VL-7B-Instruct"
FORMS = f"an alias ({', '.join(embedded.ALIASES)}), a model folder, or a hub id such as {EXAMPLE}"
"""The names that a backbone can be loaded by."""


def check_model(name: str | Path, loading: Loading | None = None) -> None:
    """Check what can be known of a model before it is loaded.

    Args:
        name: An alias of an embedded backbone, a folder, or a hub id.
        loading: The settings that it is to be loaded with.

    Raises:
        BackboneNotFound: There is no such folder, or the name cannot be that of a model.
        BadSetting: A revision is given for what is not on the hub, or bitsandbytes is missing.
    """
    loading, folder = loading or Loading(), local_folder(name)
    if loading.revision and (folder or str(name) in embedded.ALIASES):
        raise BadSetting(
            f"revision={loading.revision!r} chooses among the commits of a model on the hub, and "
            f"{name!s:.200} is on this machine: leave the revision out"
        )
    if loading.quantize != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise BadSetting(
            f"quantize={loading.quantize!r} needs bitsandbytes, which is not installed: "
            "pip install bitsandbytes"
        )


def local_folder(name: str | Path) -> Path | None:
    """The model folder of this name, or None for an alias or a hub id. Raises BackboneNotFound
    where there is no such folder, it holds no model, or the name can be none of the three."""
    text = str(name)
    if text in embedded.ALIASES:
        return None
    try:
        path = Path(name).expanduser()
        exists, whole = path.is_dir(), (path / "config.json").is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, no such user, …
        raise BackboneNotFound(f"cannot read {text:.100}: {one_line(error)}") from None
    if exists and not whole:
        raise BackboneNotFound(f"{path} is not a model folder: it holds no readable config.json")
    if exists:
        return path
    if isinstance(name, Path) or text.startswith((".", "/", "~")):
        raise BackboneNotFound(f"there is no folder {path}")
    if not HUB_ID.fullmatch(text):
        raise BackboneNotFound(_unknown(text))
    return None


def _unknown(name: str) -> str:
    """The message for a name that can be neither a folder nor an id on the hub."""
    if "/" in name:
        return f"{name!r:.200} is neither a folder nor a hub id; give {FORMS}"
    close = difflib.get_close_matches(name.lower(), embedded.ALIASES, n=1)
    guess = f"Did you mean {close[0]}? " if close else ""
    return (
        f"there is no model {name!r:.200}. {guess}Give {FORMS}: a hub id needs its owner, and a "
        "folder must exist"
    )
