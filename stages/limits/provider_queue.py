"""The queue of calls to one provider in a process: first come first served, as limits, a Retry-After, the provider's
health and the fleet's share allow. One timer, no task, a few microseconds a call.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from math import inf

from stages.limits.breaker import Breaker
from stages.limits.fleet_share import UNLIMITED, Fleet, Rates
from stages.limits.learned_rate import LearnedRate
from stages.limits.pacing import Pace, Ramp
from stages.limits.queue_window import Cohort, QueueWindow
from stages.limits.semaphore import Semaphore

# A longer wait is left to the workflow, which has a clock of its own.
_MAX_BLOCK_S = 60.0
_OUTAGE_PATIENCE_S = 5.0  # a short failure is waited for here, an outage in the workflow
_BELOW = 0.98  # of every limit: clocks differ, and a provider counts when a request arrives
_USED_S = 30.0  # rates hold for so long after the last call under them
_LOOK_EVERY_S = 5.0
ROWS_PER_CALL = 1.25
_ROWS_AHEAD_S = 20.0  # no more rows start than can be called in this time, so that a drain is short


def rows_for(calls: float) -> float:
    """Return the rows that run while so many calls may be in flight: a few more, so that other work overlaps."""
    return calls if calls in (0, inf) else max(calls + 1, int(calls * ROWS_PER_CALL))


class Blocked(Exception):
    """No call is sent for longer than the caller's patience."""

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(f"{why}, for {seconds:.0f} s")
        self.seconds = seconds
        self.why = why


def clock() -> float:
    """Return monotonic seconds of the loop that runs our timers."""
    return asyncio.get_running_loop().time()


class PendingCall:
    """One call, from its entry into the queue to its end."""

    __slots__ = ("cohort", "future", "limit", "patience_s", "probe", "rates", "sent_at", "tokens")

    def __init__(self, limit: int, rates: Rates, patience_s: float) -> None:
        self.limit = limit
        self.rates = rates
        self.tokens = 0.0  # taken for it
        self.patience_s = patience_s
        self.probe = False
        self.sent_at = 0.0
        self.cohort: Cohort | None = None
        self.future: asyncio.Future[None] | None = None

    def expected(self) -> float:
        """Return the estimated tokens of the call, when it is sent."""
        raise NotImplementedError


class ProviderQueue:
    """The queue that all limiters of one key share."""

    def __init__(self, *, ramps: bool = False) -> None:
        self.rows = Semaphore(self._rows_ahead)
        self.in_flight = 0
        self._queue: deque[PendingCall] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._breaker = Breaker()
        # Concurrency: the smallest of the limits in use; after a refusal for load, the window, while it is smaller.
        self._active: Counter[int] = Counter()
        self._window, self._growth = inf, 1.0
        self._cut_at = -inf
        # No call before `_blocked_until`; `_requested_until` is the time that the provider requested, which may be
        # later.
        self._blocked_until = self._requested_until = -inf
        # Rates: the limits in use, each with the time of its last use; the smallest of them; limits from headers.
        self._limits: dict[Rates, float] = {}
        self._limit = self._advertised = UNLIMITED
        self._look_at = -inf
        self._requests, self._tokens = Pace(), Pace()
        self._usual_tokens = 1.0
        self._late = False  # the next call was delayed by the pace alone, so that it may catch up a late timer
        self._ramp = Ramp() if ramps else None
        self._learned = LearnedRate()
        self._unqueued = QueueWindow(watches=ramps)
        self.fleet: Fleet | None = None
        # The time since which all calls failed, and the first failure's message, shown while that lasts.
        self._failing_since, self._failure = inf, ""
        self._part = inf  # of concurrent calls, if processes share them

    # In and out -----------------------------------------------------------------------------------------------------

    async def enter(self, call: PendingCall) -> None:
        """Wait for the call's turn. Raises Blocked."""
        now = clock()
        self.use(call.rates, now)
        self._active[call.limit] += 1
        if not self._queue and self._next_in(now) == 0.0:
            self._admit(call, now)
            return
        call.future = asyncio.get_running_loop().create_future()
        self._queue.append(call)
        if len(self._queue) == 1:
            self.dispatch()
        try:
            await call.future
        except BaseException:
            if call.future.done() and not call.future.cancelled() and call.future.exception() is None:
                self.record_cancelled(call)  # admitted, and cancelled before it could run
                self.leave(call)
            else:
                self._release_limit(call)
                self.dispatch()
            raise

    def leave(self, call: PendingCall) -> None:
        self.in_flight -= 1
        self._release_limit(call)
        self.dispatch()

    def _release_limit(self, call: PendingCall) -> None:
        self._active[call.limit] -= 1
        if not self._active[call.limit]:
            del self._active[call.limit]

    def dispatch(self) -> None:
        """Admit calls that may go now; set a timer for the next one."""
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
                return  # `leave` dispatches again
            if wait > 0:
                self._fail_over_patience(now, wait)
                self._timer = asyncio.get_running_loop().call_later(min(wait, 1.0), self.dispatch)
                return
            queue.popleft()
            self._admit(call, now, late=self._late)
            call.future.set_result(None)

    def _fail_over_patience(self, now: float, wait: float) -> None:
        delay, outage = max(wait, self._requested_until - now), self._breaker.wait(now)
        why = "the limit a minute is used up"
        if self._requested_until > now:
            why = "the provider asks for a pause"
        elif outage:
            why = f"the provider is out ({self._breaker.cause}), and is retried from time to time"
        for call in self._queue:
            patience = min(call.patience_s, _OUTAGE_PATIENCE_S) if outage else call.patience_s
            if delay > patience and call.future is not None and not call.future.done():
                call.future.set_exception(Blocked(delay, why))

    def fail_all(self, why: Callable[[], Exception]) -> None:
        """Fail all waiting calls, which would meet the same error."""
        for call in self._queue:
            if call.future is not None and not call.future.done():
                call.future.set_exception(why())

    # Admission ------------------------------------------------------------------------------------------------------

    def _next_in(self, now: float) -> float | None:
        """Return seconds until the next call may go; None if it has to wait for the end of another one."""
        late, self._late = self._late, False
        window = min(*self._active, self._window, self._unqueued.limit)
        if self.in_flight >= min(max(1, int(window)), self._part):
            return None
        healthy = self._breaker.wait(now)
        if healthy is None:
            return None
        wait = max(healthy, self._blocked_until - now)
        if wait > 0:
            return wait
        self._apply_rates(now)
        paced = max(self._requests.wait(now), self._tokens.wait(now))
        if self.fleet is None:
            wait = paced
        else:
            wait = max(paced, self.fleet.wait(now))
            self.fleet.hungry = self.fleet.hungry or wait > 0
        self._late = wait == paced if wait > 0 else late
        return wait

    def _apply_rates(self, now: float) -> None:
        rates = (self._limit if self.fleet is None else self.fleet.part(self._limit, now)).smaller(self._advertised)
        requests = min(rates.requests / 60, self._learned.rate(now))
        if requests == inf and self._ramp is not None:
            requests = self._ramp.rate(now)
        self._requests.set_rate(requests, now)
        self._tokens.set_rate(rates.tokens / 60, now)

    def use(self, rates: Rates, now: float) -> None:
        """Record that these limits are in use now."""
        if rates not in self._limits or now > self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._limits = {known: used for known, used in self._limits.items() if now - used < _USED_S}
            smallest = rates
            for known in self._limits:
                smallest = smallest.smaller(known)
            self._limit = smallest.part(_BELOW)
            self._apply_rates(now)
        self._limits[rates] = now

    def use_now(self) -> tuple[int, int, bool]:
        """Return the calls that the limits in use allow at once (0 if none is in use), the calls in flight or about to
        be, and True if more are waiting. Rows that began before a part was taken back call no more at once than what is
        left of it: others may have the rest now, not when these rows have ended."""
        limit = min(self._active, default=0) or int(self.rows.limit / ROWS_PER_CALL)
        soon = min(int(self.rows.held / ROWS_PER_CALL), self._part)
        return limit, int(max(self.in_flight, soon)), bool(self._queue) or self.rows.waiting

    def limit_to(self, part: float) -> None:
        """Allow only so many calls at once from now on."""
        self._part = part
        self.rows.wake()
        self.dispatch()

    def forget(self, rates: Rates) -> None:
        """End these rates at once, not some time after the last call. Another job with equal rates sets them again with
        its next row."""
        if self._limits.pop(rates, None) is not None:
            self._look_at = -inf
            smallest = UNLIMITED
            for known in self._limits:
                smallest = smallest.smaller(known)
            self._limit = smallest if smallest == UNLIMITED else smallest.part(_BELOW)
            self._apply_rates(clock())
            self.dispatch()

    @property
    def limit(self) -> Rates:
        """The smallest limit in use, slightly reduced."""
        return self._limit

    @property
    def rate(self) -> float:
        """Requests a second that may be sent now; inf if no rate is limited."""
        return self._requests.rate

    @property
    def out(self) -> bool:
        """True during an outage."""
        return self._breaker.open

    @property
    def waiting(self) -> bool:
        return bool(self._queue)

    def silence(self, now: float) -> tuple[float, str] | None:
        """Return the seconds since all calls fail, and the first failure; None if the provider answers."""
        return None if self._failing_since == inf else (now - self._failing_since, self._failure)

    def _admit(self, call: PendingCall, now: float, *, late: bool = False) -> None:
        self.in_flight += 1
        call.sent_at = now
        call.tokens = call.expected()
        call.probe = self._breaker.start_call()
        call.cohort = self._unqueued.sent(self.in_flight)
        self._requests.take(1, now, late=late)
        self._tokens.take(call.tokens, now, late=late)
        self._learned.count_call(now)
        self._usual_tokens = call.tokens
        if self.fleet is not None:
            self.fleet.count_use(1, call.tokens)

    def _rows_ahead(self) -> float:
        each = max(1.0, self._usual_tokens)
        ahead = max(1.0, _ROWS_AHEAD_S * min(self._requests.rate, self._tokens.rate / each))
        return min(ahead, rows_for(self._part))

    # Outcomes -------------------------------------------------------------------------------------------------------

    def record_answer(self, call: PendingCall, tokens: float | None = None) -> None:
        """Record an answer, with its tokens if they are known."""
        self._breaker.record_answer()
        self._unqueued.ended(call.cohort, clock() - call.sent_at, min(*self._active, self._part))
        self._failing_since = inf
        if self._window < inf:
            self._window += self._growth / self._window
            if self._window >= min(self._active):
                self._window = inf
        if tokens is not None:
            self._tokens.settle(tokens - call.tokens)
            if self.fleet is not None:
                self.fleet.count_use(0, tokens - call.tokens)

    def set_advertised(self, rates: Rates) -> None:
        """Set the limits that the provider's headers advertise. What was learned changes as they do."""
        before, self._advertised = self._advertised, rates.part(_BELOW)
        if before.requests != self._advertised.requests and inf not in (before.requests, self._advertised.requests):
            self._learned.scale(self._advertised.requests / before.requests)

    def record_failure(self, call: PendingCall, why: str, congestion: str, wait: float) -> None:
        """Record a transient failure; `congestion` is rate, overload or ''."""
        now = clock()
        self._unqueued.ended(call.cohort, None, min(*self._active, self._part))
        if self._failing_since == inf:
            self._failing_since, self._failure = now, why
        if congestion:
            wait = self._congested(call, congestion, wait, now)
        if wait:
            self.block(wait)
        if congestion == "rate":
            self._breaker.record_answer()
        else:
            self._breaker.record_failure(why, now, probe=call.probe)

    def _congested(self, call: PendingCall, congestion: str, wait: float, now: float) -> float:
        """Halve the window; calls sent before the last cut belong to that cut. Returns the seconds to wait."""
        again = call.sent_at <= self._cut_at
        if not again:
            self._cut_at = now
            self._window = max(1.0, min(self._window, *self._active) / 2)
            # A rate is kept by the pace, so the window only reacts to the first refusals.
            self._growth = self._window if congestion == "rate" else 0.5
        if congestion != "rate":
            return wait
        if again:
            self._learned.record_further_refusal()
            return wait
        return self._learned.record_refusal(now, wait, now - call.sent_at)

    def record_cancelled(self, call: PendingCall) -> None:
        """Record that a call was cancelled, so its outcome is unknown."""
        self._unqueued.ended(call.cohort, None, min(*self._active, self._part))
        if call.probe:
            self._breaker.record_cancelled()

    def block(self, seconds: float) -> None:
        """Send no call for so many seconds."""
        now = clock()
        self._requested_until = max(self._requested_until, now + seconds)
        self._blocked_until = max(self._blocked_until, now + min(seconds, _MAX_BLOCK_S))
        self._requests.hold(self._blocked_until)
        self.dispatch()
