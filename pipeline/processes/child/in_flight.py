"""The activities and rows in flight of a child, in memory that outlives it.

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

_HEAD = struct.Struct("<dd")  # the last turns, by the monotonic clock, of the loop and of the thread that watches it
_LENGTH = struct.Struct("<H")
_HEAD_BYTES = 64
_ACTIVITIES, _ACTIVITY_BYTES = 128, 2_048
_ROWS, _ROW_BYTES = 4_096, 512


@dataclass
class _Slots:
    """Slots of one size, in a part of the memory."""

    memory: mmap.mmap
    start: int
    count: int
    size: int

    def __post_init__(self) -> None:
        self._free = list(range(self.count - 1, -1, -1))

    def put(self, value: Mapping[str, Any]) -> int | None:
        """Write a value. Returns the slot's number, None if there is no room."""
        data = orjson.dumps(value)
        if not self._free or len(data) > self.size - 3:
            return None
        number = self._free.pop()
        offset = self.start + number * self.size
        self.memory[offset + 1 : offset + 3] = _LENGTH.pack(len(data))
        self.memory[offset + 3 : offset + 3 + len(data)] = data
        self.memory[offset] = 1
        return number

    def clear(self, number: int | None) -> None:
        if number is not None:
            self.memory[self.start + number * self.size] = 0
            self._free.append(number)

    def read(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(self.count):
            offset = self.start + number * self.size
            if self.memory[offset]:
                (length,) = _LENGTH.unpack(self.memory[offset + 1 : offset + 3])
                with contextlib.suppress(orjson.JSONDecodeError):
                    yield number, orjson.loads(self.memory[offset + 3 : offset + 3 + length])


class InFlight:
    """The table of one child. `descriptor` is passed to the child; both sides map it."""

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

    def note_loop_turn(self) -> None:
        """Note that the loop has turned just now."""
        self._memory[0:8] = struct.pack("<d", time.monotonic())

    def note_watch_turn(self) -> None:
        """Note that the thread that watches the loop has turned just now."""
        self._memory[8:16] = struct.pack("<d", time.monotonic())

    def times(self) -> tuple[float, float]:
        """Return the times of the last turns of the loop and of the watching thread; 0.0 before the first."""
        found: tuple[float, float] = _HEAD.unpack(self._memory[0 : _HEAD.size])
        return found

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)
