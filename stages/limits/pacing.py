"""How fast calls may follow one another: evenly, at a rate that is given, or at one that was learned. No I/O, no clock
of its own: every method is told the time (monotonic seconds), so that minutes can be tested in milliseconds.
"""

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

    After one: a little below what it took since the last, the wait it asked for included; from there in a cubic curve
    that is flat around that rate, and steep once it has proved too low (as TCP's CUBIC finds a link's bandwidth).
    """

    _BELOW = 0.95
    _FLAT_S = 10.0
    _IDLE_S = 2.0

    def __init__(self) -> None:
        self._seen = inf
        self._resumed = 0.0
        self._since = self._last = -inf
        self._sent = 0
        self._elapsed = 1.0

    def rate(self, now: float) -> float:
        if self._seen == inf:
            return inf
        steep = (1 - self._BELOW) / self._FLAT_S**3
        after = max(0.0, now - self._resumed) - self._FLAT_S
        return self._seen * (1 + steep * after**3)

    def sent(self, now: float) -> None:
        if now - self._last > self._IDLE_S:
            self._since, self._sent = now, 0
        self._last = now
        self._sent += 1

    def refused(self, now: float, wait: float) -> None:
        """The first refusal of several calls that were out; nobody calls for `wait` seconds. Those count where they
        outweigh the time before, in which a burst may have been let through that the provider had saved up."""
        before = max(0.05, now - self._since)
        self._elapsed = before + (wait if before < 3 * wait else 0.0)
        self._seen = max(1, self._sent - 1) / self._elapsed
        self._resumed = self._since = self._last = now + wait
        self._sent = 0

    def refused_too(self) -> None:
        """Another one of them: so much less was taken."""
        self._seen = max(1 / self._elapsed, self._seen - 1 / self._elapsed)


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
