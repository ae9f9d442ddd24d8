"""A semaphore whose size may change, first come first served."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import inf


class Semaphore:
    """Holders up to the smallest limit among holders and waiters, and up to `cap`; first come first served."""

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
                await asyncio.sleep(0)  # let others run: a loop must not take all free slots
            except BaseException:
                self.release(limit)
                raise
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn  # `wake` has counted this holder
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
        """The smallest limit among holders and waiters; 0 if there is none."""
        return min(self._limits, default=0)

    @property
    def waiting(self) -> bool:
        return any(not turn.done() for turn in self._queue)

    def wake(self) -> None:
        """Wake waiters that fit now, after a change of the limits."""
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
        self.wake()
