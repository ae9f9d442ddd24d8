"""An estimate's ranges hold what a run then takes, and are narrower once there is something to go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.estimates.call_count import count_calls
from pipeline.estimates.cost_estimate import Estimate, estimate
from pipeline.journal.call_stats import around, call_stats
from pipeline.planning.builder import decisions
from schemas.manifest import Usage
from schemas.plan import Selection
from tests.pipeline.jobs import EXTRACT, Bench, rows

PRICES = {"openai:test-model": {"input": 1.0, "output": 2.0}}
OTHER = {**EXTRACT, "prompt": "Sort this ticket: {{ text }}"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path, spec={"source": {"path": "rows.parquet", "key": ["id"]}})
    bench.write(rows(40))
    return bench


def estimated(bench: Bench, **changed: Any) -> Estimate:
    job = bench.job(**changed)
    decided = list(decisions(job, bench.store, Selection(), bench.now()))
    found = count_calls(job, bench.store, decided)
    history = call_stats(bench.store, [count.stage for count in found.stages], [d.partition for d in decided])
    return estimate(job, found, history)


async def used(bench: Bench, **changed: Any) -> Usage:
    published = await bench.run(bench.job(**changed))
    return sum((found.manifest.usage for found in published.values() if found.manifest), Usage())


def holds(said: Estimate, usage: Usage) -> None:
    assert said.calls == (usage.calls, usage.calls)
    assert said.input_tokens[0] <= usage.input_tokens <= said.input_tokens[1]
    assert said.output_tokens[0] <= usage.output_tokens <= said.output_tokens[1]


def width(said: Estimate) -> float:
    return said.output_tokens[1] / said.output_tokens[0]


async def test_ranges_hold_what_is_then_used_and_narrow_with_experience(bench: Bench) -> None:
    first = estimated(bench)
    holds(first, await used(bench))

    bench.write(rows(60))
    second = estimated(bench)
    holds(second, await used(bench))
    assert width(second) < 2 < width(first)

    altered = estimated(bench, stages=[OTHER])
    holds(altered, await used(bench, stages=[OTHER]))
    assert width(second) < width(altered) < width(first)


async def test_nothing_to_run_takes_nothing(bench: Bench) -> None:
    await used(bench)
    said = estimated(bench)
    assert (said.calls, said.input_tokens, said.output_tokens, said.cost_usd, said.seconds) == (
        (0, 0), (0, 0), (0, 0), (0.0, 0.0), (0.0, 0.0),
    )  # fmt: skip


def dear(bench: Bench, **stage: Any) -> Estimate:
    extract = {**EXTRACT, "model": "openai:test-model", **stage}
    return estimated(bench, stages=[extract], prices=PRICES)


def test_money_is_of_the_tokens_and_unknown_where_a_price_is(bench: Bench) -> None:
    said = dear(bench)
    assert said.cost_usd is not None
    for at in (0, 1):
        exact = (said.input_tokens[at] + 2 * said.output_tokens[at]) / 1e6
        assert said.cost_usd[at] == pytest.approx(exact, rel=0.35)
    unpriced = [{**EXTRACT, "model": "openai:no-such"}]
    assert estimated(bench, stages=unpriced).cost_usd is None


def test_what_web_searches_may_cost_is_in_the_range(bench: Bench) -> None:
    plain = {**EXTRACT, "model": "anthropic:claude-haiku-4-5"}
    without = estimated(bench, stages=[plain]).cost_usd
    searching = estimated(bench, stages=[{**plain, "tools": ["provider:web_search"]}]).cost_usd
    twice = estimated(
        bench, stages=[{**plain, "tools": ["provider:web_search"], "params": {"max_tool_calls": 2}}]
    ).cost_usd
    assert without is not None
    assert searching is not None
    assert twice is not None
    assert searching[0] == without[0]
    assert searching[1] - without[1] == pytest.approx(40 * 8 * (0.01 + 0.01))  # a search, and 10,000 tokens at 1 USD
    assert twice[1] - without[1] == pytest.approx(40 * 2 * (0.01 + 0.01))


def test_an_answer_is_no_longer_than_its_cap(bench: Bench) -> None:
    assert dear(bench, params={"max_tokens": 10}).output_tokens[1] == 40 * 10
    thinking = estimated(bench, stages=[{**EXTRACT, "model": "openai:gpt-5-mini"}])
    assert thinking.output_tokens[1] > 5 * dear(bench).output_tokens[1]


def test_time_is_at_the_slower_of_the_limits(bench: Bench) -> None:
    free, few = estimated(bench), estimated(bench, limits={"rows_in_flight": 1})
    assert free.seconds[0] < free.seconds[1]
    assert few.seconds[1] > 20 * free.seconds[1] / 2
    paced = estimated(bench, limits={"requests_per_minute": 1})
    assert paced.seconds[0] >= 40 * 60


def test_the_mean_of_more_calls_is_known_better() -> None:
    numbers = [1.0, 2.0, 3.0, 4.0] * 25
    one, many = around(numbers, 1), around(numbers, 100)
    assert one.low <= many.low <= 2.5 <= many.high <= one.high
    assert around([5.0], 10).low == 5.0
