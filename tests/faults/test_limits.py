"""Limits and outages with real processes, counted by the model server itself."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from typing import Any

import pytest
from temporalio.client import Client

from tests.cli.support import eventually
from tests.faults.conftest import MakeRig
from tests.faults.rig import Rig, measured, table
from tests.harness.servers import TemporalServer

LATENCY_MS = 200
PER_MINUTE = 600
TOKENS_PER_MINUTE = 15_000


def a_fleet(make_rig: MakeRig, rows: int, limits: Mapping[str, Any], spec: Mapping[str, Any]) -> Rig:
    """Batches are small and many, so that every worker has some."""
    rig = make_rig(table(rows, parts=6), limits={"batch_rows": 25, "partitions_in_flight": 6, **spec})
    rig.model.script({"latency_ms": LATENCY_MS, "limits": dict(limits)})
    return rig


def utilisation(rig: Rig, per_minute: float, *, begin: float, end: float) -> float:
    """Of the limit, over a part of the run (seconds after its first call)."""
    calls = rig.calls()
    first = min(call.t_start for call in calls)
    answered = sum(call.status == 200 and begin <= call.t_start - first < end for call in calls)
    return answered / ((end - begin) * per_minute / 60)


def limiters_left(temporal: TemporalServer) -> list[str]:
    async def listed() -> list[str]:
        client = await Client.connect(temporal.address)
        query = "ExecutionStatus = 'Running' AND WorkflowType = 'LimiterWorkflow'"
        return [found.id async for found in client.list_workflows(query)]

    return asyncio.run(listed())


def test_workers_of_a_fleet_together_never_meet_their_limit(make_rig: MakeRig, temporal_server: TemporalServer) -> None:
    rig = a_fleet(make_rig, 240, {"requests_per_minute": 1200}, {"requests_per_minute": 1200})
    with rig.workers(temporal_server, 3), rig.run() as client:
        client.wait(60).ok()  # 130 s once
        assert rig.model.stats().by_status == {200: 240}
        eventually(lambda: limiters_left(temporal_server) == [], "the limiter ends when nobody calls", 30)


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("unit", ["requests", "tokens"])
def test_a_fleet_uses_its_limit_over_minutes(make_rig: MakeRig, temporal_server: TemporalServer, unit: str) -> None:
    """Three minutes; then one of three workers is killed, and the others take its share within 15 s."""
    name = f"{unit}_per_minute"
    limit: float = PER_MINUTE if unit == "requests" else TOKENS_PER_MINUTE
    rows = 2600 if unit == "requests" else 4200  # work for four minutes: a call takes about 14 tokens
    rig = a_fleet(make_rig, rows, {name: limit}, {name: limit})
    with rig.workers(temporal_server, 3) as workers, rig.run() as client:
        rig.answered(1)
        time.sleep(185)
        workers[0].end(signal.SIGKILL)
        killed = time.time()
        client.wait(360).ok()
    calls = rig.calls()
    first, last = min(call.t_start for call in calls), max(call.t_start for call in calls)
    per_minute = limit
    if unit == "tokens":
        usage = [sum(call.usage.values()) for call in calls if call.status == 200]
        per_minute = limit / (sum(usage) / len(usage))
    before = utilisation(rig, per_minute, begin=5, end=185)
    after = utilisation(rig, per_minute, begin=killed - first + 15, end=last - first - 5)
    statuses = rig.model.stats().by_status
    measured(f"a fleet and its {unit}", statuses=statuses, before=round(before, 3), after=round(after, 3))
    assert statuses.get(429, 0) == 0
    assert before >= 0.95
    assert after >= 0.95


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_a_limit_that_nobody_named_is_learned(make_rig: MakeRig) -> None:
    rig = a_fleet(make_rig, 1800, {"requests_per_minute": PER_MINUTE}, {})
    with rig.run() as client:
        client.wait(280).ok()
    calls = rig.calls()
    took = max(call.t_start for call in calls) - min(call.t_start for call in calls)
    first = min(call.t_start for call in calls)
    used = utilisation(rig, PER_MINUTE, begin=0, end=took - 5)
    refused = [call.t_start - first for call in calls if call.status == 429]
    steady = sum(at > 10 for at in refused)
    measured("an unknown limit", refused=len(refused), steady=steady, calls=len(calls), utilisation=round(used, 3))
    assert steady / len(calls) < 0.02
    assert used >= 0.9


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_a_burst_of_refusals_at_the_start_costs_seconds(make_rig: MakeRig) -> None:
    rig = a_fleet(make_rig, 400, {}, {})
    refusal = {"times": 8, "code": "rate_limit_exceeded"}
    rig.model.script({"latency_ms": LATENCY_MS, "rules": [refusal]})
    with rig.run() as client:
        client.wait(60).ok()  # 130 s once
    calls = rig.calls()
    took = max(call.t_start for call in calls) - min(call.t_start for call in calls)
    measured("eight refusals at the start", calls=len(calls), seconds=round(took, 1))
    assert rig.model.stats().by_status == {200: 400, 429: 8}
