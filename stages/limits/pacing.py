"""Pace calls: evenly, at a given rate. No I/O, no clock of its own: every method takes the time (monotonic
seconds), so that minutes can be tested in milliseconds.
"""

from math import inf

# The delay that a late timer may catch up. More would be a burst; less would lose rate on a busy event loop.
_CATCH_UP_S = 0.25


class Pace:
    """Even spacing of an amount a second: requests, or tokens. An amount that was taken and not used is returned."""

    def __init__(self) -> None:
        self.rate = inf
        self._next = 0.0
        self._held_until = -inf  # apart from the debt, which a change of the rate converts

    def set_rate(self, rate: float, now: float) -> None:
        """Set the rate from now on; the current debt is converted to it."""
        if rate != self.rate:
            owed = self._next - now
            if owed > 0:
                self._next = now + (owed * self.rate / rate if self.rate < inf else 0.0)
            self.rate = rate

    def wait(self, now: float) -> float:
        """Return seconds until the next call may go."""
        return max(0.0, self._next - now, self._held_until - now)

    def take(self, amount: float, now: float, *, late: bool = False) -> None:
        """Take an amount. `late`: a call waited for it, and its timer may have been late."""
        self._next = max(self._next, self._held_until, now - _CATCH_UP_S if late else now) + amount / self.rate

    def hold(self, until: float) -> None:
        """Allow nothing before a time, and no burst after it."""
        self._held_until = max(self._held_until, until)

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
