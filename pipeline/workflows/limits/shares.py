"""Divide a limit among the workers of a fleet. Pure: no Temporal, no clock; times are seconds.

By demand, and nothing is left idle: a worker that was not held back gets its usage and some more, and the workers that
were held back share the rest evenly. The sum of the shares never exceeds the limit; it includes the earlier lease that
a worker may still be using, and the lease of a dead worker until it expires.
"""

from collections.abc import Callable, Iterable

from schemas.messages.limits import Lease, Leaseholder, LeaseRequest, LimiterInput, PerMinute

LEASE_S = 10.0
_HEADROOM = 1.25  # a worker that was not held back gets this multiple of its usage …
_LEAST = 0.02  # … plus this part of the limit

Axis = Callable[[PerMinute], float | None]
AXES: tuple[Axis, ...] = (lambda rates: rates.requests, lambda rates: rates.tokens)


class Shares:
    """The leases of all workers on one limit."""

    def __init__(self, state: LimiterInput) -> None:
        self.holders = dict(state.holders)
        self.number = state.number

    def carried(self) -> LimiterInput:
        return LimiterInput(holders=self.holders, number=self.number)

    def expire(self, now: float) -> None:
        self.holders = {name: holder for name, holder in self.holders.items() if holder.until > now}

    def lease(self, request: LeaseRequest, now: float) -> Lease:
        """Return the worker's new share."""
        self.expire(now)
        before = self.holders.pop(request.worker, None)
        self.number += 1
        if request.leaving:
            return Lease(number=self.number, share=PerMinute(requests=0, tokens=0), seconds=0)
        held = PerMinute(requests=0, tokens=0)
        if before is not None:
            held = (
                before.lease.share if request.holds == before.lease.number else _most(before.lease.share, before.before)
            )
        share = PerMinute(requests=self._share(AXES[0], request), tokens=self._share(AXES[1], request))
        lease = Lease(number=self.number, share=share, seconds=LEASE_S)
        self.holders[request.worker] = Leaseholder(
            limit=request.limit, used=request.used, hungry=request.hungry, lease=lease, before=held, until=now + LEASE_S
        )
        return lease

    def _share(self, axis: Axis, request: LeaseRequest) -> float | None:
        others = self.holders.values()
        limit = _smallest([*(axis(holder.limit) for holder in others), axis(request.limit)])
        if limit is None:
            return None
        demand = _demand(axis, request, limit)
        demands = [_demand(axis, holder, limit) for holder in others]
        fair = _level([*demands, demand], limit)
        share = min(demand, fair)
        if share < fair:  # nobody is held back: what is left is headroom for all
            idle = limit - sum(min(one, fair) for one in (*demands, demand))
            share += max(0.0, idle) / (len(demands) + 1)
        leased = sum(max(axis(holder.lease.share) or 0.0, axis(holder.before) or 0.0) for holder in others)
        return max(0.0, min(share, limit - leased))


def _demand(axis: Axis, worker: Leaseholder | LeaseRequest, limit: float) -> float:
    used = axis(worker.used) or 0.0
    return limit if worker.hungry else min(limit, used * _HEADROOM + limit * _LEAST)


def _level(demands: list[float], limit: float) -> float:
    """Return the cap per worker at which all together use the limit; what one does not need goes to the others."""
    left = limit
    ordered = sorted(demands)
    for index, demand in enumerate(ordered):
        even = left / (len(ordered) - index)
        if demand >= even:
            return even
        left -= demand
    return limit


def _smallest(limits: Iterable[float | None]) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _most(one: PerMinute, other: PerMinute) -> PerMinute:
    requests, tokens = ((axis(one), axis(other)) for axis in AXES)
    return PerMinute(
        requests=None if None in requests else max(requests[0] or 0.0, requests[1] or 0.0),
        tokens=None if None in tokens else max(tokens[0] or 0.0, tokens[1] or 0.0),
    )
