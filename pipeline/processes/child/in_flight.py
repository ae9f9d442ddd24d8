"""What a child is at work on, in memory that outlives it: which activities, and which rows of them.

A file without a name, mapped by the child and by its supervisor. Writing to it takes a microsecond and no system call,
so it is true at any death. A slot is free, or holds JSON; its first byte is written last, and cleared first.
"""

import contextlib
import mmap
import os
import struct
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

_HEAD = struct.Struct("<dd")  # when the loop last turned, by the monotonic clock; and the child's thread beside it
_LENGTH = struct.Struct("<H")
_HEAD_BYTES = 64
_ACTIVITIES, _ACTIVITY_BYTES = 128, 2_048
_ROWS, _ROW_BYTES = 4_096, 512


@dataclass
class _Slots:
    """Slots of one size, somewhere in the memory."""

    memory: mmap.mmap
    start: int
    count: int
    size: int

    def __post_init__(self) -> None:
        self._free = list(range(self.count - 1, -1, -1))

    def put(self, value: Mapping[str, Any]) -> int | None:
        """The slot's number, None where there is no room."""
        data = orjson.dumps(value)
        if not self._free or len(data) > self.size - 3:
            return None
        number = self._free.pop()
        at = self.start + number * self.size
        self.memory[at + 1 : at + 3] = _LENGTH.pack(len(data))
        self.memory[at + 3 : at + 3 + len(data)] = data
        self.memory[at] = 1
        return number

    def clear(self, number: int | None) -> None:
        if number is not None:
            self.memory[self.start + number * self.size] = 0
            self._free.append(number)

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(self.count):
            at = self.start + number * self.size
            if self.memory[at]:
                (length,) = _LENGTH.unpack(self.memory[at + 1 : at + 3])
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield number, orjson.loads(self.memory[at + 3 : at + 3 + length])


class InFlight:
    """The table of one child. `descriptor` is handed to the child; both sides map it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        size = _HEAD_BYTES + _ACTIVITIES * _ACTIVITY_BYTES + _ROWS * _ROW_BYTES
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self.activities = _Slots(self._memory, _HEAD_BYTES, _ACTIVITIES, _ACTIVITY_BYTES)
        self.rows = _Slots(self._memory, _HEAD_BYTES + _ACTIVITIES * _ACTIVITY_BYTES, _ROWS, _ROW_BYTES)

    @classmethod
    def new(cls) -> Self:
        with tempfile.TemporaryFile() as file:
            return cls(os.dup(file.fileno()))

    def turned(self) -> None:
        """The loop has turned just now."""
        self._memory[0:8] = struct.pack("<d", time.monotonic())

    def watched(self) -> None:
        """The thread that watches the loop has looked just now."""
        self._memory[8:16] = struct.pack("<d", time.monotonic())

    def times(self) -> tuple[float, float]:
        """When the loop last turned, and when the thread beside it last looked; 0.0 before either has."""
        found: tuple[float, float] = _HEAD.unpack(self._memory[0 : _HEAD.size])
        return found

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)
