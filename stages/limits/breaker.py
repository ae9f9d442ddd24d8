"""Detect an outage among single failures, and probe it with one call at a time. No I/O, no clock of its own."""

from math import inf

# In a row, over all calls of the process; if one in five fails at random, this happens once in ten million calls.
_OUTAGE = 10
_FIRST_PROBE_S, _LONGEST_PROBE_S = 1.0, 10.0


class Breaker:
    """Closed: calls go. Open: none goes until `probe_at`, then one; its result closes the breaker, or opens it
    again."""

    def __init__(self) -> None:
        self.cause = ""
        self.probe_at = -inf
        self._failures = 0
        self._open = False
        self._probing = False
        self._interval = _FIRST_PROBE_S

    @property
    def open(self) -> bool:
        return self._open

    def wait(self, now: float) -> float | None:
        """Return seconds until a call may go; None while a probe is in flight."""
        if not self._open:
            return 0.0
        return None if self._probing else max(0.0, self.probe_at - now)

    def start_call(self) -> bool:
        """Record that a call is sent. Returns True if it is the probe."""
        self._probing = self._open
        return self._open

    def record_answer(self) -> None:
        """Record an answer: the provider is available."""
        self._failures, self._open, self._probing, self._interval = 0, False, False, _FIRST_PROBE_S

    def record_failure(self, cause: str, now: float, *, probe: bool) -> bool:
        """Record a failure as in an outage. Returns True if it opened the breaker."""
        self._failures += 1
        if not probe and (self._open or self._failures < _OUTAGE):
            return False
        if probe:
            self._interval = min(2 * self._interval, _LONGEST_PROBE_S)
        self._open, self._probing, self.cause = True, False, cause
        self.probe_at = now + self._interval
        return True

    def record_cancelled(self) -> None:
        """Record that the probe was cancelled; the next call is one."""
        self._probing = False
