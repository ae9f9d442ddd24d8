"""The limiter against a provider with limits, in virtual time: minutes of calls, counted on the provider's side."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from schemas.errors import FatalModelError
from stages.limits.fleet_share import UNLIMITED
from stages.limits.limiter import Blocked, Limiter, Limiters, Rates
from stages.limits.pacing import Tokens
from stages.limits.provider_queue import ProviderQueue, rows_for
from stages.limits.rate_headers import rates_of
from stages.limits.semaphore import Place
from tests.harness.script import Gate, Limits
from tests.stages.virtual import Provider, clock, crowd, virtually

PER_MINUTE = 600


def limiter(rates: Rates = UNLIMITED, rows: int = 64) -> Limiter:
    return Limiter(rows, rates, ProviderQueue(ramps=True))


def asked(
    limits: Limits, rates: Rates = UNLIMITED, *, seconds: float = 180, rows: int = 64, **given: object
) -> Provider:
    """A provider after so long of rows that always want to ask."""

    async def work() -> Provider:
        provider = Provider(limits, **given)  # type: ignore[arg-type]
        await crowd(provider, limiter(rates, rows), seconds, rows)
        return provider

    return virtually(work())


def utilisation(provider: Provider, begin: float, end: float, per_minute: float = PER_MINUTE) -> float:
    return provider.answered(begin, end) / ((end - begin) * per_minute / 60)


# A limit that the spec names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_s", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("burst_s", [0.3, 1.0, 60.0])
def test_a_limit_is_used_and_never_met(latency_s: float, burst_s: float) -> None:
    limits = Limits(requests_per_minute=PER_MINUTE, burst_s=burst_s)
    provider = asked(limits, Rates(PER_MINUTE), latency_s=latency_s)
    assert provider.refused == []
    assert 0.95 <= utilisation(provider, 5, 180) < 1


@pytest.mark.parametrize("latency_s", [0.02, 0.2, 2.0])
def test_so_is_one_of_tokens_though_nobody_knows_beforehand_what_an_answer_takes(latency_s: float) -> None:
    provider = asked(Limits(tokens_per_minute=60_000), Rates(tokens=60_000), latency_s=latency_s, tokens=100)
    assert provider.refused == []
    assert 0.95 <= utilisation(provider, 5, 180) < 1


def test_calls_are_even_from_the_first_on() -> None:
    provider = asked(Limits(), Rates(PER_MINUTE), seconds=10)
    apart = [later - sooner for sooner, later in zip(provider.ok, provider.ok[1:], strict=False)]
    assert min(apart) == pytest.approx(0.1 / 0.98, rel=0.02)


def test_the_smaller_of_two_runs_limits_holds_for_both_while_both_call() -> None:
    async def work() -> Provider:
        provider, limiters = Provider(Limits(requests_per_minute=PER_MINUTE)), Limiters()
        both = (limiters.of("k", 32, Rates(PER_MINUTE)), limiters.of("k", 32, Rates(10 * PER_MINUTE)))
        await asyncio.gather(*(crowd(provider, one, 60, 32) for one in both))
        return provider

    provider = virtually(work())
    assert provider.refused == []
    assert utilisation(provider, 5, 60) >= 0.95


def test_a_batch_that_comes_later_gets_its_share_of_the_rows_and_calls() -> None:
    async def rows(provider: Provider, one: Limiter, seconds: float, done: list[int]) -> None:
        tasks = set()
        while clock() - provider.began < seconds:
            await one.take_row()
            task = asyncio.create_task(provider.ask(one))
            tasks.add(task)

            def ended(task: asyncio.Task[None]) -> None:
                done.append(1)
                one.leave_row()

            task.add_done_callback(ended)
        await asyncio.gather(*tasks)

    async def work() -> tuple[int, int]:
        provider, limiters = Provider(), Limiters()
        first, second = limiters.of("k", 16), limiters.of("k", 16)
        a: list[int] = []
        b: list[int] = []
        early = asyncio.create_task(rows(provider, first, 30, a))
        await asyncio.sleep(10)
        before = len(a)
        await asyncio.gather(early, rows(provider, second, 30, b))
        return len(a) - before, len(b)

    first, second = virtually(work())
    assert second == pytest.approx(first, rel=0.1)


def test_rows_of_the_partition_opened_first_go_first_and_runs_take_turns() -> None:
    async def work() -> list[str]:
        one = limiter(rows=1)
        begun: list[str] = []
        for _ in range(int(rows_for(1))):
            await one.take_row()

        async def row(name: str, place: Place) -> None:
            await one.take_row(place)
            begun.append(name)

        waiting = []
        for number in range(2):
            for run, opened_at in (("large", 2.0), ("large", 1.0), ("small", 3.0)):
                name = f"{run} {opened_at:.0f}"
                waiting.append(asyncio.create_task(row(name, Place(run, (opened_at, number)))))
                await asyncio.sleep(0)
        waiting[1].cancel()
        for _ in range(len(waiting) - 1):
            one.leave_row()
            await asyncio.sleep(0.01)
        await asyncio.gather(*waiting, return_exceptions=True)
        return begun

    assert virtually(work()) == ["large 1", "small 3", "large 2", "small 3", "large 2"]


def test_a_part_that_is_taken_back_is_free_when_its_calls_are_not_when_its_rows_have_ended() -> None:
    """So that a process whose rows begin some ms later does not wait for the answers to the first one's calls."""

    async def work() -> tuple[int, int, int]:
        queue = ProviderQueue()
        one = Limiter(64, UNLIMITED, queue)
        queue.limit_to(64)
        rows = [asyncio.create_task(one.take_row()) for _ in range(70)]
        await asyncio.gather(*rows)
        calls = []

        async def call() -> None:
            async with one.call(patience_s=60):
                await asyncio.sleep(1)

        for _ in range(20):
            calls.append(asyncio.create_task(call()))
        await asyncio.sleep(0.1)
        with_all = queue.use_now()[1]
        queue.limit_to(32)
        with_half = queue.use_now()[1]
        queue.limit_to(2)
        with_few = queue.use_now()[1]
        await asyncio.gather(*calls)
        return with_all, with_half, with_few

    assert virtually(work()) == (56, 32, 20)


def test_no_more_rows_are_begun_than_can_be_asked_for_within_seconds() -> None:
    """A drain lets rows that were begun finish, within half a minute."""

    async def work() -> int:
        one, begun = limiter(Rates(60)), 0
        try:
            async with asyncio.timeout(1):
                while True:
                    await one.take_row()
                    begun += 1
        except TimeoutError:
            return begun

    assert virtually(work()) == pytest.approx(20, abs=1)


def test_a_turn_that_would_come_in_minutes_is_told_at_once() -> None:
    async def work() -> float:
        one = limiter(Rates(0.5))
        async with one.call():
            pass
        with pytest.raises(Blocked, match="limit a minute") as caught:
            async with one.call(patience_s=60):
                pass
        return caught.value.seconds

    assert virtually(work()) == pytest.approx(120 / 0.98, rel=0.01)


def test_what_a_call_takes_is_learned_from_those_before() -> None:
    tokens = Tokens(4000)
    assert tokens.estimate(400) == 4100
    for _ in range(200):
        tokens.learn(400, 120, 30)
    assert tokens.estimate(400) == pytest.approx(150)
    assert tokens.estimate(800) == pytest.approx(270)


# A limit that nobody named ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latency_s", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("burst_s", [1.0, 60.0])
@pytest.mark.parametrize("says_when", [True, False])
def test_an_unknown_limit_is_learned_by_few_refusals(latency_s: float, burst_s: float, says_when: bool) -> None:
    limits = Limits(requests_per_minute=PER_MINUTE, burst_s=burst_s)
    provider = asked(limits, latency_s=latency_s, says_when=says_when)
    assert len(provider.refused) / (len(provider.refused) + len(provider.ok)) < 0.02
    assert utilisation(provider, 0, 180) >= 0.9


def test_a_provider_without_limits_is_soon_asked_by_all() -> None:
    provider = asked(Limits(), seconds=15)
    assert provider.answered(0, 15) >= 0.95 * 64 / 0.2 * 15


def test_overload_halves_what_is_in_flight_once_for_each_time_and_it_grows_back() -> None:
    provider = asked(Limits(), overload=8, latency_s=0.2)
    assert len(provider.refused) / len(provider.ok) < 0.03
    assert provider.answered(5, 180) >= 0.75 * 8 / 0.2 * 175


def test_one_at_a_time_is_the_least() -> None:
    async def work() -> None:
        one = limiter()
        for _ in range(8):
            async with one.call() as turn:
                turn.record_failure("HTTP 529", "overload")
            await asyncio.sleep(0.1)
        first = one.call()
        async with first:
            second = asyncio.create_task(_held(one))
            await asyncio.sleep(1)
            assert not second.done()
        await second

    virtually(work())


async def _held(one: Limiter) -> None:
    async with one.call():
        pass


def test_what_the_headers_say_is_kept_to() -> None:
    async def work() -> Provider:
        one, provider = limiter(), Provider(Limits(requests_per_minute=PER_MINUTE, burst_s=2))
        async with one.call() as turn:
            turn.record_answer(50, 50, Rates(PER_MINUTE))
        await crowd(provider, one, 60)
        return provider

    provider = virtually(work())
    assert provider.refused == []
    assert utilisation(provider, 5, 60) >= 0.95


@pytest.mark.parametrize(
    ("headers", "rates"),
    [
        ({}, None),
        ({"x-ratelimit-remaining-requests": "3"}, None),
        ({"x-ratelimit-limit-requests": "600"}, Rates(600)),
        ({"x-ratelimit-limit-requests": "600", "x-ratelimit-limit-tokens": "90000"}, Rates(600, 90_000)),
        (
            {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
             "x-ratelimit-reset-requests": "1s"},
            Rates(60),
        ),
        (  # 200 a day, as the time until it is whole again shows
            {"x-ratelimit-limit-requests": "200", "x-ratelimit-remaining-requests": "199",
             "x-ratelimit-reset-requests": "7m12s", "x-ratelimit-limit-tokens": "40000"},
            Rates(tokens=40_000),
        ),
        ({"x-ratelimit-limit-requests": "many"}, UNLIMITED),
    ],
)  # fmt: skip
def test_headers_of_limits(headers: dict[str, str], rates: Rates | None) -> None:
    assert rates_of(headers) == rates


# An outage ----------------------------------------------------------------------------------------------------------


def test_in_an_outage_one_call_at_a_time_asks_whether_it_is_over() -> None:
    provider = asked(Limits(), outages=((5, 65),), seconds=120)
    assert len(provider.failed) <= 2 * 64
    assert len([at for at in provider.failed if at > 7]) <= 12
    assert min(at for at in provider.ok if at > 65) < 65 + 11
    assert provider.answered(80, 120) >= 0.95 * 64 / 0.2 * 40


def test_while_a_provider_is_out_the_caller_is_told_to_wait_elsewhere() -> None:
    async def work() -> str:
        one = limiter()
        for _ in range(10):
            async with one.call() as turn:
                turn.record_failure("HTTP 500: broken")
        for _ in range(3):  # probes, ever further apart
            async with one.call(patience_s=60) as turn:
                turn.record_failure("HTTP 500: broken")
        with pytest.raises(Blocked) as caught:
            async with one.call(patience_s=60):
                pass
        assert 5 < caught.value.seconds <= 10
        return caught.value.why

    assert "HTTP 500: broken" in virtually(work())


def test_what_no_call_could_change_turns_away_all_who_wait_and_nobody_after() -> None:
    async def work() -> tuple[int, int]:
        one, asked = limiter(rows=4), 0

        async def ask() -> None:
            nonlocal asked
            async with one.call():
                asked += 1
                await asyncio.sleep(0.2)
                raise FatalModelError("no key", hint="Check it.")

        ended = await asyncio.gather(*(ask() for _ in range(20)), return_exceptions=True)
        async with one.call():
            pass
        return asked, sum(isinstance(exc, FatalModelError) and exc.hint == "Check it." for exc in ended)

    assert virtually(work()) == (4, 20)


def test_a_probe_that_is_cancelled_leaves_the_next_call_to_be_one() -> None:
    async def work() -> None:
        one = limiter()
        for _ in range(10):
            async with one.call() as turn:
                turn.record_failure("HTTP 500")
        probe = asyncio.create_task(_hold(one, 60))
        await asyncio.sleep(2)
        waiting = asyncio.create_task(_hold(one, 0))
        await asyncio.sleep(2)
        assert not waiting.done()
        probe.cancel()
        await asyncio.wait_for(waiting, 5)
        await asyncio.gather(*(_hold(one, 0.1) for _ in range(8)))

    virtually(work())


async def _hold(one: Limiter, seconds: float) -> None:
    async with one.call():
        await asyncio.sleep(seconds)


def test_failures_among_answers_are_no_outage() -> None:
    async def work() -> None:
        one = limiter()
        for at in range(200):
            async with one.call(patience_s=0.01) as turn:
                if at % 5:
                    turn.record_failure("HTTP 500")
                else:
                    turn.record_answer(1, 1)
            await asyncio.sleep(0.1)

    virtually(work())


# The law of a hidden limit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("per_minute", "seconds"), [(60, 400), (600, 180), (6_000, 60)])
@pytest.mark.parametrize("latency_s", [0.02, 0.2])
@pytest.mark.parametrize("burst_s", [1.0, 60.0])
@pytest.mark.parametrize("says_when", [True, False])
def test_nine_tenths_of_a_hidden_limit_are_used_after_ten_seconds_or_thirty_calls(
    per_minute: int, seconds: int, latency_s: float, burst_s: float, says_when: bool
) -> None:
    limits = Limits(requests_per_minute=per_minute, burst_s=burst_s)
    provider = asked(limits, seconds=seconds, latency_s=latency_s, says_when=says_when)
    begin = max(10.0, sorted(provider.ok)[29])
    assert utilisation(provider, begin, seconds, per_minute) >= 0.9
    steady = seconds / 3
    refused, answered = sum(at > steady for at in provider.refused), provider.answered(steady, seconds)
    assert refused <= max(0.02 * answered, 1 + (seconds - steady) / 120)


@dataclass
class RefusesFirst(Provider):
    """Refuses so many requests, then none."""

    first: int = 8

    def __post_init__(self) -> None:
        self._gate = _First(self.first)


class _First(Gate):
    def __init__(self, left: int) -> None:
        super().__init__(Limits(), 0.0)
        self._left = left

    def refuse(self, in_flight: int, tokens: int, now: float) -> int | None:
        self._left -= 1
        return 2 if self._left >= 0 else None


@pytest.mark.parametrize("refusals", [1, 2, 8, 16])
@pytest.mark.parametrize("refusal_s", [0.002, 0.01, 0.1])
def test_a_burst_of_refusals_at_the_start_says_little_of_the_rate(refusals: int, refusal_s: float) -> None:
    async def work() -> float:
        provider = RefusesFirst(first=refusals, latency_s=0.01, refusal_s=refusal_s, says_when=False)
        one = limiter()
        await asyncio.gather(*(provider.ask(one) for _ in range(400)))
        return max(provider.ok)

    assert virtually(work()) < 10


@pytest.mark.parametrize("refusals", [1, 4, 12])
def test_who_was_refused_with_a_time_calls_soon_after_it(refusals: int) -> None:
    async def work() -> Provider:
        provider = RefusesFirst(first=refusals, latency_s=0.01)
        one = limiter()
        await asyncio.gather(*(provider.ask(one) for _ in range(12)))
        return provider

    provider = virtually(work())
    assert min(provider.ok) >= 0 if refusals < 3 else min(provider.ok) >= 2
    assert max(provider.ok) < 2 * 3 + 1


def test_a_limit_that_is_lifted_is_soon_noticed() -> None:
    async def work() -> Provider:
        provider, one = Provider(Limits(requests_per_minute=60)), limiter()
        asking = asyncio.create_task(crowd(provider, one, 600))
        await asyncio.sleep(120)
        provider._gate = Gate(Limits(), clock())
        await asking
        return provider

    provider = virtually(work())
    assert provider.answered(480, 600) >= 10 * provider.answered(0, 120)


def test_a_limit_that_is_lowered_is_found_by_few_refusals() -> None:
    async def work() -> Provider:
        provider, one = Provider(Limits(requests_per_minute=6_000)), limiter()
        asking = asyncio.create_task(crowd(provider, one, 200))
        await asyncio.sleep(60)
        provider._gate = Gate(Limits(requests_per_minute=PER_MINUTE), clock())
        await asking
        return provider

    provider = virtually(work())
    assert utilisation(provider, 80, 200) >= 0.9
    assert sum(at > 60 for at in provider.refused) <= 30


def test_a_limit_ends_with_the_job_that_declared_it() -> None:
    """Another job on the same key is paced no longer, from its next call on."""

    async def work() -> tuple[float, float]:
        process = Limiters()
        mine, other = process.apart(), process.apart()
        paced, free = mine.of("key", 64, Rates(requests=60)), other.of("key", 64)

        async def ten() -> float:
            began = clock()
            for _ in range(10):
                async with free.call():
                    pass
            return clock() - began

        async with paced.call():
            pass
        bound = await ten()
        mine.end()
        return bound, await ten()

    bound, unbound = virtually(work())
    assert bound > 5.0
    assert unbound < 0.1
