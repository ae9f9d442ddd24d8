"""How much may be in flight, per (provider, model, credential), shared by all batches of a process.

Two bounds: calls at the provider, held exactly while a request is out; and rows whose graph is running, a little more,
so that the work around a call (rendering, parsing, the journal) overlaps with other rows' calls.

Runs with different limits share one place: while both have something in flight, the smaller limit holds for both.
"""

import asyncio
import copy
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_ROWS_PER_CALL = 1.25
# A wait longer than this is the workflow's. Who calls after it has waited there, by a clock that is not ours.
_MAX_BLOCK_S = 60.0


class Blocked(Exception):
    """The provider asked for a longer wait than the caller is ready for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"blocked for {seconds:.0f} s")
        self.seconds = seconds


class _Gate:
    """As many holders as the smallest limit among those who hold or wait, first come first served."""

    def __init__(self) -> None:
        self.held = 0
        self._limits: Counter[int] = Counter()
        self._queue: deque[asyncio.Future[None]] = deque()

    async def acquire(self, limit: int) -> None:
        self._limits[limit] += 1
        if not self._queue and self.held < min(self._limits):
            self.held += 1
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

    def _leave(self, limit: int) -> None:
        self._limits[limit] -= 1
        if not self._limits[limit]:
            del self._limits[limit]
        while self._queue and self.held < min(self._limits, default=0):
            turn = self._queue.popleft()
            if not turn.done():
                self.held += 1
                turn.set_result(None)


@dataclass
class _Place:
    """What all limiters of one key share. Nobody calls before `blocked_until` (monotonic seconds); `asked_until` is
    what the provider asked for, where that is longer than we hold anybody."""

    calls: _Gate = field(default_factory=_Gate)
    rows: _Gate = field(default_factory=_Gate)
    blocked_until: float = 0.0
    asked_until: float = 0.0


@dataclass(eq=False)
class Limiter:
    """`rows_in_flight` calls at once. Nobody calls before a Retry-After is over."""

    rows_in_flight: int
    _place: _Place = field(default_factory=_Place)
    _taken: deque[int] = field(default_factory=deque)  # the limits under which rows were let in: a change may come

    @property
    def _rows(self) -> int:
        return max(self.rows_in_flight + 1, int(self.rows_in_flight * _ROWS_PER_CALL))

    async def take_row(self) -> None:
        """Take a place for one row's graph, to be given back with `leave_row`."""
        rows = self._rows
        await self._place.rows.acquire(rows)
        self._taken.append(rows)

    def leave_row(self) -> None:
        self._place.rows.release(self._taken.popleft())

    @asynccontextmanager
    async def call(self, *, patience_s: float = float("inf")) -> AsyncIterator[None]:
        """Hold a place for one request, once the provider lets us. Raises Blocked where that is not within
        `patience_s`."""
        gate, place = self._place.calls, self._place
        while True:
            limit = self.rows_in_flight
            await gate.acquire(limit)
            now = time.monotonic()
            if now >= place.blocked_until:
                break
            gate.release(limit)
            if place.asked_until - now > patience_s:
                raise Blocked(place.asked_until - now)
            await asyncio.sleep(min(place.blocked_until - now, 1.0))  # a longer wait may be asked for meanwhile
        try:
            yield
        finally:
            gate.release(limit)

    def block(self, seconds: float) -> None:
        """Nobody calls for so long."""
        now, place = time.monotonic(), self._place
        place.asked_until = max(place.asked_until, now + seconds)
        place.blocked_until = max(place.blocked_until, now + min(seconds, _MAX_BLOCK_S))


class Limiters:
    """The limiters of a process."""

    def __init__(self) -> None:
        self._places: dict[str, _Place] = {}
        self._given: list[Limiter] = []

    def apart(self) -> "Limiters":
        """The same places, for one job: `resize` then reaches what was given to that job, and nothing else."""
        twin = copy.copy(self)
        twin._given = []
        return twin

    def resize(self, rows_in_flight: int) -> None:
        """From now on; who is let in already stays."""
        for limiter in self._given:
            limiter.rows_in_flight = rows_in_flight

    def of(self, key: str, rows_in_flight: int) -> Limiter:
        """The limiter of a key. All of a key share one place, whatever their limits."""
        limiter = Limiter(rows_in_flight, self._places.setdefault(key, _Place()))
        self._given.append(limiter)
        return limiter
