"""The first call with a prefix goes ahead, so that the provider's cache is written, and paid for, once.

A cache can be read from when the answer that writes it has begun: of calls that go at once, each would write it. Calls
without a prefix that is known to be cached never wait.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

_KEPT_S = 270.0  # a cache that nobody reads lasts five minutes
_PATIENCE_S = 20.0  # an answer has begun by then, as a rule
_MOST = 1_000  # prefixes that are remembered


class FirstCalls:
    """The prefixes of one model's calls, by their digests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, patience_s: float = _PATIENCE_S) -> None:
        self._clock = clock
        self._patience_s = patience_s
        self._read_at: dict[str, float] = {}
        self._first: dict[str, asyncio.Future[None]] = {}

    @asynccontextmanager
    async def turn(
        self, prefix: str, waiting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> AsyncIterator[None]:
        """Hold while a call is in flight. Entering waits, within a `waiting()`, until the cache has the prefix, or
        patience is over; if the first call fails, the next one is the first."""
        with waiting():
            is_first = await self._is_first(prefix)
        try:
            yield
        finally:
            if is_first and not (first := self._first.pop(prefix)).done():
                first.set_result(None)

    async def _is_first(self, prefix: str) -> bool:
        until = self._clock() + self._patience_s
        while self._clock() - self._read_at.get(prefix, -_KEPT_S) >= _KEPT_S:
            first = self._first.get(prefix)
            if first is None:
                self._first[prefix] = asyncio.get_running_loop().create_future()
                return True
            left = until - self._clock()
            if left <= 0:
                return False
            await asyncio.wait([first], timeout=left)
        return False

    def answered(self, prefix: str) -> None:
        """Record that a call was answered, so that the cache has its prefix."""
        if len(self._read_at) >= _MOST and prefix not in self._read_at:
            self._read_at.clear()
        self._read_at[prefix] = self._clock()
