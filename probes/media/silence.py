"""Silence warnings, in any number of threads at once."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_entered, _filters = 0, ExitStack()


@contextmanager
def silence() -> Iterator[None]:
    """Ignore all warnings while any thread is in such a `with` statement.

    The filters of warnings belong to the process: with `warnings.catch_warnings` in several threads
    one would restore the filters of another, and they would stay for good.
    """
    global _entered
    with _lock:
        if not _entered:
            _filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                _filters.close()
