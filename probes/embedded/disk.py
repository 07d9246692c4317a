"""A full or unwritable disk, as an error that says what to do."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from probes.errors import FetchError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write that does not fit: disk, quota or file-size limit."""
UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


def require_space(folder: Path, needs_mb: int) -> None:
    """Raise `FetchError` unless the disk of `folder` (which exists) has `needs_mb` MB free."""
    free_mb = shutil.disk_usage(folder).free // 10**6
    if free_mb < needs_mb:
        raise _disk_full(folder, needs_mb, f"{free_mb} MB are free")


@contextmanager
def disk_errors(folder: Path, needs_mb: int) -> Iterator[None]:
    """Turn errors of a full or unwritable disk into `FetchError`; let every other error through."""
    try:
        yield
    # safetensors wraps the system's error, whose number then stands in its message only.
    except (OSError, SafetensorError) as error:
        code = getattr(error, "errno", None)
        for full in DISK_FULL:
            if code == full or f"os error {full}" in str(error):
                raise _disk_full(folder, needs_mb, os.strerror(full).lower()) from error
        if code in UNWRITABLE:
            raise FetchError(
                f"Cannot keep backbones in {folder}: {error}. "
                "Set FREERET_CACHE to a writable folder."
            ) from error
        raise


def _disk_full(folder: Path, needs_mb: int, reason: str) -> FetchError:
    return FetchError(
        f"Not enough disk space in {folder}: {needs_mb} MB are needed, {reason}. "
        "Make room there, or set FREERET_CACHE to a folder on another disk."
    )
