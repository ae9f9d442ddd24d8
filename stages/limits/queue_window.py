"""How many calls at once a server takes before they only queue there, found from their latency. No I/O, no clock.

Servers of one's own (vLLM, llama.cpp, Ollama) refuse nothing: beyond what they work on at once, calls wait inside, and
the provider's limits say nothing of it.
"""

import math
from dataclasses import dataclass, field
from math import inf

_FIRST, _LEAST, _MOST = 8, 16, 128  # calls in a cohort: of the first one, then as many as the window, within bounds
_NEVER = -1  # of the calls of a cohort: it is not judged
_KNOWN = 0.75  # of a cohort that is answered, when it is judged: its middle half is known then
_QUARTILES = 1.349  # between the quartiles of a normal distribution, in standard deviations
_MIDDLE = 1.1  # the standard error of the mean of the middle half, in that of the mean
_SURE = 4.0  # standard errors
_LONG, _HIGH, _CALM = math.log(2), math.log(1.4), math.log(1.2)  # above the base: a queue; one in a window; none
_JUDGES, _FEWEST = 3, 4.0  # cohorts before the first trial; calls in a window
_MOST_STEP, _LEAST_STEP = 1.0, 0.1  # of a raise, in doublings
_ROOM = 1.1  # so that a server has the next call at hand
_USED = 0.8  # of the window: fewer calls do not raise it
_DOWN, _UP, _SPREAD = 0.3, 0.02, 0.3  # weights of a cohort in the base, if it is below or above it, and in the spread
_NEAR = 1.1  # times the window: a ceiling that is no longer searched for
_FELL, _DEAR_REST = math.log(1.25), 16  # a raise by which the server answered so much less; cohorts before the next one
_MOST_RAISE_REST, _DOUBT_REST, _MOST_DOUBT_REST = 64, 32, 1_024  # cohorts


@dataclass(eq=False)
class Cohort:
    """Calls that were sent one after another: how many were in flight, and how long those took that are answered."""

    size: int
    changes: int = 0  # of the window, before they were sent
    sent: int = 0
    in_flight: int = 0  # summed over the calls when they were sent
    gone: int = 0  # without an answer
    judged: bool = False
    latencies: list[float] = field(default_factory=list)

    @property
    def is_known(self) -> bool:
        return self.sent == self.size and len(self.latencies) >= _KNOWN * (self.size - self.gone)

    def middle(self) -> tuple[float, float]:
        """Return the mean of the logarithms of the middle half of the latencies, and their spread as a standard
        deviation. Latencies that are not known yet are longer than those."""
        found = sorted(self.latencies)
        whole = self.size - self.gone
        half = [math.log(max(1e-4, one)) for one in found[whole // 4 : max(whole // 4 + 1, 3 * whole // 4)]]
        return sum(half) / len(half), (half[-1] - half[0]) / _QUARTILES


class QueueWindow:
    """The calls that may be in flight at once: `limit`, infinite while nothing queues.

    The usual latency of a cohort of calls is compared with the base, the shortest of late. Where it is twice as long,
    and that is no chance, the window shrinks to what fills the server without a queue (Little's law: the calls that it
    answers a second, times the base). That is a trial. If latency does not become shorter, there was no queue: the
    longer latency is the base, the window is as before, and the next trial comes later, unless latency grows at once
    with the window. Else the window is raised while latency is near the base: doubled at first, by less after each
    raise that made a queue, which is taken back, and never past the middle of the way to what was too much (the
    ceiling). At the ceiling the next raise waits; long, if the last one made the server answer less. Calls that do not
    use the window do not raise it.

    Latencies are compared by the mean of the logarithms of their middle half, which long answers do not move. Unless it
    `watches`, nothing is limited.
    """

    def __init__(self, *, watches: bool = True) -> None:
        self.limit = inf
        self._watches = watches
        self._cohort = Cohort(_FIRST)
        self._changes = 0
        self._most = inf
        self._judged = 0
        self._base: float | None = None
        self._spread = self._base_spread = 0.0
        self._error = 0.0  # of the base
        self._before = inf  # the window before the last change
        self._trial: float | None = None  # the latency before the window shrank, while that is on trial
        self._raised = False
        self._restored = False  # the window is as before a trial, and no cohort has shown yet what that does
        self._dear = False  # the last raise that was taken back made the server slower
        self._ceiling = inf  # the fewest calls in flight that were seen to be too many
        self._calm = 0  # cohorts since the last raise
        self._step, self._raise_rest = _MOST_STEP, 1
        self._doubt_rest = self._doubt_in = 0

    def sent(self, in_flight: int) -> Cohort | None:
        """Record that a call is sent, the last of so many in flight. Returns its cohort."""
        if not self._watches:
            return None
        cohort = self._cohort
        cohort.sent += 1
        cohort.in_flight += in_flight
        if cohort.sent == cohort.size:
            self._cohort = Cohort(self._next_size(cohort.size), self._changes)
        return cohort

    def _next_size(self, size: int) -> int:
        width = min(self.limit, self._most)
        return min(2 * max(_FIRST, size), max(_LEAST, _MOST if width == inf else min(_MOST, int(width))))

    def ended(self, cohort: Cohort | None, latency_s: float | None, most: float) -> None:
        """Record the end of a call, None without an answer; `most`: the calls that other limits allow. A cohort is
        judged as soon as it is known, unless the window has changed since."""
        if cohort is None:
            return
        if latency_s is None:
            cohort.gone += 1
        else:
            cohort.latencies.append(latency_s)
        if cohort.judged or not cohort.is_known:
            return
        cohort.judged = True
        self._most, before = most, self.limit
        if cohort.latencies and cohort.changes == self._changes:
            self._judge(cohort, most)
        if self.limit != before:
            self._changes += 1
            # The calls that fill a larger window are answered while it fills, and say nothing of it.
            filling = int(self.limit - before) if before < self.limit < inf else 0
            self._cohort = Cohort(filling, _NEVER) if filling else Cohort(self._next_size(_MOST), self._changes)

    def _judge(self, cohort: Cohort, most: float) -> None:
        usual, spread = cohort.middle()
        in_flight = cohort.in_flight / cohort.sent
        self._judged += 1
        self._spread += (_SPREAD if self._base is not None else 1.0) * (spread - self._spread)
        error = _MIDDLE * max(spread, self._spread) / math.sqrt(cohort.size)
        if self._base is None:
            self._base, self._base_spread, self._error = usual, spread, error
            return
        above = usual - self._base
        if self._trial is not None:
            self._end_trial(usual, in_flight, above)
        else:
            much = _LONG if self.limit == inf else _CALM if self._raised else _HIGH
            if above > max(much, _SURE * math.hypot(error, self._error)):
                if self._restored:  # there is a queue after all
                    self._doubt_in = 0
                self._lower(usual, in_flight, above)
            elif self.limit < inf:
                self._raise(in_flight, above, most)
            self._restored = False
        self._doubt_in = max(0, self._doubt_in - 1)
        self._base += (_DOWN if usual < self._base else _UP) * (usual - self._base)
        self._error = min(self._error, error)
        if above < _CALM:
            self._base_spread += _SPREAD * (spread - self._base_spread)

    def _lower(self, usual: float, in_flight: float, above: float) -> None:
        """Take back a raise, or try a smaller window."""
        if self._raised:
            self._ceiling = min(self._ceiling, self.limit)
            self._dear = math.log(self._before / in_flight) + above > _FELL  # by Little's law
            self.limit, self._raised, self._calm = self._before, False, 0
            self._step = max(_LEAST_STEP, self._step / 2)
            self._raise_rest = min(2 * self._raise_rest, _MOST_RAISE_REST)
            if self._dear and not self._searches:
                self._step, self._raise_rest = _LEAST_STEP, max(self._raise_rest, _DEAR_REST)
            self._doubt_rest = 0
        elif self._doubt_in == 0 and self._judged > _JUDGES and min(self.limit, in_flight) > _FEWEST:
            self._before = self.limit
            self._try(usual, in_flight, above)

    def _try(self, usual: float, in_flight: float, above: float) -> None:
        """Shrink the window to what fills the server. What queues waits for the mean of the work before it, which is
        more than the usual latency without a queue, the more so the more latencies differ."""
        self._trial = usual
        self._ceiling = min(self._ceiling, in_flight)
        mean = math.exp(self._base_spread**2 / 2)  # of the work, in usual latencies
        self.limit = max(_FEWEST, _ROOM * min(self.limit, in_flight) * mean / (mean + math.exp(above) - 1))

    def _end_trial(self, usual: float, in_flight: float, above: float) -> None:
        assert self._trial is not None
        assert self._base is not None
        if usual > self._trial + _CALM:  # the queue was still growing when it was seen
            self._try(usual, in_flight, above)
            return
        if usual > (self._trial + self._base) / 2:
            self.limit, self._base, self._ceiling = self._before, usual, inf
            self._restored = True
            self._doubt()
        elif self._before == inf:
            self._step, self._raise_rest, self._calm = _MOST_STEP, 1, 0
        self._trial = None

    @property
    def _searches(self) -> bool:
        """True while there is room between the window and what was too much."""
        return self._ceiling > _NEAR * self.limit

    def _raise(self, in_flight: float, above: float, most: float) -> None:
        """Raise a window that is used, if latency is near the base, and the last raise long enough ago."""
        if in_flight < _USED * self.limit:
            return
        if self._raised:
            self._raised = False
            if self.limit >= self._ceiling:
                self._ceiling = inf
            if not self._dear or self._ceiling == inf:
                self._step = min(_MOST_STEP, 2 * self._step)
                self._raise_rest = max(1, self._raise_rest // 2)
        if above > _CALM:
            return
        self._calm += 1
        if self._calm < (1 if self._searches else self._raise_rest):
            return
        raised = self.limit * 2.0**self._step
        if self._searches:
            raised = min(raised, math.sqrt(self.limit * self._ceiling))
        self._before, self._raised, self._calm = self.limit, True, 0
        self.limit = max(self.limit + 1, raised)
        if self.limit >= most:
            self.limit = inf
            self._doubt()

    def _doubt(self) -> None:
        """Try no smaller window for a while: there was no queue."""
        self._doubt_rest = min(max(_DOUBT_REST, 2 * self._doubt_rest), _MOST_DOUBT_REST)
        self._doubt_in = self._doubt_rest
