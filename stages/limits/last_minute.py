"""Count calls by the second, for a minute. No I/O, no clock of its own."""

from math import inf

_SECONDS = 60


class LastMinute:
    """Calls of the last minute, in constant memory and time."""

    def __init__(self) -> None:
        self._counts = [0] * _SECONDS
        self._second = 0  # the last one that is counted
        self._sum = 0
        self._began = inf

    def add(self, calls: int, now: float) -> None:
        """Add calls; a negative number takes back."""
        self._began = min(self._began, now)
        for _ in range(min(int(now) - self._second, _SECONDS)):
            self._second += 1
            self._sum -= self._counts[self._second % _SECONDS]
            self._counts[self._second % _SECONDS] = 0
        self._second = max(self._second, int(now))
        self._counts[self._second % _SECONDS] += calls
        self._sum += calls

    def rate(self, until: float) -> float:
        """Return calls a second, more than zero, in the minute that ends then, or since the first call."""
        over = min(max(0, int(until) - self._second), _SECONDS)
        gone = sum(self._counts[(self._second + 1 + later) % _SECONDS] for later in range(over))
        return max(1, self._sum - gone) / min(float(_SECONDS), max(0.05, until - self._began))
