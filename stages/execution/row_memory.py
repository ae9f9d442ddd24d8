"""Bytes of the rows whose graphs run: many large texts must not be held at once."""

from collections.abc import Iterable
from typing import Any, Protocol

_COPIES = 4  # of a row's values while its graph runs: the row, the prompt, the request, what is read of the answer


class RowMemory(Protocol):
    """Room for rows in bytes, shared by the batches of a process."""

    async def take(self, size: int) -> None:
        """Wait for room. A row that is larger than all of it runs alone."""

    def release(self, size: int) -> None: ...


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
