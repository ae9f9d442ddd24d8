"""The requests a second that a provider accepts, learned from its refusals. No I/O, no clock of its own."""

from dataclasses import dataclass
from math import inf

from stages.limits.last_minute import LastMinute

# Before the rate is known, calls start at this one and double. So few accepted calls say little, for so many refusals.
_START, _DOUBLES_S = 200.0, 0.5
_FEW_AT_FIRST, _REFUSALS_AT_FIRST = 8, 3
# At the good rate: after a surprise, and at most, if one refusal may cost so many calls.
_FIRST_S, _FIRST_CALLS = 2.0, 8
_MOST_S, _CALLS_PER_REFUSAL, _MOST_OWED = 10.0, 65, 2
# Then the curve: by _RISE of the rate in the first step, by eight times that in two.
_RISE, _STEP_S, _STEP_CALLS, _LONGEST_STEP_S, _STEPS = 0.07, 2.0, 6, 8.0, 8
_CLOSE = 1.2  # rates that differ by less confirm each other
_OUTGROWN = 2.0  # a pace so many times the rate means another limit, or a window that was not full
_FEW, _SURE = 4, 0.15
_PAUSE_S, _LEAST_PAUSE_S, _LONG_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 0.25, 8.0, 30.0
_SHORT_S = 2.5
# Accepting nothing for so long, and for so many calls at the good rate, means a window.
_WINDOW_S, _WINDOW_CALLS = 4.0, 5
_BELOW = 0.99  # of what a window held
_RAISED, _SCARCE, _EVEN, _PART = 1.8, 0.8, 1.5, 0.2  # of the good rate; of a cycle
_MINUTE_S = 60.0
_IDLE_S, _IDLE_CALLS = 2.0, 3.0


@dataclass(frozen=True)
class _Cycle:
    """Calls accepted since `began`, until some were refused at `refused_at`; the good rate until then, and how many
    refusals had confirmed it."""

    accepted: int
    began: float
    refused_at: float
    good: float
    confirmed: int

    def needs(self, good: float, now: float) -> float:
        """Return the seconds of a pause after which the average is this rate."""
        return self.accepted / good - (now - self.began)


@dataclass
class _Refusal:
    """Refusals of calls that were in flight at once, among `sent` ones since `began`, at a `pace`.

    Nothing is sent between `at` and `until`, a time that the provider `named` or not. `before` is the last cycle in
    which it accepted calls, `again` the number of refusals since then. One took `took` seconds; `owed` is what earlier
    refusals still cost.
    """

    before: _Cycle
    began: float
    sent: int
    at: float
    pace: float
    good: float
    confirmed: int
    owed: float
    again: int
    took: float
    named: bool
    until: float = inf
    refused: int = 1

    @property
    def accepted(self) -> int:
        return max(0, self.sent - self.refused)

    @property
    def cycle(self) -> _Cycle:
        """Return the last cycle in which calls were accepted."""
        if not self.accepted:
            return self.before
        return _Cycle(self.accepted, self.began, self.at, self.good, self.confirmed)

    @property
    def pause(self) -> float:
        return self.until - self.at

    @property
    def even(self) -> bool:
        """True if the calls of the cycle were spread evenly."""
        calm = not self.again and self.pace < _EVEN * self.good
        return calm and self.pause < _PART * (self.until - self.cycle.began)


class LearnedRate:
    """The good rate: the requests a second that a provider accepts.

    **What a refusal tells.** Two bounds. The average since calls began again after the last refusal is below the limit,
    as what had been saved up was used then; the pace of the refused call is above it. The good rate lies between, so
    that each refusal brings the bounds together. While a provider accepts nothing, the cycle goes on and its average
    falls. One that accepts nothing for seconds counts calls in a window; its limit is what it accepted in a minute. A
    refusal before which nothing was accepted tells nothing.

    **What follows.** A pause as long as the provider names, or one after which the average is the good rate. Then calls
    go at the good rate for a while, and from there on ever faster until one is refused: the convex half of the curve of
    CUBIC (RFC 9438, section 4.3), flat at the known limit and steep where it must have changed. The while is short
    after a surprise and doubles with each refusal that confirms the rate, up to what refusals may cost. Calls that are
    fewer than the rate allows do not raise it (as TCP's window by RFC 7661).

    All work is constant in the number of calls.
    """

    def __init__(self) -> None:
        self._good = inf
        self._confirmed = 0
        self._owed = 0.0  # refusals that calls have not paid for yet
        self._flat_s, self._step_s = 0.0, 1.0  # at the good rate, and of one step of the curve
        self._resumed = -inf
        self._used_s = 0.0  # what the calls since then take at the rate
        self._began, self._sent = inf, 0  # of this cycle
        self._last = -inf
        self._minute = LastMinute()
        self._windowed = False
        self._refusals = 0
        self._refusal: _Refusal | None = None

    def rate(self, now: float) -> float:
        since, refusal = max(0.0, now - self._resumed), self._refusal
        if refusal is None:
            return inf
        if self._good == inf:
            return _START * 4.0 ** min(refusal.again, 8) * float(2.0 ** min(since / _DOUBLES_S, 64.0))
        used_s = min(since, 1.5 * self._used_s + _FIRST_S)
        steps = max(0.0, used_s - self._flat_s) / self._step_s
        rate = self._good * (1 + _RISE * steps**3)
        if refusal.again:  # few calls are sent before the first of them may be refused
            rate = min(rate, 2.0 ** min(since / refusal.took, 64.0) / refusal.took)
        return rate

    def count_call(self, now: float) -> None:
        """Count a call. While none is sent a provider's allowance fills up, so a cycle begins after that."""
        rate = self.rate(now)
        if now - self._last > max(_IDLE_S, _IDLE_CALLS / rate):
            self._began, self._sent = max(now, self._resumed), 0
        else:
            self._used_s += 1 / rate
        self._last = now
        self._sent += 1
        self._owed = max(0.0, self._owed - 1 / _CALLS_PER_REFUSAL)
        self._minute.add(1, now)

    def record_refusal(self, now: float, wait: float, took: float) -> float:
        """Record the first refusal among calls in flight. It came after `took` seconds and names a `wait`, or 0.
        Returns the seconds until the next call."""
        self._refusals += 1
        self._minute.add(-1, now)
        last, pace, took = self._refusal, self.rate(now), max(0.01, took)
        began, sent = self._began, self._sent
        if now - began > 2 * _MINUTE_S:  # of a long cycle the end counts
            began, sent = now - _MINUTE_S, round(_MINUTE_S * self._minute.rate(now))
        again = last.again + 1 if last is not None and self._is_scarce(last, now, pace * took) else 0
        before = _Cycle(0, began, now, inf, 0) if last is None else last.cycle
        refusal = self._refusal = _Refusal(
            before, began, sent, now, pace, self._good, self._confirmed, self._owed, again, took, named=wait > 0
        )
        if not wait or (again and self._windowed):
            wait = max(wait, self._pause(refusal))
        refusal.until = now + wait
        self._conclude(refusal)
        self._resumed = self._last = self._began = refusal.until
        self._used_s, self._sent = 0.0, 0
        return wait

    def record_further_refusal(self) -> None:
        """Record another refusal of the same calls."""
        if self._refusal is not None:
            self._refusal.refused += 1
            self._minute.add(-1, self._refusal.at)
            self._conclude(self._refusal)

    def scale(self, factor: float) -> None:
        """Change the rate by a factor: the provider changed its limit so."""
        self._good *= factor

    def _is_scarce(self, last: _Refusal, now: float, in_flight: float) -> bool:
        """Return True if hardly a call was accepted since the last refusal. What was used of a window unevenly comes
        back unevenly."""
        few = 2 + 2 * min(in_flight, 50.0)
        if self._windowed:
            short = last.again or last.pause <= max(_SHORT_S, 4 / self._good)
            few = max(few, _SCARCE * self._good * (now - (last.at if short else last.until)))
        return self._sent <= few

    # The pause ------------------------------------------------------------------------------------------------------

    def _pause(self, refusal: _Refusal) -> float:
        """Return how long to wait after a refusal that names no time."""
        cycle = refusal.before if refusal.again else refusal.cycle
        if cycle.good == inf:
            return min(_LONG_PAUSE_S, max(_PAUSE_S, (refusal.at - cycle.refused_at) / 3))
        least = max(_LEAST_PAUSE_S, 1 / cycle.good)
        if refusal.again:
            return max(least, self._next_probe(refusal, cycle, least))
        good, now = cycle.good, refusal.at
        if self._windowed:
            minute = self._minute.rate(now)
            return max(least, min(cycle.needs(minute if minute > _RAISED * good else good, now), _LONGEST_PAUSE_S))
        needed = cycle.needs(good, now)
        return max(least, needed if needed <= max(_PAUSE_S, (now - cycle.began) / 10) else _PAUSE_S)

    def _next_probe(self, refusal: _Refusal, cycle: _Cycle, least: float) -> float:
        needed = cycle.needs(self._good if self._windowed else cycle.good, refusal.at)
        near = 0 < needed < (refusal.at - cycle.began) / 4
        part = min(needed if near else abs(needed) / 2, _LONGEST_PAUSE_S)
        if self._windowed:
            doubled = min(_LONG_PAUSE_S, least * 2.0 ** min(refusal.again - 1, 8))
            return max(doubled, part if needed > 0 else 0.0)
        return max(part, min(_LONG_PAUSE_S, (refusal.at - cycle.refused_at) / 2))

    # The rate -------------------------------------------------------------------------------------------------------

    def _conclude(self, refusal: _Refusal) -> None:
        """Set the good rate, and how long calls keep to it."""
        cycle = refusal.cycle
        little = cycle.good == inf and cycle.accepted < _FEW_AT_FIRST
        if not cycle.accepted or (little and self._refusals <= _REFUSALS_AT_FIRST):
            self._good = inf
            return
        self._good = good = self._found(refusal, cycle)
        blocked = (refusal.until if refusal.named else refusal.at) - cycle.refused_at
        self._windowed = self._windowed or blocked > max(_WINDOW_S, _WINDOW_CALLS / good)
        self._confirmed = cycle.confirmed + 1 if 1 / _CLOSE < good / cycle.good < _CLOSE else 0
        self._owed = min(_MOST_OWED, refusal.owed + refusal.refused)
        most = max(_MOST_S, self._owed * _CALLS_PER_REFUSAL / good)
        self._flat_s = min(most, max(_FIRST_S, _FIRST_CALLS / good) * 2.0 ** min(self._confirmed, 16))
        if self._windowed and not refusal.even and good < _CLOSE * cycle.good:
            self._flat_s = max(self._flat_s, min(_MINUTE_S, refusal.until - cycle.began))
        self._step_s = max(_STEP_S, _STEP_CALLS / good, min(_LONGEST_STEP_S, self._flat_s / _STEPS))
        if little:
            self._flat_s, self._step_s = 0.0, max(0.25, 1 / good)

    def _found(self, refusal: _Refusal, cycle: _Cycle) -> float:
        refused_s, cycle_s = refusal.until - cycle.refused_at, refusal.until - cycle.began
        sure = refusal.named or not refusal.accepted  # a pause of ours may have been too long
        if self._windowed or (sure and refused_s > max(1.5, _PART * cycle_s)):
            return self._of_window(refusal)
        if not refusal.accepted:
            reopened = refusal.until if refusal.named else (refusal.at + refusal.until) / 2
            return cycle.accepted / max(0.05, reopened - cycle.began)
        pause = refusal.pause if refusal.named else min(refusal.pause, max(_PAUSE_S, 1 / refusal.good))
        average = cycle.accepted / max(0.05, refusal.at - cycle.began + pause)
        if refusal.good == inf or pause > max(1.0, 2 / average):
            return average
        known = cycle.confirmed > 0 and cycle.accepted >= _FEW and refusal.pace < _OUTGROWN * refusal.good
        above = min(_OUTGROWN, max(1.0, refusal.pace / average))
        return average * float(above ** (_SURE if known else 0.5))

    def _of_window(self, refusal: _Refusal) -> float:
        """Return the rate of the minute that the window allowed: the one before it accepts calls again, if that is
        known, else before the last refusal."""
        raised = self._minute.rate(refusal.at) > _RAISED * refusal.good
        known = refusal.named or (self._windowed and not refusal.again and not raised)
        return _BELOW * self._minute.rate(max(refusal.at, refusal.until - 2) if known else refusal.at)
