"""Progress of long work: batches report the tokens that they computed to a listener.

A progress bar over several measurements listens here, so that they need not know of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[int], object] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[int], object]) -> Iterator[None]:
    """Within the context, call `listener` with the number of tokens of every batch."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def computed_tokens(count: int) -> None:
    """Report a batch of `count` tokens to the listener, if there is one."""
    if listener := _listener.get():
        listener(count)
