"""A bounded cache of values that are costly to make; each key is filled by one thread."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key, the least recently used dropped once there are more than `most`, or their sizes add up to more
    than `limit`."""

    def __init__(self, limit: int, size: Callable[[T], int], most: int) -> None:
        self._limit, self._size, self._most = limit, size, most
        self._held: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._sizes: dict[Hashable, int] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, read: Callable[[], T]) -> T:
        """Return the value of the key; if it is absent, one thread calls `read`."""
        with self._lock:
            cached = self._held.get(key)
            if cached is not None:
                self._held.move_to_end(key)
            else:
                filling = self._held[key] = Future()
        if cached is not None:
            return cached.result()
        try:
            value = read()
        except BaseException as exc:
            with self._lock:
                self._held.pop(key, None)
            filling.set_exception(exc)
            raise
        filling.set_result(value)
        self._note(key, self._size(value))
        return value

    def _note(self, key: Hashable, size: int) -> None:
        with self._lock:
            if key in self._held:
                self._sizes[key] = size
            while len(self._sizes) > self._most or sum(self._sizes.values()) > self._limit:
                oldest = next(held for held in self._held if held in self._sizes)
                del self._held[oldest], self._sizes[oldest]

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self._sizes.clear()
