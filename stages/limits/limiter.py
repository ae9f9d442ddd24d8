"""Limit calls to a provider, per (provider, model, credential), shared by all batches of a process.

Rows whose graphs run are bounded by `take_row`, calls by `call`, a few fewer, so that the work around a call
(rendering, parsing, the journal) overlaps with other rows' calls. Runs with different limits share one
`ProviderQueue`: while both use it, the smaller limit holds for both.
"""

import copy
import datetime as dt
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

from schemas.errors import FatalModelError
from stages import observer
from stages.limits.fleet_share import UNLIMITED, Demand, Fleet, Rates
from stages.limits.pacing import Tokens
from stages.limits.provider_queue import Blocked, PendingCall, ProviderQueue, clock, rows_for
from stages.limits.semaphore import ANYWHERE, Place

__all__ = ["Blocked", "Limiter", "Limiters", "Rates", "Turn"]

_IDLE_S = 5.0  # of a shared limit, before its share is returned
_SILENT_S = 5.0  # of failures only, before it is reported
DEFAULT_OUTPUT = 512  # tokens of an answer, until the first was seen, if the spec sets no cap


@dataclass(eq=False)
class Limiter:
    """The limits of one stage's model: `rows_in_flight` calls at once, at `rates`. No call is sent before a Retry-After
    is over, nor during an outage."""

    rows_in_flight: int
    rates: Rates = UNLIMITED
    _queue: ProviderQueue = field(default_factory=ProviderQueue)
    _tokens: Tokens = field(default_factory=lambda: Tokens(DEFAULT_OUTPUT))
    _row_limits: deque[int] = field(default_factory=deque)  # the limits under which rows were admitted; they may change

    @property
    def _rows(self) -> int:
        return int(rows_for(self.rows_in_flight))

    async def take_row(self, place: Place = ANYWHERE) -> None:
        """Wait for a slot for one row's graph; release it with `leave_row`."""
        self._queue.use(self.rates, clock())
        rows = self._rows
        await self._queue.rows.acquire(rows, place)
        self._row_limits.append(rows)

    def leave_row(self) -> None:
        self._queue.rows.release(self._row_limits.popleft())

    def call(
        self,
        size: int = 0,
        *,
        patience_s: float = float("inf"),
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> "Turn":
        """Return a context manager to hold while a request of `size` bytes is in flight. Entering raises Blocked if the
        wait would be longer than `patience_s`. It waits within a `waiting()`."""
        return Turn(self, size, patience_s, waiting)

    def block(self, seconds: float) -> None:
        """Send no call for so many seconds."""
        self._queue.block(seconds)

    def forget(self) -> None:
        if self.rates != UNLIMITED:
            self._queue.forget(self.rates)

    @property
    def in_flight(self) -> int:
        """Return the calls that are in flight."""
        return self._queue.in_flight

    @property
    def out(self) -> bool:
        """True during an apparent outage of the provider."""
        return self._queue.out


class Turn(PendingCall):
    """One request's turn. The caller records how the request ended; if it does not, it counts as answered, unless the
    caller was cancelled."""

    __slots__ = ("_limiter", "_reported", "_size", "_waiting")

    def __init__(
        self, limiter: Limiter, size: int, patience_s: float, waiting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(limiter.rows_in_flight, limiter.rates, patience_s)
        self._limiter = limiter
        self._size = size
        self._reported = False
        self._waiting = waiting

    def expected(self) -> float:
        return self._limiter._tokens.estimate(self._size)

    async def __aenter__(self) -> Self:
        began = 0.0 if observer.current is None else clock()
        with self._waiting():
            await self._limiter._queue.enter(self)
        if (seen := observer.current) is not None:
            seen.limit_waited(clock() - began)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        queue = self._limiter._queue
        if isinstance(exc, FatalModelError):
            queue.fail_all(partial(_again, exc))
        if not self._reported:
            if exc is None or isinstance(exc, Exception):
                queue.record_answer(self)
            else:
                queue.record_cancelled(self)
        queue.leave(self)

    def record_answer(self, read: int, wrote: int, allowed: Rates | None = None) -> None:
        """Record an answer with `read` tokens in and `wrote` out; `allowed` are limits from the answer's headers."""
        self._reported = True
        gauge = self._limiter._tokens
        gauge.learn(self._size, read, wrote)
        # Tokens reserved by the first estimates are not returned: that would allow a burst.
        self.tokens = min(self.tokens, gauge.estimate(self._size))
        if allowed is not None:
            self._limiter._queue.set_advertised(allowed)
        self._limiter._queue.record_answer(self, read + wrote)

    def record_failure(self, why: str, congestion: str = "", wait: float = 0.0) -> None:
        """Record a transient failure. `congestion`: rate (too many calls), overload, or '' for neither."""
        self._reported = True
        self._limiter._queue.record_failure(self, why, congestion, wait)


def _again(exc: FatalModelError) -> FatalModelError:
    """Return the same error for another call: one exception cannot be raised by many."""
    same = FatalModelError(exc.message, hint=exc.hint)
    same.quota = exc.quota
    return same


@dataclass(frozen=True)
class SharedQueue:
    """A queue as the user of a limit that is shared with other processes."""

    queue: ProviderQueue
    fleet: Fleet

    @property
    def limit(self) -> Rates:
        return self.queue.limit

    def in_use(self, now: float) -> bool:
        return self.queue.waiting or now - self.fleet.used_at < _IDLE_S

    def demand(self, now: float) -> Demand:
        return self.fleet.demand(now)

    def grant(self, share: Rates, until: float) -> None:
        self.fleet.grant(share, until)
        self.queue.dispatch()

    def end_grant(self) -> None:
        self.fleet.end_grant()

    async def settled(self) -> None:
        """Return at once: the pace is that of the share."""


class Limiters:
    """The limiters of a process."""

    def __init__(self) -> None:
        self._queues: dict[str, ProviderQueue] = {}
        self._gauges: dict[tuple[str, str], Tokens] = {}
        self._handed_out: list[Limiter] = []
        self._share_callbacks: list[Callable[[], None]] = []
        self._division_callbacks: list[Callable[[], None]] = []

    def share(self, request_share: Callable[[], None]) -> None:
        """Share limits with other processes from now on; `request_share` is called when a share is needed."""
        self._share_callbacks.append(request_share)
        for queue in self._queues.values():
            queue.fleet = Fleet(request_share)

    def divide(self, request_part: Callable[[], None]) -> None:
        """Divide concurrent calls among processes from now on; `request_part` is called when a part is needed."""
        self._division_callbacks.append(request_part)
        for queue in self._queues.values():
            queue.limit_to(0)

    def places(self) -> list[tuple[str, ProviderQueue]]:
        return list(self._queues.items())

    def shared(self) -> list[tuple[str, ProviderQueue, Fleet]]:
        """Return the queues with a limit to share."""
        return [
            (key, queue, queue.fleet)
            for key, queue in self._queues.items()
            if queue.fleet is not None and queue.limit != UNLIMITED
        ]

    def users(self) -> list[tuple[str, SharedQueue]]:
        """Return the same, as users of their limits."""
        return [(key, SharedQueue(queue, fleet)) for key, queue, fleet in self.shared()]

    def end(self) -> None:
        """End the rates of this job, which has nothing running, so that they limit no other job."""
        for limiter in self._handed_out:
            limiter.forget()

    def silence(self) -> str:
        """Describe providers that only failed for some seconds, since when, and how; "" if all answer. The text does
        not change while that lasts."""
        now, today = clock(), dt.datetime.now(dt.UTC)
        found = (queue.silence(now) for queue in self._queues.values())
        return "; ".join(
            f"{failure}; no answer since {today - dt.timedelta(seconds=seconds):%H:%M:%S} UTC, retried now and then"
            for seconds, failure in filter(None, found)
            if seconds >= _SILENT_S
        )

    def apart(self) -> "Limiters":
        """Return the same queues for one job: `resize` then changes the limiters of that job only."""
        copied = copy.copy(self)
        copied._handed_out = []
        return copied

    def resize(self, rows_in_flight: int) -> None:
        """Change the limit from now on; rows that run already are not affected."""
        for limiter in self._handed_out:
            limiter.rows_in_flight = rows_in_flight

    def of(
        self, key: str, rows_in_flight: int, rates: Rates = UNLIMITED, *, output_cap: int = DEFAULT_OUTPUT,
        gauge: str = "", ramps: bool = False,
    ) -> Limiter:  # fmt: skip
        """Return a limiter for a key. All of a key share one queue, whatever their limits; those of one `gauge` (a
        stage and role) share the observed use of tokens."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = ProviderQueue(ramps=ramps)
            queue.fleet = Fleet(self._share_callbacks[0]) if self._share_callbacks else None
            if self._division_callbacks:
                queue.limit_to(0)
                self._division_callbacks[0]()
        tokens = self._gauges.setdefault((key, gauge), Tokens(output_cap))
        limiter = Limiter(rows_in_flight, rates, queue, tokens)
        self._handed_out.append(limiter)
        return limiter
