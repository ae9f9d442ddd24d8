"""Bytes of the rows whose graphs run: many large texts must not be held at once."""

from collections.abc import Iterable
from typing import Any, Protocol

from stages.limits.limiter import Limiter
from stages.limits.semaphore import Place

_COPIES = 4  # of a row's values while its graph runs: the row, the prompt, the request, what is read of the answer


class RowMemory(Protocol):
    """Room for rows in bytes, shared by the batches of a process."""

    async def take(self, size: int) -> None:
        """Wait for room. A row that is larger than all of it runs alone."""

    def release(self, size: int) -> None: ...


class RowSlot:
    """The slot of one row among those in flight, and room for the bytes of its values. A row holds it while its graph
    runs, not while it waits for an equal row."""

    __slots__ = ("_limiter", "_memory", "_place", "_size", "held")

    def __init__(self, limiter: Limiter, place: Place, memory: RowMemory | None, values: Iterable[Any]) -> None:
        self._limiter = limiter
        self._place = place
        self._memory = memory
        self._size = 0 if memory is None else bytes_in_flight(values)
        self.held = False

    async def enter(self) -> None:
        """Wait for the slot."""
        if self.held:
            return
        if self._memory is not None:
            await self._memory.take(self._size)
        try:
            await self._limiter.take_row(self._place)
        except BaseException:
            if self._memory is not None:
                self._memory.release(self._size)
            raise
        self.held = True

    def leave(self) -> None:
        """Give it back, if it is held."""
        if not self.held:
            return
        self.held = False
        self._limiter.leave_row()
        if self._memory is not None:
            self._memory.release(self._size)


def bytes_in_flight(values: Iterable[Any]) -> int:
    """Estimate the bytes that a row with these values holds while its graph runs."""
    return _COPIES * _bytes_of(values)


def _bytes_of(values: Iterable[Any]) -> int:
    size = 0
    for value in values:
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, list):
            size += _bytes_of(value)
        elif isinstance(value, dict):
            size += _bytes_of(value.values())
        else:
            size += 8
    return size
