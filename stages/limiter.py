"""How much may be in flight, per (provider, model, credential), shared by all batches of a process.

Two bounds: calls at the provider, held exactly while a request is out; and rows whose graph is running, a little more,
so that the work around a call (rendering, parsing, the journal) overlaps with other rows' calls.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

_ROWS_PER_CALL = 1.25


@dataclass
class Limiter:
    """`rows_in_flight` calls at once. Nobody calls before `blocked_until` (monotonic seconds), set by a Retry-After."""

    rows_in_flight: int
    blocked_until: float = 0.0
    _calls: asyncio.Semaphore = field(init=False)
    _rows: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self._calls = asyncio.Semaphore(self.rows_in_flight)
        self._rows = asyncio.Semaphore(max(self.rows_in_flight + 1, int(self.rows_in_flight * _ROWS_PER_CALL)))

    @asynccontextmanager
    async def row(self) -> AsyncIterator[None]:
        """Hold a place for one row's graph."""
        async with self._rows:
            yield

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Hold a place for one request, once the provider lets us."""
        while True:
            await self._calls.acquire()
            wait = self.blocked_until - time.monotonic()
            if wait <= 0:
                break
            self._calls.release()
            await asyncio.sleep(wait)
        try:
            yield
        finally:
            self._calls.release()

    def block(self, seconds: float) -> None:
        """Nobody calls for so long."""
        self.blocked_until = max(self.blocked_until, time.monotonic() + seconds)


class Limiters:
    """The limiters of a process."""

    def __init__(self) -> None:
        self._known: dict[str, Limiter] = {}

    def of(self, key: str, rows_in_flight: int) -> Limiter:
        """The limiter of a key; the smallest limit asked for wins while it is in use."""
        found = self._known.get(key)
        if found is None or found.rows_in_flight != rows_in_flight:
            found = self._known[key] = Limiter(rows_in_flight)
        return found
