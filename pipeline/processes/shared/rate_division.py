"""Division of rates among the processes of a command: the command has one share of a fleet's limit, and its children
lease parts of that over their channels, without a delay.

The same rules as in the limiter workflow hold (`pipeline.workflows.limits.shares`): by demand, and the sum of the parts
never exceeds the share. A child that has ended holds nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from pipeline.limits.lease_keeper import LimitUser, per_minute, rates_of
from pipeline.processes.channel import Message
from pipeline.workflows.limits.shares import AXES, LEASE_S, Shares
from schemas.messages.limits import Lease, LeaseRequest, LimiterInput
from stages.limits.fleet_share import STATIC_SHARE, UNLIMITED, Demand, Rates
from stages.limits.provider_queue import clock

_FIRST_S = 1.0  # the longest wait for the command's first share
_ROUNDING = 1e-6


@dataclass
class CommandLimit:
    """One limit of a command, as its children use it."""

    _shares: Shares = field(default_factory=lambda: Shares(LimiterInput()))
    _limits: dict[str, Rates] = field(default_factory=dict)
    _share: Rates = UNLIMITED
    _until: float = -inf
    _first_until: float | None = None
    _granted: asyncio.Event = field(default_factory=asyncio.Event)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def lease(self, request: LeaseRequest) -> Lease:
        """Return a child's part of the command's share."""
        if request.leaving:
            return self._leave(request.worker)
        await self._first_share()
        now = clock()
        part = self._share if now < self._until else self.limit.part(STATIC_SHARE)
        limit = per_minute(self.limit.smaller(part))
        lease = self._shares.lease(request.model_copy(update={"limit": limit}), now)
        self._changed.set()
        return lease

    def note(self, request: LeaseRequest) -> None:
        """Note the limit of a child, before it is answered."""
        if not request.leaving:
            self._limits[request.worker] = rates_of(request.limit)

    def remove(self, child: str) -> None:
        """Free the parts of a child that has ended."""
        for worker in [worker for worker in self._limits if worker.startswith(child)]:
            self._leave(worker)

    def _leave(self, worker: str) -> Lease:
        self._limits.pop(worker, None)
        self._changed.set()
        return self._shares.lease(LeaseRequest(worker=worker, leaving=True), clock())

    async def _first_share(self) -> None:
        if self._first_until is None:
            self._first_until = clock() + _FIRST_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._first_until - clock())):
                await self._granted.wait()

    # As a user of the fleet's limit ---------------------------------------------------------------------------------

    @property
    def limit(self) -> Rates:
        smallest = UNLIMITED
        for limit in self._limits.values():
            smallest = smallest.smaller(limit)
        return smallest

    def in_use(self, now: float) -> bool:
        self._shares.expire(now)
        waiting = self._first_until is not None and not self._granted.is_set()
        return bool(self._shares.holders) or (waiting and bool(self._limits))

    def demand(self, now: float) -> Demand:
        self._shares.expire(now)
        holders = self._shares.holders.values()
        requests, tokens = (sum(axis(holder.used) or 0.0 for holder in holders) for axis in AXES)
        return Demand(Rates(requests, tokens), not holders or any(holder.hungry for holder in holders))

    def grant(self, share: Rates, until: float) -> None:
        self._share, self._until = share, until
        self._granted.set()

    def end_grant(self) -> None:
        self._until, self._first_until = -inf, None
        self._granted.clear()

    async def settled(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEASE_S):  # then the leases of children that say nothing are over
                while not self._fits():
                    self._changed.clear()
                    await self._changed.wait()

    def _fits(self) -> bool:
        self._shares.expire(clock())
        holders = self._shares.holders.values()
        held = (sum(max(axis(h.lease.share) or 0.0, axis(h.before) or 0.0) for h in holders) for axis in AXES)
        allowed = (self._share.requests, self._share.tokens)
        return all(used <= most + _ROUNDING for used, most in zip(held, allowed, strict=True))


@dataclass
class CommandLimits:
    """The limits of a command, by key. Children are numbers."""

    _limits: dict[str, CommandLimit] = field(default_factory=dict)
    _request_share: Callable[[], None] = lambda: None

    def share(self, request_share: Callable[[], None]) -> None:
        self._request_share = request_share

    def users(self) -> list[tuple[str, LimitUser]]:
        return list(self._limits.items())

    async def lease(self, child: int, message: Message) -> Message:
        """Answer a child's request for its part."""
        request = LeaseRequest.model_validate(message.data["request"])
        request = request.model_copy(update={"worker": f"{_prefix(child)}{request.worker}"})
        limit = self._limits.setdefault(message.data["key"], CommandLimit())
        limit.note(request)
        self._request_share()
        return Message((await limit.lease(request)).model_dump())

    def remove(self, child: int) -> None:
        """Free the parts of a child that has ended."""
        for limit in self._limits.values():
            limit.remove(_prefix(child))


def _prefix(child: int) -> str:
    return f"{child}/"
