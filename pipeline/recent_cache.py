"""A bounded cache of values that are dear to make, filled by one thread a key."""

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
        """The value of the key; `read` is called where none is held, and by one thread only."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            else:
                mine = self._held[key] = Future()
        if found is not None:
            return found.result()
        try:
            value = read()
        except BaseException as exc:
            with self._lock:
                self._held.pop(key, None)
            mine.set_exception(exc)
            raise
        mine.set_result(value)
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
