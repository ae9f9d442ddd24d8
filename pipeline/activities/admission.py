"""Turns at what takes memory: partitions that end together need not be merged together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MemoryAdmission:
    """Lets in as much at once as there is room for, first come first served; what needs more than all goes alone."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._free = room
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, size: int) -> AsyncIterator[None]:
        """Room for `size`, once all that asked before had theirs. Raises CancelledError, and then takes none."""
        size = min(size, self._room)
        await self._enter(size)
        try:
            yield
        finally:
            self._leave(size)

    async def _enter(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((size, turn))
                self._admit()  # those behind it may fit
            else:
                self._leave(size)  # it was let in at the very moment
            raise

    def _leave(self, size: int) -> None:
        self._free += size
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            size, turn = self._waiting.popleft()
            self._free -= size
            turn.set_result(None)
