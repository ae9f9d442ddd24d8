"""Which rows are slow: those above the 99th percentile of the rows of their stage so far, in this process."""

import math
from collections import Counter

_SHARE = 0.99
_ENOUGH = 100  # rows before any of them can be called slow
_AGAIN = 64  # rows after which the limit is reckoned again
_STEP = math.log(1.05)  # durations are counted in steps of 5 %


class SlowRows:
    """Durations of one stage. Memory is bounded by the steps between a microsecond and years."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._seen = 0
        self._limit = math.inf

    def is_slow(self, seconds: float) -> bool:
        """Return whether a row is slower than those before it, and count it."""
        slow = seconds > self._limit
        self._counts[math.ceil(math.log(max(seconds, 1e-6)) / _STEP)] += 1
        self._seen += 1
        if self._seen >= _ENOUGH and self._seen % _AGAIN == 0:
            self._limit = self._percentile()
        return slow

    def _percentile(self) -> float:
        above = self._seen * (1 - _SHARE)
        for step in sorted(self._counts, reverse=True):
            above -= self._counts[step]
            if above < 0:
                return math.exp(step * _STEP)
        return math.inf
