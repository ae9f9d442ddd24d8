"""How fast calls may follow one another: evenly, at a rate that is given, or at one that was learned. No I/O, no clock
of its own: every method is told the time (monotonic seconds), so that minutes can be tested in milliseconds.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import inf

# What a late timer may make up for. More would be a burst; less would lose what a busy event loop delays.
_CATCH_UP_S = 0.25


class Pace:
    """Even spacing of an amount a second: requests, or tokens. An amount that was taken and not used is given back."""

    def __init__(self) -> None:
        self.rate = inf
        self._next = 0.0

    def at(self, rate: float, now: float) -> None:
        """From now on this rate; what is owed is owed at the new one."""
        if rate != self.rate:
            owed = self._next - now
            if owed > 0:
                self._next = now + (owed * self.rate / rate if self.rate < inf else 0.0)
            self.rate = rate

    def wait(self, now: float) -> float:
        """Seconds until something may go."""
        return max(0.0, self._next - now)

    def take(self, amount: float, now: float, *, late: bool = False) -> None:
        """`late`: somebody waited for it, and may have been called after the moment."""
        self._next = max(self._next, now - _CATCH_UP_S if late else now) + amount / self.rate

    def hold(self, until: float) -> None:
        """Nothing before then, and no burst after it."""
        self._next = max(self._next, until)

    def settle(self, difference: float) -> None:
        """More was used than was taken, or (negative) less."""
        self._next += difference / self.rate


class Ramp:
    """The first calls to a provider whose limits nobody told: ever faster, so that a limit is met by few of them."""

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
    """Requests a second that a provider was seen to take, from its refusals.

    A refusal bounds the limit from both sides: what was taken since the refusal before is below it, the pace in force
    above. The next pace lies between them, so that each refusal halves the error. From there it rises in a cubic curve:
    flat around that rate, for longer the more exactly it is known, and steep once it has proved too low (as TCP's CUBIC
    finds a link's bandwidth). A refusal before which nothing was taken says little, however many come at once: calls
    then start anew, and double in number up to the last rate that was good.
    """

    _DIP = 0.07
    _NEAR, _FAR = 0.55, 0.25  # of the way from what was taken to the pace
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
        self._drained = False  # nothing saved up can have been let through since `_since`
        self._exact = 0  # refusals that bounded the rate closely
        self._nothing = 0  # refusals since the first call, before any was taken
        self._taken = inf  # a second, before the last refusal that said something
        self._shock = _Refused(0, 1.0, inf, inf, 0, inf)

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

    def sent(self, now: float) -> int:
        """Counts a call, and gives its number. Silence fills what a provider saves up: what is let through after it
        shows no rate."""
        if now - self._last > max(self._IDLE_S, self._IDLE_CALLS / self.rate(now)):
            self._since, self._sent, self._drained = now, 0, False
        self._last = now
        self._recent.append(now)
        self._sent += 1
        return self._sent

    def refused(self, number: int, now: float, wait: float) -> None:
        """The first refusal of several calls that were out: the call of this number. Nobody calls for `wait` seconds.
        What was sent after it was taken in spite of any limit, or not at all."""
        elapsed, pace, rate = max(0.05, now - self._since), inf, self.rate(now)
        if self._drained:
            began = self._recent[0] if len(self._recent) == self._RECENT else self._resumed
            pace = min(rate, len(self._recent) / max(0.05, now - began))
        else:
            elapsed += wait
        exact = 0 if self._good < inf and rate > self._OUTGROWN * self._good else self._exact
        self._shock = _Refused(number - 1, elapsed, pace, self._good, exact, self._taken)
        self._nothing += self._nothing >= 0
        self._conclude()
        self._resumed = self._last = now + wait
        self._since, self._sent, self._drained = now, 0, True
        self._recent.clear()

    def refused_too(self, number: int) -> None:
        """Another one of them."""
        if number - 1 < self._shock.taken:
            self._shock = replace(self._shock, taken=number - 1)
            self._conclude()

    def _conclude(self) -> None:
        shock = self._shock
        self._good, self._exact = shock.good, shock.exact
        taken = shock.taken / shock.elapsed
        if shock.pace < inf and taken > 0:
            pace = max(taken, shock.pace)
            many = shock.taken >= self._RECENT
            again = many and 1 / self._EXACT < taken / shock.before < self._EXACT
            weight = self._FAR if many and (again or pace > 2 * taken) else self._NEAR
            self._good = self._start = taken ** (1 - weight) * pace**weight
            self._exact += again or pace < self._EXACT * taken
            self._taken = taken
        elif shock.pace == inf and self._good < inf:  # what was saved up is used: the rate is as good as it was
            self._start = self._good
        elif self._nothing > 0 and taken == 0:
            self._start = self._START * 4 ** min(self._nothing - 1, 8)
        else:
            self._start = max(1.0, taken)

    def answered(self) -> None:
        """The provider takes calls."""
        self._nothing = -1


@dataclass(frozen=True)
class _Refused:
    """What was known when calls were refused: how many were taken before, in which time, at which pace; the rate that
    was good until then, how often it was exact, and how many a second were taken before the refusal before."""

    taken: int
    elapsed: float
    pace: float
    good: float
    exact: int
    before: float


class Tokens:
    """What a call will use, from the size of its request, by what such calls were seen to use: no tokenizer needed."""

    _WEIGHT = 0.05

    def __init__(self, output_cap: int) -> None:
        self._per_byte = 0.25
        self._output = float(output_cap)
        self._seen = 0

    def estimate(self, size: int) -> float:
        return size * self._per_byte + self._output

    def saw(self, size: int, given: int, got: int) -> None:
        self._seen += 1
        weight = max(self._WEIGHT, 1 / self._seen)
        if size:
            self._per_byte += weight * (given / size - self._per_byte)
        self._output += weight * (got - self._output)
