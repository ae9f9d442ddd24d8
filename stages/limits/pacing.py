"""Pace calls: evenly, at a given or a learned rate. No I/O, no clock of its own: every method takes the time (monotonic
seconds), so that minutes can be tested in milliseconds.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import inf

# The delay that a late timer may catch up. More would be a burst; less would lose rate on a busy event loop.
_CATCH_UP_S = 0.25


class Pace:
    """Even spacing of an amount a second: requests, or tokens. An amount that was taken and not used is returned."""

    def __init__(self) -> None:
        self.rate = inf
        self._next = 0.0

    def set_rate(self, rate: float, now: float) -> None:
        """Set the rate from now on; the current debt is converted to it."""
        if rate != self.rate:
            owed = self._next - now
            if owed > 0:
                self._next = now + (owed * self.rate / rate if self.rate < inf else 0.0)
            self.rate = rate

    def wait(self, now: float) -> float:
        """Return seconds until the next call may go."""
        return max(0.0, self._next - now)

    def take(self, amount: float, now: float, *, late: bool = False) -> None:
        """Take an amount. `late`: a call waited for it, and its timer may have been late."""
        self._next = max(self._next, now - _CATCH_UP_S if late else now) + amount / self.rate

    def hold(self, until: float) -> None:
        """Allow nothing before a time, and no burst after it."""
        self._next = max(self._next, until)

    def settle(self, difference: float) -> None:
        """Correct the amount taken: more was used than taken, or (negative) less."""
        self._next += difference / self.rate


class Ramp:
    """The rate of the first calls to a provider with unknown limits: it grows, so that few calls meet a limit."""

    _START, _DOUBLES_S, _OVER_S, _IDLE_S = 200.0, 0.25, 2.0, 60.0

    def __init__(self) -> None:
        self._began = self._last = -inf

    def rate(self, now: float) -> float:
        if now - self._last > self._IDLE_S:
            self._began = now
        self._last = now
        since = now - self._began
        return self._START * 2 ** (since / self._DOUBLES_S) if since < self._OVER_S else inf


class LearnedRate:
    """The requests a second that a provider accepts, learned from its refusals.

    A refusal bounds the limit from both sides: the accepted rate since the last refusal is below it, the current pace
    above. The next pace lies between them, so that each refusal halves the error. From there it rises in a cubic curve:
    flat around that rate, for longer the more exactly it is known, and steep after it proves too low (as TCP's CUBIC
    finds a link's bandwidth). A refusal before which nothing was accepted says little, even if many come at once:
    calls then start again, and double in number up to the last good rate.
    """

    _DIP = 0.07
    _NEAR, _FAR = 0.55, 0.25  # of the way from the accepted rate to the pace
    _START, _DOUBLES_S = 200.0, 0.5
    _LEAST_FLAT_S, _MOST_FLAT_S, _FLAT_CALLS = 2.0, 100.0, 8
    _RECENT = 8
    _EXACT, _OUTGROWN = 1.2, 1.5
    _IDLE_S, _IDLE_CALLS = 2.0, 3.0

    def __init__(self) -> None:
        self._good = inf  # the rate that the curve is flat around
        self._start = inf  # the rate at `_resumed`, doubled from there on
        self._resumed = self._since = self._last = -inf
        self._sent = 0
        self._recent: deque[float] = deque(maxlen=self._RECENT)
        self._drained = False  # no saved-up allowance can have been used since `_since`
        self._exact = 0  # refusals that bounded the rate closely
        self._nothing = 0  # refusals since the first call, before any was accepted
        self._accepted = inf  # a second, before the last informative refusal
        self._shock = _Refusal(0, 1.0, inf, inf, 0, inf)

    def rate(self, now: float) -> float:
        if self._start == inf:
            return inf
        since = max(0.0, now - self._resumed)
        started: float = self._start * 2.0 ** min(since / self._DOUBLES_S, 64.0)
        return min(started, self._curve(since)) if self._good < inf else started

    def _curve(self, since: float) -> float:
        first = max(self._LEAST_FLAT_S, self._FLAT_CALLS / self._good)
        flat = min(self._MOST_FLAT_S, first * 2.0 ** min(self._exact, 16))
        return self._good * (1 + self._DIP * (since / flat - 1) ** 3)

    def count_call(self, now: float) -> int:
        """Count a call, and return its number. During a pause a provider's allowance fills up, so calls after it show
        no rate."""
        if now - self._last > max(self._IDLE_S, self._IDLE_CALLS / self.rate(now)):
            self._since, self._sent, self._drained = now, 0, False
        self._last = now
        self._recent.append(now)
        self._sent += 1
        return self._sent

    def record_refusal(self, number: int, now: float, wait: float) -> None:
        """Record the first refusal among calls in flight: the call of this number. No call is sent for `wait` seconds.
        Calls sent after it are not counted as accepted."""
        elapsed, pace, rate = max(0.05, now - self._since), inf, self.rate(now)
        if self._drained:
            began = self._recent[0] if len(self._recent) == self._RECENT else self._resumed
            pace = min(rate, len(self._recent) / max(0.05, now - began))
        else:
            elapsed += wait
        exact = 0 if self._good < inf and rate > self._OUTGROWN * self._good else self._exact
        self._shock = _Refusal(number - 1, elapsed, pace, self._good, exact, self._accepted)
        self._nothing += self._nothing >= 0
        self._conclude()
        self._resumed = self._last = now + wait
        self._since, self._sent, self._drained = now, 0, True
        self._recent.clear()

    def record_further_refusal(self, number: int) -> None:
        """Record another refusal of the same calls."""
        if number - 1 < self._shock.accepted:
            self._shock = replace(self._shock, accepted=number - 1)
            self._conclude()

    def _conclude(self) -> None:
        shock = self._shock
        self._good, self._exact = shock.good, shock.exact
        accepted = shock.accepted / shock.elapsed
        if shock.pace < inf and accepted > 0:
            pace = max(accepted, shock.pace)
            many = shock.accepted >= self._RECENT
            again = many and 1 / self._EXACT < accepted / shock.before < self._EXACT
            weight = self._FAR if many and (again or pace > 2 * accepted) else self._NEAR
            self._good = self._start = accepted ** (1 - weight) * pace**weight
            self._exact += again or pace < self._EXACT * accepted
            self._accepted = accepted
        elif shock.pace == inf and self._good < inf:  # the saved-up allowance is used: the rate stays as good as before
            self._start = self._good
        elif self._nothing > 0 and accepted == 0:
            self._start = self._START * 4 ** min(self._nothing - 1, 8)
        else:
            self._start = max(1.0, accepted)

    def record_answer(self) -> None:
        """Record an answer: the provider accepts calls."""
        self._nothing = -1


@dataclass(frozen=True)
class _Refusal:
    """The state at a refusal: the number of calls accepted before it, in which time, at which pace; the good rate until
    then, how often it was exact, and the rate accepted before the previous refusal."""

    accepted: int
    elapsed: float
    pace: float
    good: float
    exact: int
    before: float


class Tokens:
    """Estimate the tokens of a call from the size of its request and the use of earlier calls, without a tokenizer."""

    _WEIGHT = 0.05

    def __init__(self, output_cap: int) -> None:
        self._per_byte = 0.25
        self._output = float(output_cap)
        self._seen = 0

    def estimate(self, size: int) -> float:
        return size * self._per_byte + self._output

    def learn(self, size: int, read: int, wrote: int) -> None:
        self._seen += 1
        weight = max(self._WEIGHT, 1 / self._seen)
        if size:
            self._per_byte += weight * (read / size - self._per_byte)
        self._output += weight * (wrote - self._output)
