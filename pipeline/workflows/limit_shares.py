"""How a limit is divided among the workers of a fleet. Pure: no Temporal, no clock; times are seconds.

By demand, and nothing is left idle: who was not held back gets what it used and some more, the rest is divided evenly
among those who were. What is given never exceeds the limit, counting what a worker may still be using of an earlier
lease, and a dead one's until it is over.
"""

from collections.abc import Callable, Iterable

from schemas.messages.limits import Lease, Leaseholder, LeaseRequest, LimiterInput, PerMinute

LEASE_S = 10.0
_HEADROOM = 1.25  # over what a worker used that was not held back …
_LEAST = 0.02  # … and this part of the limit in any case

Axis = Callable[[PerMinute], float | None]
AXES: tuple[Axis, ...] = (lambda rates: rates.requests, lambda rates: rates.tokens)


class Shares:
    """Who holds what."""

    def __init__(self, given: LimiterInput) -> None:
        self.holders = dict(given.holders)
        self.number = given.number

    def carried(self) -> LimiterInput:
        return LimiterInput(holders=self.holders, number=self.number)

    def expire(self, now: float) -> None:
        self.holders = {name: holder for name, holder in self.holders.items() if holder.until > now}

    def lease(self, asked: LeaseRequest, now: float) -> Lease:
        """The worker's share from now on."""
        self.expire(now)
        before = self.holders.pop(asked.worker, None)
        self.number += 1
        if asked.leaving:
            return Lease(number=self.number, share=PerMinute(requests=0, tokens=0), seconds=0)
        held = PerMinute(requests=0, tokens=0)
        if before is not None:
            held = (
                before.lease.share if asked.holds == before.lease.number else _most(before.lease.share, before.before)
            )
        share = PerMinute(requests=self._share(AXES[0], asked), tokens=self._share(AXES[1], asked))
        lease = Lease(number=self.number, share=share, seconds=LEASE_S)
        self.holders[asked.worker] = Leaseholder(
            limit=asked.limit, used=asked.used, hungry=asked.hungry, lease=lease, before=held, until=now + LEASE_S
        )
        return lease

    def _share(self, axis: Axis, asked: LeaseRequest) -> float | None:
        others = self.holders.values()
        limit = _smallest([*(axis(holder.limit) for holder in others), axis(asked.limit)])
        if limit is None:
            return None
        mine = _wanted(axis, asked, limit)
        wanted = [_wanted(axis, holder, limit) for holder in others]
        fair = _level([*wanted, mine], limit)
        target = min(mine, fair)
        if target < fair:  # nobody is held back: what is left is headroom for all
            idle = limit - sum(min(one, fair) for one in (*wanted, mine))
            target += max(0.0, idle) / (len(wanted) + 1)
        given = sum(max(axis(holder.lease.share) or 0.0, axis(holder.before) or 0.0) for holder in others)
        return max(0.0, min(target, limit - given))


def _wanted(axis: Axis, of: Leaseholder | LeaseRequest, limit: float) -> float:
    used = axis(of.used) or 0.0
    return limit if of.hungry else min(limit, used * _HEADROOM + limit * _LEAST)


def _level(wanted: list[float], limit: float) -> float:
    """The most that each may have so that all together have the limit, those who want less leaving it to the others."""
    left = limit
    ordered = sorted(wanted)
    for at, one in enumerate(ordered):
        even = left / (len(ordered) - at)
        if one >= even:
            return even
        left -= one
    return limit


def _smallest(limits: Iterable[float | None]) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _most(one: PerMinute, other: PerMinute) -> PerMinute:
    requests, tokens = ((axis(one), axis(other)) for axis in AXES)
    return PerMinute(
        requests=None if None in requests else max(requests[0] or 0.0, requests[1] or 0.0),
        tokens=None if None in tokens else max(tokens[0] or 0.0, tokens[1] or 0.0),
    )
