"""An outage is told from single failures, and waited out by one call at a time. No I/O, no clock of its own."""

from math import inf

# In a row, over all calls of the process; one in five that fails at random gets there once in ten million calls.
_OUTAGE = 10
_FIRST_PROBE_S, _LONGEST_PROBE_S = 1.0, 10.0


class Breaker:
    """Closed: calls go. Open: none goes until `probe_at`, then one; its end closes the breaker, or opens it anew."""

    def __init__(self) -> None:
        self.why = ""
        self.probe_at = -inf
        self._failures = 0
        self._open = False
        self._probing = False
        self._interval = _FIRST_PROBE_S

    @property
    def open(self) -> bool:
        return self._open

    def wait(self, now: float) -> float | None:
        """Seconds until a call may go; None while a probe is out, whose end is told."""
        if not self._open:
            return 0.0
        return None if self._probing else max(0.0, self.probe_at - now)

    def took(self) -> bool:
        """A call goes out. True where it is the probe."""
        self._probing = self._open
        return self._open

    def answered(self) -> None:
        """The provider said something: it is there."""
        self._failures, self._open, self._probing, self._interval = 0, False, False, _FIRST_PROBE_S

    def failed(self, why: str, now: float, *, probe: bool) -> bool:
        """A call failed as in an outage. True where the breaker opened by it."""
        self._failures += 1
        if not probe and (self._open or self._failures < _OUTAGE):
            return False
        if probe:
            self._interval = min(2 * self._interval, _LONGEST_PROBE_S)
        self._open, self._probing, self.why = True, False, why
        self.probe_at = now + self._interval
        return True

    def lost(self) -> None:
        """The probe was cancelled; the next call is one."""
        self._probing = False
