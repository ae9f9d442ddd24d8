"""Shares of limits that are divided elsewhere: requested while there are calls, renewed, and returned afterwards.

Without an answer a user of a limit keeps to a static part of it, and the request is repeated. Who divides the limit is
up to the subclass: the limiter workflow of a fleet, or the supervisor of a command's processes.
"""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Protocol

from temporalio.client import RPCError, WorkflowUpdateFailedError

from schemas.messages.limits import Lease, LeaseRequest, PerMinute
from stages.limits.fleet_share import Demand, Rates
from stages.limits.provider_queue import clock

log = logging.getLogger("tandem.leases")
_ANSWER_S = 4.0


class LimitUser(Protocol):
    """One limit where it is used: how much of it, and the share that it gets."""

    @property
    def limit(self) -> Rates:
        """The limit of the specs."""

    def in_use(self, now: float) -> bool:
        """True while there are calls, or were just now."""

    def demand(self, now: float) -> Demand:
        """Return the demand since the last call of this method."""

    def grant(self, share: Rates, until: float) -> None:
        """Set the share, valid until a time (monotonic)."""

    def end_grant(self) -> None:
        """End the share."""

    async def settled(self) -> None:
        """Wait until no more than the last share is used."""


class SharedLimits(Protocol):
    """The limits of a process. `share` sets what is called when one of them is used."""

    def share(self, request_share: Callable[[], None]) -> None: ...

    def users(self) -> Sequence[tuple[str, LimitUser]]: ...


class LeaseKeeper:
    """Keeps a share of each limit in use, renewed every `again_s`; a share of nothing every `soon_s`."""

    def __init__(self, limits: SharedLimits, *, again_s: float, soon_s: float) -> None:
        self._limits = limits
        self._again_s, self._soon_s = again_s, soon_s
        self._name = uuid.uuid4().hex
        self._needed = asyncio.Event()
        self._kept: dict[str, asyncio.Task[None]] = {}
        limits.share(self._needed.set)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        """Serve requests within the block, where the requester is also a server."""
        yield

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        """Send a request. Raises TimeoutError, RPCError, WorkflowUpdateFailedError."""
        raise NotImplementedError

    async def run(self) -> None:
        """Run until cancelled; then return every share. Nothing is requested or served before a limit is used."""
        await self._needed.wait()
        async with self._serving():
            try:
                while True:
                    self._needed.clear()
                    for key, user in self._limits.users():
                        if key not in self._kept:
                            self._kept[key] = asyncio.create_task(self._keep(key, user))
                    await self._needed.wait()
            finally:
                kept = list(self._kept.values())
                for task in kept:
                    task.cancel()
                await asyncio.gather(*kept, return_exceptions=True)

    async def _keep(self, key: str, user: LimitUser) -> None:
        """Hold a share for as long as there are calls."""
        held: Lease | None = None
        try:
            while user.in_use(clock()):
                began = clock()
                lease = await self._ask(key, user, held)
                if lease is None:
                    await asyncio.sleep(self._soon_s)
                    continue
                share = rates_of(lease.share)
                user.grant(share, began + lease.seconds / 2)
                less = held is not None and _less(lease.share, held.share)
                held = lease
                if less:  # the others wait for the confirmation of a smaller share
                    await user.settled()
                else:
                    await asyncio.sleep(self._again_s if min(share.requests, share.tokens) > 0 else self._soon_s)
        finally:
            del self._kept[key]
            user.end_grant()
            if held is not None:
                with contextlib.suppress(TimeoutError, RPCError, WorkflowUpdateFailedError):
                    request = LeaseRequest(worker=self._name, leaving=True)
                    async with asyncio.timeout(_ANSWER_S / 2):
                        await self._update(key, request)

    async def _ask(self, key: str, user: LimitUser, held: Lease | None) -> Lease | None:
        demand = user.demand(clock())
        request = LeaseRequest(
            worker=self._name,
            limit=per_minute(user.limit),
            used=per_minute(demand.used),
            hungry=demand.hungry,
            holds=held.number if held is not None else 0,
        )
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._update(key, request)
        except (TimeoutError, RPCError, WorkflowUpdateFailedError) as exc:
            log.warning("%s: no share of the limit (%s); keeping to a part of it", key, type(exc).__name__)
            return None


def per_minute(rates: Rates) -> PerMinute:
    return PerMinute(
        requests=None if rates.requests == inf else rates.requests,
        tokens=None if rates.tokens == inf else rates.tokens,
    )


def rates_of(limit: PerMinute) -> Rates:
    return Rates(*(inf if rate is None else rate for rate in (limit.requests, limit.tokens)))


def _less(share: PerMinute, held: PerMinute) -> bool:
    pairs = ((share.requests, held.requests), (share.tokens, held.tokens))
    return any(now is not None and (before is None or now < 0.95 * before) for now, before in pairs)
