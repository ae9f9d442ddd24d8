"""A limit divided among workers: the policy, and fleets of many minutes in virtual time, counted by the provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline.limits.leases import Leases
from pipeline.workflows.limits.shares import LEASE_S, Shares
from schemas.messages.limits import Lease, LeaseRequest, LimiterInput, PerMinute
from stages.limits.limiter import Limiters, Rates
from tests.harness.script import Limits
from tests.stages.virtual import Provider, clock, virtually

LIMIT = PerMinute(requests=600)


def wish(
    worker: str, *, used: float = 0, hungry: bool = True, holds: int = 0, limit: PerMinute = LIMIT
) -> LeaseRequest:
    return LeaseRequest(worker=worker, limit=limit, used=PerMinute(requests=used), hungry=hungry, holds=holds)


class Asking:
    """Workers that ask in turn, each saying which lease it has."""

    def __init__(self) -> None:
        self.shares = Shares(LimiterInput())
        self.held: dict[str, Lease] = {}

    def ask(self, worker: str, now: float, **said: Any) -> float:
        holds = self.held[worker].number if worker in self.held else 0
        lease = self.held[worker] = self.shares.lease(wish(worker, holds=holds, **said), now)
        assert lease.share.requests is not None
        return lease.share.requests

    def round(self, now: float, **of: dict[str, Any]) -> dict[str, float]:
        return {worker: self.ask(worker, now, **said) for worker, said in of.items()}


def test_one_alone_has_all_at_once() -> None:
    assert Asking().ask("a", 0) == 600


def test_a_second_one_gets_its_half_once_the_first_has_said_that_it_has_less() -> None:
    fleet = Asking()
    fleet.ask("a", 0)
    assert fleet.ask("b", 1) == 0
    assert fleet.ask("a", 2) == 300
    assert fleet.ask("b", 2.1) == 0  # the first may not know yet
    assert fleet.ask("a", 2.2) == 300
    assert fleet.ask("b", 2.3) == 300


def test_who_needs_little_leaves_the_rest_to_who_is_held_back() -> None:
    fleet = Asking()
    for now in range(5):
        got = fleet.round(now, a={"used": 100, "hungry": False}, b={}, c={})
    assert got["a"] == pytest.approx(137)
    assert got["b"] == got["c"] == pytest.approx((600 - 137) / 2)


def test_where_nobody_is_held_back_all_have_room() -> None:
    fleet = Asking()
    for now in range(5):
        got = fleet.round(now, a={"used": 100, "hungry": False}, b={"used": 0, "hungry": False})
    assert sum(got.values()) == pytest.approx(600)
    assert got["b"] > 200


def test_a_dead_workers_share_is_free_when_its_lease_is_over() -> None:
    fleet = Asking()
    for now in range(4):
        fleet.round(now, a={}, b={})
    assert fleet.ask("b", 3 + LEASE_S - 0.1) == 300
    assert fleet.ask("b", 3 + LEASE_S + 0.1) == 600


def test_who_leaves_leaves_its_share() -> None:
    fleet = Asking()
    for now in range(4):
        fleet.round(now, a={}, b={})
    fleet.shares.lease(LeaseRequest(worker="a", leaving=True), 4)
    assert fleet.ask("b", 4.1) == 600


def test_the_smallest_limit_holds_while_its_worker_is_there() -> None:
    fleet = Asking()
    for now in range(4):
        got = fleet.round(now, a={"limit": PerMinute(requests=100)}, b={})
    assert sum(got.values()) == pytest.approx(100)


def test_shares_go_on_through_continue_as_new() -> None:
    fleet = Asking()
    for now in range(4):
        fleet.round(now, a={}, b={})
    carried = LimiterInput.model_validate_json(fleet.shares.carried().model_dump_json())
    fleet.shares = Shares(carried)
    assert fleet.round(5, a={}, b={}) == {"a": 300, "b": 300}


# Fleets in virtual time -----------------------------------------------------------------------------------------------


class Coordinator:
    """What stands for the workflow: its policy, some milliseconds away; or nobody, while it is `away`."""

    def __init__(self) -> None:
        self.shares = Shares(LimiterInput())
        self.away = False


class Member(Leases):
    """One process of a fleet, with its limiters."""

    def __init__(self, at: Coordinator) -> None:
        self.limiters = Limiters()
        super().__init__(None, self.limiters, None)  # type: ignore[arg-type]
        self._at = at
        self.dead = False

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        yield

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        if self._at.away or self.dead:
            raise TimeoutError
        await asyncio.sleep(0.02)
        lease = self._at.shares.lease(request, clock())
        await asyncio.sleep(0.02)
        return lease


async def _work(member: Member, provider: Provider, rates: Rates, until: float, rows: int = 32) -> None:
    """A worker that always has something to ask; cancelled, it is killed, and gives nothing back."""
    limiter = member.limiters.of("model", rows, rates)

    async def one() -> None:
        while clock() - provider.began < until:
            await provider.ask(limiter)

    keeping = asyncio.create_task(member.run())
    try:
        await asyncio.gather(*(one() for _ in range(rows)))
    except asyncio.CancelledError:
        member.dead = True
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


def _fleet(limits: Limits, rates: Rates, count: int, seconds: float, *, killed_at: float | None = None) -> Provider:
    async def work() -> Provider:
        provider, at = Provider(limits), Coordinator()
        tasks = [asyncio.create_task(_work(Member(at), provider, rates, seconds)) for _ in range(count)]
        if killed_at is not None:
            await asyncio.sleep(killed_at)
            tasks[0].cancel()
        await asyncio.gather(*tasks)
        return provider

    return virtually(work())


def test_when_one_is_killed_the_others_take_its_share_within_seconds() -> None:
    provider = _fleet(Limits(requests_per_minute=600), Rates(600), 3, 90, killed_at=40)
    assert provider.refused == []
    assert provider.answered(20, 40) / 200 >= 0.95
    assert provider.answered(55, 90) / 350 >= 0.95


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_fleet_uses_its_limit_and_never_meets_it(count: int) -> None:
    provider = _fleet(Limits(requests_per_minute=600), Rates(600), count, 180)
    assert provider.refused == []
    assert provider.answered(10, 180) / 1700 >= 0.95


def test_so_does_it_with_tokens() -> None:
    provider = _fleet(Limits(tokens_per_minute=60_000), Rates(tokens=60_000), 3, 180)
    assert provider.refused == []
    assert provider.answered(10, 180) / 1700 >= 0.95


def test_one_alone_has_the_limit_at_once() -> None:
    provider = _fleet(Limits(requests_per_minute=600), Rates(600), 1, 10)
    assert provider.answered(0, 10) >= 0.92 * 100


def test_without_anybody_to_ask_each_keeps_to_a_part() -> None:
    async def work() -> Provider:
        provider, at = Provider(), Coordinator()
        at.away = True
        await _work(Member(at), provider, Rates(600), 60)
        return provider

    provider = virtually(work())
    assert 50 <= provider.answered(0, 60) <= 60


def test_who_cannot_ask_any_more_falls_back_before_its_lease_is_over_for_the_others() -> None:
    async def work() -> Provider:
        provider, at = Provider(), Coordinator()
        working = asyncio.create_task(_work(Member(at), provider, Rates(600), 60))
        await asyncio.sleep(20)
        at.away = True
        await working
        return provider

    provider = virtually(work())
    assert provider.answered(10, 20) >= 95
    assert provider.answered(20 + LEASE_S / 2 + 0.5, 60) <= 0.1 * 350 + 1
