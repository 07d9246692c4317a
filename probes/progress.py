"""How far long work has come: batches say how many tokens went through the model, whoever listens.

A bar over several measurements listens here, so that none of them needs to know of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[int], object] | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Callable[[int], object]) -> Iterator[None]:
    """Call `listener` with the tokens of every batch that is computed meanwhile."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def computed_tokens(count: int) -> None:
    """Tell the listener, if there is one, that a batch of `count` tokens was computed."""
    if listener := _listener.get():
        listener(count)
