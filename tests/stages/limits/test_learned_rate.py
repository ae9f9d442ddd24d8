"""Limits that a provider does not name: found from its refusals, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from stages.limits.last_minute import LastMinute
from stages.limits.learned_rate import LearnedRate
from stages.limits.limiter import Limiters
from stages.limits.pacing import Pace
from stages.limits.provider_queue import ProviderQueue
from tests.stages.limits.hidden import CHANGES, SHAPES, Cell, Change, Provider, Shape, TokenBucket, measure
from tests.stages.virtual import clock, virtually

# A window that is doubled is found by a refusal, which takes a window that is full first.
SLOWER = {(60, "sliding", "doubled"), (600, "sliding", "doubled"), (600, "fixed", "doubled")}


@pytest.mark.parametrize("hints", ["no hints", "Retry-After", "headers"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("per_minute", [60, 600])
def test_a_hidden_limit_is_used_with_few_refusals(per_minute: int, shape: Shape, change: Change, hints: str) -> None:
    shares = measure(Cell(shape, per_minute, change, hints == "Retry-After", hints == "headers"))
    if hints != "headers" and (per_minute, shape, change) in SLOWER:
        first, changed = shares
        assert first.holds, str(first)
        assert changed.of_even >= 0.8, str(changed)
    else:
        assert all(share.holds for share in shares), "; ".join(map(str, shares))


@pytest.mark.parametrize("shape", SHAPES)
def test_so_is_one_of_thousands_a_minute(shape: Shape) -> None:
    (share,) = measure(Cell(shape, 6_000))
    assert share.holds, str(share)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_that_share_a_hidden_limit_keep_to_it_together(processes: int) -> None:
    """They know nothing of each other."""

    async def work() -> Provider:
        provider = Provider(Cell("bucket", 600), TokenBucket(600, 1.0))
        limiters = [Limiters().of("key", 16, ramps=True) for _ in range(processes)]

        async def row(number: int) -> None:
            while not provider.stopped:
                await provider.ask(limiters[number])

        rows = [asyncio.create_task(row(number)) for number in range(processes) for _ in range(16)]
        await asyncio.sleep(180)
        provider.stopped = True
        for task in rows:
            task.cancel()
        await asyncio.gather(*rows, return_exceptions=True)
        return provider

    provider = virtually(work())
    steady = 1000 + 60
    accepted, refused = (sum(at > steady for at in times) for times in (provider.accepted, provider.refused))
    assert accepted >= 0.9 * 1200
    assert refused <= 0.05 * accepted


def test_calls_that_are_fewer_than_the_rate_allows_do_not_raise_it() -> None:
    learned, now = LearnedRate(), 0.0
    for call in range(100):
        now = call / 10
        learned.count_call(now)
    learned.record_refusal(now, 1.0, 0.1)
    good = learned.rate(now + 1)
    for _ in range(60):
        now += 60
        learned.count_call(now)
    assert learned.rate(now) < 1.5 * good


def test_a_refusal_before_which_nothing_was_accepted_tells_no_rate() -> None:
    learned = LearnedRate()
    for call in range(8):
        learned.count_call(call / 1000)
    wait = learned.record_refusal(0.02, 0.0, 0.02)
    for _ in range(7):
        learned.record_further_refusal()
    assert learned.rate(0.02 + wait) >= 200


def test_advertised_limits_that_change_change_what_was_learned() -> None:
    learned = LearnedRate()
    for call in range(100):
        learned.count_call(call / 10)
    learned.record_refusal(10.0, 1.0, 0.1)
    before = learned.rate(11.0)
    learned.scale(2.0)
    assert learned.rate(11.0) == pytest.approx(2 * before)


def test_a_change_of_the_rate_does_not_stretch_a_pause() -> None:
    pace = Pace()
    pace.set_rate(100.0, 0.0)
    pace.take(1, 0.0)
    pace.hold(30.0)
    pace.set_rate(1.0, 10.0)
    assert pace.wait(10.0) == pytest.approx(20.0)


def test_the_last_minute_forgets_what_is_older() -> None:
    minute = LastMinute()
    for second in range(300):
        minute.add(2, second)
    assert minute.rate(300.0) == pytest.approx(2.0, rel=0.02)
    assert minute.rate(330.0) == pytest.approx(1.0, rel=0.05)
    assert minute.rate(1000.0) < 0.1


def test_what_a_refusal_costs_does_not_grow_with_the_calls_in_flight() -> None:
    """Five thousand calls in flight, all refused: the queue keeps one state, whatever their number."""

    async def work() -> float:
        limiter = Limiters().of("key", 5_000)
        began = clock()

        async def one() -> None:
            async with limiter.call() as turn:
                await asyncio.sleep(1)
                turn.record_failure("HTTP 429", "rate", 2.0)

        await asyncio.gather(*(one() for _ in range(5_000)))
        return clock() - began

    assert virtually(work()) < 3
    assert ProviderQueue().in_flight == 0
