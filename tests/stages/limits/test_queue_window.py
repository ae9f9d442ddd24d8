"""Servers that queue instead of refusing: how many calls at once they take is found from latency, in virtual time."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import pytest

from stages.limits.limiter import Limiter, Limiters
from tests.stages.virtual import clock, virtually

MANY = 10**6
Service = Callable[[random.Random, float], float]


def answers_of(spread: float, mean: float = 1.0) -> Service:
    """Seconds of work, log-normal: answers differ in length."""
    return lambda rng, at: mean * math.exp(rng.gauss(-spread * spread / 2, spread))


@dataclass
class Queueing:
    """Works on so many calls at once; the others wait inside. Above `cliff` calls in all, each takes twice as long."""

    slots: Callable[[float], int]
    service: Service
    cliff: int = MANY
    seed: int = 1
    began: float = field(default_factory=clock)
    inside: int = 0
    busy: int = 0
    queue: deque[asyncio.Future[None]] = field(default_factory=deque)
    answered: list[tuple[float, float]] = field(default_factory=list)  # when, and after how long

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    async def ask(self, limiter: Limiter) -> None:
        async with limiter.call(200) as turn:
            sent = clock()
            self.inside += 1
            await self._take_slot()
            await asyncio.sleep(self.service(self.random, sent - self.began) * (2 if self.inside > self.cliff else 1))
            self.busy -= 1
            self.inside -= 1
            while self.queue and self.busy < self.slots(clock() - self.began):
                self.busy += 1
                self.queue.popleft().set_result(None)
            turn.record_answer(50, 50)
            self.answered.append((clock() - self.began, clock() - sent))

    async def _take_slot(self) -> None:
        """First come, first served."""
        if not self.queue and self.busy < self.slots(clock() - self.began):
            self.busy += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.queue.append(turn)
        await turn

    def rate(self, begin: float, end: float) -> float:
        return sum(begin <= at < end for at, _ in self.answered) / (end - begin)

    def median(self, begin: float, end: float) -> float:
        return median(took for at, took in self.answered if begin <= at < end)


def measured(
    slots: int | Callable[[float], int], service: Service, *, rows: int = 256, seconds: float = 60.0,
    watches: bool = True, cliff: int = MANY, processes: int = 1, seed: int = 1,
) -> Queueing:  # fmt: skip
    """A server after so many rows asked it for so long, without pause."""

    async def work() -> Queueing:
        given = slots if callable(slots) else (lambda at: slots)
        server = Queueing(given, service, cliff, seed)
        limiters = [Limiters().of("key", rows // processes, ramps=watches) for _ in range(processes)]

        async def row(number: int) -> None:
            while clock() - server.began < seconds:
                await server.ask(limiters[number % processes])

        async with asyncio.timeout(4 * seconds):
            await asyncio.gather(*(row(number) for number in range(rows)))
        return server

    return virtually(work())


@pytest.mark.parametrize(("slots", "spread"), [(48, 0.0), (48, 0.6), (16, 0.3), (120, 0.6)])
def test_the_slots_of_a_server_are_filled_and_no_more(slots: int, spread: float) -> None:
    server = measured(slots, answers_of(spread), seconds=80)
    alone = math.exp(-spread * spread / 2)  # the median without a queue
    assert server.rate(0, 80) >= 0.95 * slots
    assert server.median(20, 80) <= 1.5 * alone
    assert max(took for _, took in server.answered) < 60, "no call times out"


def test_a_server_whose_throughput_halves_beyond_64_is_kept_below() -> None:
    server = measured(64, answers_of(0.2), cliff=64, seconds=120)
    assert server.rate(30, 120) >= 0.95 * 64
    assert server.median(30, 120) <= 1.1


@pytest.mark.parametrize(("before", "after", "seed"), [(48, 16, 1), (48, 16, 2), (16, 48, 1)])
def test_slots_that_change_in_mid_run_are_found_again(before: int, after: int, seed: int) -> None:
    server = measured(lambda at: before if at < 40 else after, answers_of(0.1), seconds=100, seed=seed)
    assert server.rate(10, 40) >= 0.95 * before
    assert server.rate(60, 100) >= 0.95 * after
    assert server.median(60, 100) <= 1.5


def test_processes_find_their_parts_without_knowing_of_each_other() -> None:
    server = measured(48, answers_of(0.2), processes=4)
    assert server.rate(0, 60) >= 0.95 * 48
    assert server.median(30, 60) <= 2.5


@pytest.mark.parametrize(("rows", "spread"), [(8, 0.6), (64, 0.6), (64, 1.0)])
def test_a_healthy_provider_is_not_slowed_by_answers_of_different_lengths(rows: int, spread: float) -> None:
    with_it, without = (
        measured(MANY, answers_of(spread), rows=rows, watches=watches).rate(0, 60) for watches in (True, False)
    )
    assert with_it >= 0.97 * without


@pytest.mark.parametrize(
    "service",
    [
        lambda rng, at: rng.choice((0.5, 5)) * rng.uniform(0.8, 1.2),  # two stages that share a model
        lambda rng, at: (1 if int(at / 20) % 2 else 4) * rng.uniform(0.8, 1.2),  # by turns
        lambda rng, at: (1 + at / 30) * math.exp(rng.gauss(0, 0.3)),  # answers that become longer
    ],
    ids=["two at once", "by turns", "longer and longer"],
)
def test_latency_that_changes_for_other_reasons_costs_little(service: Service) -> None:
    with_it, without = (measured(MANY, service, rows=64, watches=watches).rate(0, 60) for watches in (True, False))
    assert with_it >= 0.9 * without


def test_calls_that_fail_say_nothing_of_latency() -> None:
    async def scene() -> float:
        limiter = Limiters().of("key", 64, ramps=True)

        async def row() -> None:
            for at in range(40):
                async with limiter.call(100) as turn:
                    await asyncio.sleep(0.01 if at % 2 else 1.0)
                    if at % 2:
                        turn.record_failure("HTTP 503")
                    else:
                        turn.record_answer(5, 5)

        await asyncio.gather(*(row() for _ in range(64)))
        return clock()

    began = 1000.0
    assert virtually(scene()) - began < 25, "twenty seconds of answers, and what the ramp takes"
