"""A bounded LRU cache of media that were processed already."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Processed:
    """A medium after the processor: its tensors, or the tower features computed from them."""

    text: str
    """The placeholder as the processor expands it."""
    positions: dict[str, Tensor]
    """Outputs from which the model counts token positions, such as the patch grid."""
    tensors: dict[str, Tensor]
    """Inputs of the towers, such as pixel values; empty once `features` are computed."""
    features: dict[str, Any] = field(default_factory=dict)
    """Outputs of the towers, by the name under which the model takes them."""
    pixels: int = 0
    """Width × height of the picture, or of a frame, that was given to the processor."""

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        outputs = [list(output.values()) for output in self.features.values()]
        kept = [*self.positions.values(), *self.tensors.values(), *outputs]
        return sum(tensor.nbytes for tensor in _tensors(kept))


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for value in nested:
            yield from _tensors(value)


class Cache:
    """Thread-safe LRU cache bounded by total bytes; an entry above the bound is not kept."""

    def __init__(self, limit: int):
        self.limit, self.size = limit, 0
        self._entries: OrderedDict[str, Processed] = OrderedDict()
        self._in_the_making: dict[str, Future[Processed]] = {}
        self._lock = threading.RLock()

    def get(self, key: str) -> Processed | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def get_or_make(self, key: str, make: Callable[[], Processed]) -> Processed:
        """The entry, made where there is none. Threads that ask for the same key at once make it
        once: the others wait, and get the same value or the same error."""
        with self._lock:
            found = self.get(key)
            if found is not None:
                return found
            future = self._in_the_making.get(key)
            waits = future is not None
            if future is None:
                future = self._in_the_making[key] = Future()
        if waits:
            return future.result()
        try:
            value = make()
            self.put(key, value)
            future.set_result(value)
            return value
        except BaseException as error:
            future.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._in_the_making[key]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self.size = 0

    def put(self, key: str, value: Processed) -> None:
        with self._lock:
            if key in self._entries:
                self.size -= self._entries.pop(key).size
            if value.size > self.limit:
                return
            self._entries[key] = value
            self.size += value.size
            while self.size > self.limit:
                self.size -= self._entries.popitem(last=False)[1].size
