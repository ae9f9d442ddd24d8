"""One provider's door in a process: a queue, first come first served, that lets calls through as limits, a Retry-After,
the provider's health and the fleet's share allow. One timer, no task, a few microseconds a call.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import inf

from stages.limits.breaker import Breaker
from stages.limits.fleet_share import UNLIMITED, Fleet, Rates
from stages.limits.pacing import LearnedRate, Pace, Ramp
from stages.limits.semaphore import Semaphore

# A wait longer than this is the workflow's. Who calls after it has waited there, by a clock that is not ours.
_MAX_BLOCK_S = 60.0
_OUTAGE_PATIENCE_S = 5.0  # a blip is waited out here, an outage in the workflow
_BELOW = 0.98  # of every limit: clocks differ, and a provider counts when a request arrives
_USED_S = 30.0  # rates hold for so long after the last call under them
_LOOK_EVERY_S = 5.0
_BACKOFF_S = 0.5  # after a 429 that names no time, doubled with every other in a row
ROWS_PER_CALL = 1.25
_ROWS_AHEAD_S = 20.0  # no more rows are begun than can be asked for in this time, so that a drain need not wait long


def rows_for(calls: float) -> float:
    """Rows whose graphs run while so many calls may be out: a few more, so that the work around calls overlaps."""
    return calls if calls in (0, inf) else max(calls + 1, int(calls * ROWS_PER_CALL))


class Blocked(Exception):
    """Nobody calls for longer than the caller is ready to wait."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(f"{why}, for {seconds:.0f} s")
        self.seconds = seconds
        self.why = why


def clock() -> float:
    """Monotonic seconds, by the loop that sets our timers."""
    return asyncio.get_running_loop().time()


class PendingCall:
    """One call, from when it asks to be let through until it is over."""

    __slots__ = ("future", "limit", "number", "patience_s", "probe", "rates", "sent_at", "tokens")

    def __init__(self, limit: int, rates: Rates, patience_s: float) -> None:
        self.limit = limit
        self.rates = rates
        self.tokens = 0.0  # taken for it
        self.patience_s = patience_s
        self.probe = False
        self.sent_at = 0.0
        self.number = 0  # among the calls since the provider last refused one
        self.future: asyncio.Future[None] | None = None

    def expected(self) -> float:
        """Tokens that it will use, by what is known when it goes out."""
        raise NotImplementedError


class ProviderQueue:
    """What all limiters of one key share."""

    def __init__(self, *, ramps: bool = False) -> None:
        self.rows = Semaphore(self._rows_ahead)
        self.in_flight = 0
        self._queue: deque[PendingCall] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._breaker = Breaker()
        # How many at once: the smallest of the limits in use; after a refusal for load, the window, while it is less.
        self._active: Counter[int] = Counter()
        self._window = inf
        self._growth = 1.0
        self._cut_at = -inf
        # Nobody calls before `_blocked_until`; `_asked_until` is what the provider asked for, where that is longer
        # than we hold anybody.
        self._blocked_until = self._asked_until = -inf
        self._refusals = 0
        # How fast: the limits in use, each with the time of its last use, the smallest of them, what headers told.
        self._limits: dict[Rates, float] = {}
        self._limit = self._told = UNLIMITED
        self._look_at = -inf
        self._requests, self._tokens = Pace(), Pace()
        self._usual_tokens = 1.0
        self._late = False  # was the next call held back by the pace alone, so that it may make up for a late timer?
        self._ramp = Ramp() if ramps else None
        self._learned = LearnedRate()
        self.fleet: Fleet | None = None
        # Since when nothing but failures has come, and the first of them, whose words stay while it lasts.
        self._failing_since = inf
        self._failure = ""
        self._part = inf  # of what may be called at once, where processes share that

    # In and out -----------------------------------------------------------------------------------------------------

    async def enter(self, call: PendingCall) -> None:
        """Wait for the turn. Raises Blocked."""
        now = clock()
        self.use(call.rates, now)
        self._active[call.limit] += 1
        if not self._queue and self._next_in(now) == 0.0:
            self._let(call, now)
            return
        call.future = asyncio.get_running_loop().create_future()
        self._queue.append(call)
        if len(self._queue) == 1:
            self.look()
        try:
            await call.future
        except BaseException:
            if call.future.done() and not call.future.cancelled() and call.future.exception() is None:
                self.lost(call)  # let through, and cancelled before it knew
                self.leave(call)
            else:
                self._gone(call)
                self.look()
            raise

    def leave(self, call: PendingCall) -> None:
        self.in_flight -= 1
        self._gone(call)
        self.look()

    def _gone(self, call: PendingCall) -> None:
        self._active[call.limit] -= 1
        if not self._active[call.limit]:
            del self._active[call.limit]

    def look(self) -> None:
        """Let through whoever may go now; see to it that somebody looks again when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        queue = self._queue
        if not queue:
            return
        now = clock()
        while queue:
            call = queue[0]
            assert call.future is not None
            if call.future.done():
                queue.popleft()
                continue
            wait = self._next_in(now)
            if wait is None:
                return  # who leaves looks again
            if wait > 0:
                self._fail_over_patience(now, wait)
                self._timer = asyncio.get_running_loop().call_later(min(wait, 1.0), self.look)
                return
            queue.popleft()
            self._let(call, now, late=self._late)
            call.future.set_result(None)

    def _fail_over_patience(self, now: float, wait: float) -> None:
        asked, outage = max(wait, self._asked_until - now), self._breaker.wait(now)
        why = "the limit a minute is used up"
        if self._asked_until > now:
            why = "the provider asks for a pause"
        elif outage:
            why = f"the provider is out ({self._breaker.why}), and is asked again now and then"
        for call in self._queue:
            patience = min(call.patience_s, _OUTAGE_PATIENCE_S) if outage else call.patience_s
            if asked > patience and call.future is not None and not call.future.done():
                call.future.set_exception(Blocked(asked, why))

    def fail_all(self, why: Callable[[], Exception]) -> None:
        """Those who wait now would all be told the same."""
        for call in self._queue:
            if call.future is not None and not call.future.done():
                call.future.set_exception(why())

    # Who may go -----------------------------------------------------------------------------------------------------

    def _next_in(self, now: float) -> float | None:
        """Seconds until the next call may go; None where that is when another one ends."""
        late, self._late = self._late, False
        if self.in_flight >= min(max(1, int(min(*self._active, self._window))), self._part):
            return None
        healthy = self._breaker.wait(now)
        if healthy is None:
            return None
        wait = max(healthy, self._blocked_until - now)
        if wait > 0:
            return wait
        self._at_rates(now)
        paced = max(self._requests.wait(now), self._tokens.wait(now))
        if self.fleet is None:
            wait = paced
        else:
            wait = max(paced, self.fleet.wait(now))
            self.fleet.hungry = self.fleet.hungry or wait > 0
        self._late = wait == paced if wait > 0 else late
        return wait

    def _at_rates(self, now: float) -> None:
        rates = (self._limit if self.fleet is None else self.fleet.part(self._limit, now)).smaller(self._told)
        requests = min(rates.requests / 60, self._learned.rate(now))
        if requests == inf and self._ramp is not None:
            requests = self._ramp.rate(now)
        self._requests.at(requests, now)
        self._tokens.at(rates.tokens / 60, now)

    def use(self, rates: Rates, now: float) -> None:
        """Somebody calls, or is about to, under these limits."""
        if rates not in self._limits or now > self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._limits = {known: used for known, used in self._limits.items() if now - used < _USED_S}
            smallest = rates
            for known in self._limits:
                smallest = smallest.smaller(known)
            self._limit = smallest.part(_BELOW)
            self._at_rates(now)
        self._limits[rates] = now

    def use_now(self) -> tuple[int, int, bool]:
        """How many calls the limits in use allow at once (0 where none is in use), how many are out, and whether more
        are held back."""
        limit = min(self._active, default=0) or int(self.rows.limit / ROWS_PER_CALL)
        out = max(self.in_flight, int(self.rows.held / ROWS_PER_CALL))
        return limit, out, bool(self._queue) or self.rows.waiting

    def limit_to(self, part: float) -> None:
        """From now on only so many at once."""
        self._part = part
        self.rows.look()
        self.look()

    def forget(self, rates: Rates) -> None:
        """Nobody works under these rates any more: they end at once, and not some time after the last call. Another
        job under equal ones says so with its next row."""
        if self._limits.pop(rates, None) is not None:
            self._look_at = -inf
            smallest = UNLIMITED
            for known in self._limits:
                smallest = smallest.smaller(known)
            self._limit = smallest if smallest == UNLIMITED else smallest.part(_BELOW)
            self._at_rates(clock())
            self.look()

    @property
    def limit(self) -> Rates:
        """The smallest of those in use, and a little less."""
        return self._limit

    @property
    def out(self) -> bool:
        """In an outage."""
        return self._breaker.open

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def silence(self, now: float) -> tuple[float, str] | None:
        """Seconds since the provider only fails, and how; None where it answers."""
        return None if self._failing_since == inf else (now - self._failing_since, self._failure)

    def _let(self, call: PendingCall, now: float, *, late: bool = False) -> None:
        self.in_flight += 1
        call.sent_at = now
        call.tokens = call.expected()
        call.probe = self._breaker.took()
        self._requests.take(1, now, late=late)
        self._tokens.take(call.tokens, now, late=late)
        call.number = self._learned.sent(now)
        self._usual_tokens = call.tokens
        if self.fleet is not None:
            self.fleet.used(1, call.tokens)

    def _rows_ahead(self) -> float:
        each = max(1.0, self._usual_tokens)
        ahead = max(1.0, _ROWS_AHEAD_S * min(self._requests.rate, self._tokens.rate / each))
        return min(ahead, rows_for(self._part))

    # What came of it ------------------------------------------------------------------------------------------------

    def answered(self, call: PendingCall, tokens: float | None = None) -> None:
        """The provider said something; where that is known, for so many tokens."""
        self._breaker.answered()
        self._failing_since = inf
        self._learned.answered()
        self._refusals = 0
        if self._window < inf:
            self._window += self._growth / self._window
            if self._window >= min(self._active):
                self._window = inf
        if tokens is not None:
            self._tokens.settle(tokens - call.tokens)
            if self.fleet is not None:
                self.fleet.used(0, tokens - call.tokens)

    def told(self, rates: Rates) -> None:
        """What the provider's headers say that it allows."""
        self._told = rates.part(_BELOW)

    def failed(self, call: PendingCall, why: str, congestion: str, wait: float) -> None:
        """A failure that may pass; `congestion` is rate, overload or nothing."""
        now = clock()
        if self._failing_since == inf:
            self._failing_since, self._failure = now, why
        if congestion:
            wait = self._congested(call, congestion, wait, now)
        if wait:
            self.block(wait)
        if congestion == "rate":
            self._breaker.answered()
        else:
            self._breaker.failed(why, now, probe=call.probe)

    def _congested(self, call: PendingCall, congestion: str, wait: float, now: float) -> float:
        """Half as many at once; what was sent before the last cut belongs to that one. Returns how long to wait."""
        again = call.sent_at <= self._cut_at
        if not again:
            self._cut_at = now
            self._window = max(1.0, min(self._window, *self._active) / 2)
            # A rate is then held by the pace, and the window only answers the shock.
            self._growth = self._window if congestion == "rate" else 0.5
        if congestion != "rate":
            return wait
        if again:
            self._learned.refused_too(call.number)
            return wait
        self._refusals += 1
        wait = wait or min(_BACKOFF_S * 2 ** ((self._refusals - 1) // 2), _MAX_BLOCK_S / 2)
        self._learned.refused(call.number, now, wait)
        return wait

    def lost(self, call: PendingCall) -> None:
        """Nobody will know what came of it."""
        if call.probe:
            self._breaker.lost()

    def block(self, seconds: float) -> None:
        """Nobody calls for so long."""
        now = clock()
        self._asked_until = max(self._asked_until, now + seconds)
        self._blocked_until = max(self._blocked_until, now + min(seconds, _MAX_BLOCK_S))
        self._requests.hold(self._blocked_until)
        self.look()
