"""Rates over the processes of commands: a command leases its share of the fleet, its children parts of that; counted
by the provider, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from pipeline.limits.lease_keeper import LeaseKeeper
from pipeline.processes.channel import Message
from pipeline.processes.shared.rate_division import CommandLimits
from pipeline.workflows.limits.shares import Shares
from schemas.messages.limits import Lease, LeaseRequest, LimiterInput
from stages.limits.limiter import Limiters, Rates
from tests.harness.script import Limits
from tests.stages.virtual import Provider, clock, virtually

ROWS = 16


class Fleet(LeaseKeeper):
    """A command's requests to the limiter workflow, some milliseconds away."""

    def __init__(self, limits: CommandLimits, shares: Shares) -> None:
        super().__init__(limits, again_s=2.0, soon_s=0.5)
        self._shares = shares

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        await asyncio.sleep(0.04)
        return self._shares.lease(request, clock())


class Child(LeaseKeeper):
    """A child's requests to its command, at once."""

    def __init__(self, limits: CommandLimits, number: int) -> None:
        self.limiters = Limiters()
        super().__init__(self.limiters, again_s=0.25, soon_s=0.05)
        self._command, self.number = limits, number

    async def _update(self, key: str, request: LeaseRequest) -> Lease:
        await asyncio.sleep(0.001)
        answer = await self._command.lease(self.number, Message({"key": key, "request": request.model_dump()}))
        return Lease.model_validate(answer.data)


@asynccontextmanager
async def kept(keeper: LeaseKeeper) -> AsyncIterator[None]:
    keeping = asyncio.create_task(keeper.run())
    try:
        yield
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def work(child: Child, provider: Provider, rates: Rates, until: float) -> None:
    """A child that always has something to call."""
    limiter = child.limiters.of("model", ROWS, rates)

    async def one() -> None:
        while clock() - provider.began < until:
            await provider.ask(limiter)

    async with kept(child):
        await asyncio.gather(*(one() for _ in range(ROWS)))


async def command(shares: Shares, provider: Provider, rates: Rates, until: float, children: int) -> None:
    limits = CommandLimits()
    async with kept(Fleet(limits, shares)):
        await asyncio.gather(*(work(Child(limits, number), provider, rates, until) for number in range(children)))


def run(commands: int, children: int, limits: Limits, rates: Rates, seconds: float) -> Provider:
    async def all_of_them() -> Provider:
        provider, shares = Provider(limits), Shares(LimiterInput())
        await asyncio.gather(*(command(shares, provider, rates, seconds, children) for _ in range(commands)))
        return provider

    return virtually(all_of_them())


@pytest.mark.parametrize(("commands", "children"), [(1, 1), (1, 4), (1, 8), (3, 2), (2, 4)])
def test_the_limit_is_used_and_never_met(commands: int, children: int) -> None:
    provider = run(commands, children, Limits(requests_per_minute=600), Rates(600), 120)
    assert provider.refused == []
    assert provider.answered(10, 120) / 1100 >= 0.95


def test_so_it_is_with_tokens() -> None:
    provider = run(1, 4, Limits(tokens_per_minute=60_000), Rates(tokens=60_000), 120)
    assert provider.refused == []
    assert provider.answered(10, 120) / 1100 >= 0.95


def test_the_children_of_an_only_command_have_the_limit_at_once() -> None:
    provider = run(1, 4, Limits(requests_per_minute=600), Rates(600), 10)
    assert provider.answered(0, 10) >= 0.9 * 100


def test_no_window_holds_more_than_its_part_and_one_call_of_each_child() -> None:
    provider = run(1, 4, Limits(requests_per_minute=600), Rates(600), 130)
    for begin in range(120):
        assert provider.answered(begin, begin + 10) <= 100 + 4
    for begin in range(70):
        assert provider.answered(begin, begin + 60) <= 600


def test_what_a_child_held_that_has_ended_is_the_others() -> None:
    async def two_children() -> Provider:
        limits, provider, rates = CommandLimits(), Provider(Limits(requests_per_minute=600)), Rates(600)
        async with kept(Fleet(limits, Shares(LimiterInput()))):
            first, second = (
                asyncio.create_task(work(Child(limits, number), provider, rates, 60)) for number in range(2)
            )
            await asyncio.sleep(20)
            first.cancel()
            limits.remove(0)
            await asyncio.gather(first, second, return_exceptions=True)
        return provider

    provider = virtually(two_children())
    assert provider.refused == []
    assert provider.answered(22, 60) / 380 >= 0.95


def test_a_command_that_cannot_reach_the_fleet_keeps_to_a_part() -> None:
    async def alone() -> Provider:
        limits, provider = CommandLimits(), Provider()
        await asyncio.gather(*(work(Child(limits, number), provider, Rates(600), 60) for number in range(4)))
        return provider

    assert 45 <= virtually(alone()).answered(0, 60) <= 62
