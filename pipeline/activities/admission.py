"""Limit the memory of concurrent work, in rows or bytes: what ends together need not be held together."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class MemoryAdmission:
    """Admits work up to a total size, first come, first served; work above the total runs alone."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def resize(self, room: int) -> None:
        """Change the total from now on; what was admitted stays."""
        self._room = room
        self._admit()

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Reserve `size` within the block, after all earlier requests. Raises CancelledError, without a reservation."""
        await self.take(size)
        try:
            yield
        finally:
            self.release(size)

    async def take(self, size: int) -> None:
        """Reserve `size` until it is released. Raises CancelledError, without a reservation."""
        if not self._waiting and self._fits(size):
            self._held += size
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
                self.release(size)  # it was admitted at the same moment
            raise

    def release(self, size: int) -> None:
        self._held -= size
        self._admit()

    def _fits(self, size: int) -> bool:
        return self._held == 0 or self._held + size <= self._room

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            size, turn = self._waiting.popleft()
            self._held += size
            turn.set_result(None)
