"""A bound on how many hold something at once, first come first served."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import inf


class Semaphore:
    """As many holders as the smallest limit among those who hold or wait, and as `cap`; first come first served."""

    def __init__(self, cap: Callable[[], float] = lambda: inf) -> None:
        self.held = 0
        self._cap = cap
        self._limits: Counter[int] = Counter()
        self._queue: deque[asyncio.Future[None]] = deque()

    async def acquire(self, limit: int) -> None:
        self._limits[limit] += 1
        if not self._queue and self._room():
            self.held += 1
            try:
                await asyncio.sleep(0)  # others' turn too: one who takes in a loop must not take all that is free
            except BaseException:
                self.release(limit)
                raise
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn  # whoever wakes us has counted us among the holders
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.held -= 1
            self._leave(limit)
            raise

    def release(self, limit: int) -> None:
        self.held -= 1
        self._leave(limit)

    @property
    def limit(self) -> int:
        """The smallest limit among those who hold or wait; 0 where nobody does."""
        return min(self._limits, default=0)

    @property
    def waiting(self) -> bool:
        return any(not turn.done() for turn in self._queue)

    def look(self) -> None:
        """Let in whoever has room now: what is allowed has changed."""
        while self._queue and self._room():
            turn = self._queue.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)

    def _room(self) -> bool:
        return self.held < min(self._limits, default=0) and self.held < self._cap()

    def _leave(self, limit: int) -> None:
        self._limits[limit] -= 1
        if not self._limits[limit]:
            del self._limits[limit]
        self.look()
