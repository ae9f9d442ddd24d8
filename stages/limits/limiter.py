"""How much may be asked of a provider, per (provider, model, credential), shared by all batches of a process.

Rows whose graphs run are bounded by `take_row`, calls by `call`, a few fewer, so that the work around a call
(rendering, parsing, the journal) overlaps with other rows' calls. Runs with different limits share one `Place`: while
both use it, the smaller limit holds for both.
"""

import copy
import datetime as dt
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from schemas.errors import FatalModelError
from stages.limits.fleet_share import UNLIMITED, Fleet, Rates
from stages.limits.pacing import Tokens
from stages.limits.provider_queue import Blocked, PendingCall, ProviderQueue, clock, rows_for

__all__ = ["Blocked", "Limiter", "Limiters", "Rates", "Turn"]

_SILENT_S = 5.0  # of failures and nothing else, before it is worth a word
DEFAULT_OUTPUT = 512  # tokens of an answer, until the first was seen, where the spec caps none


@dataclass(eq=False)
class Limiter:
    """What one stage's model may do: `rows_in_flight` calls at once, at `rates`. Nobody calls before a Retry-After is
    over, nor while the provider is out."""

    rows_in_flight: int
    rates: Rates = UNLIMITED
    _place: ProviderQueue = field(default_factory=ProviderQueue)
    _tokens: Tokens = field(default_factory=lambda: Tokens(DEFAULT_OUTPUT))
    _taken: deque[int] = field(default_factory=deque)  # the limits under which rows were let in: a change may come

    @property
    def _rows(self) -> int:
        return int(rows_for(self.rows_in_flight))

    async def take_row(self) -> None:
        """Take a place for one row's graph, to be given back with `leave_row`."""
        self._place.use(self.rates, clock())
        rows = self._rows
        await self._place.rows.acquire(rows)
        self._taken.append(rows)

    def leave_row(self) -> None:
        self._place.rows.release(self._taken.popleft())

    def call(
        self,
        size: int = 0,
        *,
        patience_s: float = float("inf"),
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> "Turn":
        """To be held while a request of `size` bytes is out. Raises Blocked on entering where that is not to be within
        `patience_s`. The wait for it is within a `waiting()`."""
        return Turn(self, size, patience_s, waiting)

    def block(self, seconds: float) -> None:
        """Nobody calls for so long."""
        self._place.block(seconds)

    def forget(self) -> None:
        if self.rates != UNLIMITED:
            self._place.forget(self.rates)

    @property
    def out(self) -> bool:
        """Whether the provider looks as in an outage."""
        return self._place.out


class Turn(PendingCall):
    """One request's turn. It is told how the request ended; where it is not, the provider is taken to have answered,
    unless the caller was cancelled."""

    __slots__ = ("_limiter", "_size", "_told", "_waiting")

    def __init__(
        self, limiter: Limiter, size: int, patience_s: float, waiting: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__(limiter.rows_in_flight, limiter.rates, patience_s)
        self._limiter = limiter
        self._size = size
        self._told = False
        self._waiting = waiting

    def expected(self) -> float:
        return self._limiter._tokens.estimate(self._size)

    async def __aenter__(self) -> Self:
        with self._waiting():
            await self._limiter._place.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        place = self._limiter._place
        if isinstance(exc, FatalModelError):
            place.fail_all(lambda: FatalModelError(exc.message, hint=exc.hint))
        if not self._told:
            if exc is None or isinstance(exc, Exception):
                place.answered(self)
            else:
                place.lost(self)
        place.leave(self)

    def answered(self, given: int, got: int, allowed: Rates | None = None) -> None:
        """With so many tokens in and out; `allowed` is what the answer's headers say of limits."""
        self._told = True
        gauge = self._limiter._tokens
        gauge.saw(self._size, given, got)
        # What was taken before anything was known is not given back: it would come as a burst.
        self.tokens = min(self.tokens, gauge.estimate(self._size))
        if allowed is not None:
            self._limiter._place.told(allowed)
        self._limiter._place.answered(self, given + got)

    def failed(self, why: str, congestion: str = "", wait: float = 0.0) -> None:
        """A failure that may pass. `congestion`: rate (asked too often), overload, or nothing of the kind."""
        self._told = True
        self._limiter._place.failed(self, why, congestion, wait)


class Limiters:
    """The limiters of a process."""

    def __init__(self) -> None:
        self._places: dict[str, ProviderQueue] = {}
        self._gauges: dict[tuple[str, str], Tokens] = {}
        self._given: list[Limiter] = []
        self._asks: list[Callable[[], None]] = []
        self._divides: list[Callable[[], None]] = []

    def share(self, asks: Callable[[], None]) -> None:
        """From now on limits are shared with other processes; `asks` is called when a share is needed."""
        self._asks.append(asks)
        for place in self._places.values():
            place.fleet = Fleet(asks)

    def divide(self, asks: Callable[[], None]) -> None:
        """From now on what may be called at once is divided among processes; `asks` is called when a part is needed."""
        self._divides.append(asks)
        for place in self._places.values():
            place.limit_to(0)

    def places(self) -> list[tuple[str, ProviderQueue]]:
        return list(self._places.items())

    def shared(self) -> list[tuple[str, ProviderQueue, Fleet]]:
        """The places with a limit to share."""
        return [
            (key, place, place.fleet)
            for key, place in self._places.items()
            if place.fleet is not None and place.limit != UNLIMITED
        ]

    def end(self) -> None:
        """The job that these were given to has nothing at work: its rates bound nobody any more."""
        for limiter in self._given:
            limiter.forget()

    def silence(self) -> str:
        """Which providers have only failed for some seconds, since when, and how; "" where all answer. It reads the
        same for as long as that lasts."""
        now, today = clock(), dt.datetime.now(dt.UTC)
        found = (place.silence(now) for place in self._places.values())
        return "; ".join(
            f"{failure}; no answer since {today - dt.timedelta(seconds=seconds):%H:%M:%S} UTC, asked again now and then"
            for seconds, failure in filter(None, found)
            if seconds >= _SILENT_S
        )

    def apart(self) -> "Limiters":
        """The same places, for one job: `resize` then reaches what was given to that job, and nothing else."""
        twin = copy.copy(self)
        twin._given = []
        return twin

    def resize(self, rows_in_flight: int) -> None:
        """From now on; who is let in already stays."""
        for limiter in self._given:
            limiter.rows_in_flight = rows_in_flight

    def of(
        self, key: str, rows_in_flight: int, rates: Rates = UNLIMITED, *, output_cap: int = DEFAULT_OUTPUT,
        gauge: str = "", ramps: bool = False,
    ) -> Limiter:  # fmt: skip
        """The limiter of a key. All of a key share one place, whatever their limits; those of one `gauge` (a stage and
        role) share what their calls were seen to use."""
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = ProviderQueue(ramps=ramps)
            place.fleet = Fleet(self._asks[0]) if self._asks else None
            if self._divides:
                place.limit_to(0)
                self._divides[0]()
        tokens = self._gauges.setdefault((key, gauge), Tokens(output_cap))
        limiter = Limiter(rows_in_flight, rates, place, tokens)
        self._given.append(limiter)
        return limiter
