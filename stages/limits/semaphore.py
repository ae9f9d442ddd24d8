"""A semaphore whose size may change, and whose users take turns."""

import asyncio
import heapq
from collections import Counter
from collections.abc import Callable
from math import inf
from typing import NamedTuple


class Place(NamedTuple):
    """The place of waiters: users take turns; of one user the lowest `order` goes first, then who came first."""

    user: str = ""
    order: tuple[float, int] = (0.0, 0)


ANYWHERE = Place()
_Waiter = tuple[tuple[float, int], int, asyncio.Future[None]]  # its order, its arrival, its turn


class Semaphore:
    """Holders up to the smallest limit among holders and waiters, and up to `cap`. Waiting and leaving take time that
    grows with the logarithm of those who wait."""

    def __init__(self, cap: Callable[[], float] = lambda: inf) -> None:
        self.held = 0
        self._cap = cap
        self._limits: Counter[int] = Counter()
        self._queues: dict[str, list[_Waiter]] = {}  # heaps; the first user is next
        self._arrivals = 0

    async def acquire(self, limit: int, place: Place = ANYWHERE) -> None:
        self._limits[limit] += 1
        if not self._queues and self._room():
            self.held += 1
            try:
                await asyncio.sleep(0)  # let others run: a loop must not take all free slots
            except BaseException:
                self.release(limit)
                raise
            return
        turn = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._queues.setdefault(place.user, []), (place.order, self._arrivals, turn))
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
        return any(not turn.done() for queue in self._queues.values() for _, _, turn in queue)

    def wake(self) -> None:
        """Wake waiters that fit now, after a change of the limits."""
        while self._queues and self._room():
            user, queue = next(iter(self._queues.items()))
            _, _, turn = heapq.heappop(queue)
            if not turn.done():  # it is, if it was cancelled
                self.held += 1
                turn.set_result(None)
                del self._queues[user]
                self._queues[user] = queue  # behind the others
            if not queue:
                del self._queues[user]

    def _room(self) -> bool:
        return self.held < min(self._limits, default=0) and self.held < self._cap()

    def _leave(self, limit: int) -> None:
        self._limits[limit] -= 1
        if not self._limits[limit]:
            del self._limits[limit]
        self.wake()
