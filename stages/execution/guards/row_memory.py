"""Bytes of the rows whose graphs run: many large texts must not be held at once."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from stages.limits.limiter import Limiter

_COPIES = 4  # of a row's values while its graph runs: the row, the prompt, the request, what is read of the answer


class RowMemory(Protocol):
    """Room for rows in bytes, shared by the batches of a process."""

    async def take(self, size: int) -> None:
        """Wait for room. A row that is larger than all of it runs alone."""

    def release(self, size: int) -> None: ...


async def enter_row(limiter: Limiter, memory: RowMemory | None, values: Iterable[Any]) -> Callable[[], None]:
    """Wait for room for a row with these values: its bytes, and a slot among the rows in flight. Returns the function
    that gives both back."""
    if memory is None:
        await limiter.take_row()
        return limiter.leave_row
    size = bytes_in_flight(values)
    await memory.take(size)
    try:
        await limiter.take_row()
    except BaseException:
        memory.release(size)
        raise

    def leave() -> None:
        limiter.leave_row()
        memory.release(size)

    return leave


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
