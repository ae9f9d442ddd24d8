"""Output of a child, its C libraries and its own children to file descriptors 1 and 2: lines with a name before."""

import asyncio
import os
from collections.abc import Callable

_LONGEST = 8_192  # bytes of a line; a longer one is written in pieces
_PIECE = 65_536


class OutputLines:
    """Reader of one pipe as lines, until all writers have ended or it is closed."""

    def __init__(self, pipe: int, write_line: Callable[[str], None]) -> None:
        self._pipe = pipe
        self._write_line = write_line
        self._rest = b""
        self._open = True
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self._read)

    def close(self) -> None:
        """Write the rest, and read no more: a grandchild may hold the pipe open without end."""
        while self._open and self._read():
            pass
        self._end()

    def _read(self) -> bool:
        try:
            piece = os.read(self._pipe, _PIECE)
        except BlockingIOError:
            return False
        except OSError:
            piece = b""
        if not piece:
            self._end()
            return False
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._emit(line)
        while len(self._rest) > _LONGEST:
            self._emit(self._rest[:_LONGEST])
            self._rest = self._rest[_LONGEST:]
        return True

    def _emit(self, line: bytes) -> None:
        self._write_line(line.decode("utf-8", "replace").rstrip("\r"))

    def _end(self) -> None:
        if not self._open:
            return
        self._open = False
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        if self._rest:
            self._emit(self._rest)
            self._rest = b""
