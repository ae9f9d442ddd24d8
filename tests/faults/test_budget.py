"""A budget and a fleet: three workers with 64 calls in flight each never pass it together, and no kill resets it."""

from __future__ import annotations

import contextlib
import signal
from typing import Any

import pytest

from pipeline.stores import open_store
from tests.cli.support import Result
from tests.faults.conftest import MakeRig
from tests.faults.rig import IN_FLIGHT, Rig, measured, table
from tests.harness.model_server import ModelServer
from tests.harness.servers import SeaweedS3, TemporalServer

MODEL = "openai:test-model"


def dear_rig(make_rig: MakeRig, rows: int, usd: float, **spec: Any) -> tuple[Rig, dict[str, float]]:
    """A run that costs about so much: some 8 tokens in and 9 out a row."""
    each = usd / rows
    price = {"input": each / 25 * 1e6, "output": each / 13 * 1e6}
    rig = make_rig(
        table(rows, parts=6), latency_ms=100, stage={"params": {"max_tokens": 16}}, prices={MODEL: price}, **spec
    )
    return rig, price


def spent(model: ModelServer, price: dict[str, float]) -> float:
    """By the provider's own count."""
    stats = model.stats()
    return (stats.prompt_tokens * price["input"] + stats.completion_tokens * price["output"]) / 1e6


def run(rig: Rig, *args: str, timeout_s: float = 240) -> Result:
    with rig.start(*args) as process:
        return process.wait(timeout_s)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("rows", [600, pytest.param(3000, marks=pytest.mark.prove)])
def test_three_workers_spend_a_third_and_then_the_rest(
    make_rig: MakeRig, temporal_server: TemporalServer, rows: int
) -> None:
    rig, price = dear_rig(make_rig, rows, 3.0, limits={"batch_rows": 50})
    with rig.workers(temporal_server, 3):
        first = run(rig, "run", "--name", "dear", "--max-cost", "1", "--json")
        assert first.code == 3, first
        paused = spent(rig.model, price)
        assert 0.75 < paused <= 1.0
        assert first.json["state"] == "paused"
        assert first.json["usage"]["cost_usd"] == pytest.approx(paused, rel=1e-4)
        resumed = run(rig, "runs", "resume", "dear", "--max-cost", "4")
        assert resumed.code == 0, resumed
        last = run(rig, "runs", "watch", "dear", "--json")
        assert last.code == 0, last
        assert not rig.running()
    stats = rig.model.stats()
    assert (stats.requests, stats.max_ok_per_content) == (rows, 1)
    assert last.json["usage"]["calls"] == rows
    measured("budget of a fleet", rows=rows, paused_at=round(paused, 4), total=round(spent(rig.model, price), 4))


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_they_share_it_by_a_book_in_s3_too(
    make_rig: MakeRig, temporal_server: TemporalServer, seaweed: SeaweedS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each entry of the book is a conditional put that rivals lose."""
    for name, value in seaweed.env().items():
        monkeypatch.setenv(name, value)
    bucket = seaweed.bucket("budgets")
    rig, price = dear_rig(make_rig, 1200, 3.0, limits={"batch_rows": 50}, sink=f"s3://{bucket}/out")
    rig.env |= seaweed.env()
    with contextlib.closing(open_store(f"s3://{bucket}/out")) as rig.store, rig.workers(temporal_server, 3):
        first = run(rig, "run", "--name", "dear", "--max-cost", "1", "--json")
        assert first.code == 3, first
        paused = spent(rig.model, price)
        assert 0.75 < paused <= 1.0
        assert first.json["usage"]["cost_usd"] == pytest.approx(paused, rel=1e-4)
        last = run(rig, "run", "--name", "dear", "--max-cost", "4", "--json")
        assert last.code == 0, last
        assert not rig.running()
    stats = rig.model.stats()
    assert (stats.requests, stats.max_ok_per_content) == (1200, 1)
    measured("budget in S3", paused_at=round(paused, 4), total=round(spent(rig.model, price), 4))


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_killed_workers_do_not_reset_what_is_spent(make_rig: MakeRig, temporal_server: TemporalServer) -> None:
    """Two of three workers, one after the other; what they had in flight stays charged, and is asked again."""
    rig, price = dear_rig(make_rig, 3000, 9.0, limits={"batch_rows": 50, "rows_in_flight": 16})
    with rig.workers(temporal_server, 3) as workers, rig.start("run", "--max-cost", "3", "--json") as client:
        rig.answered(200)
        workers[0].end(signal.SIGKILL)
        rig.answered(400)
        workers[1].end(signal.SIGKILL)
        first = client.wait(240)
        assert first.code == 3, first
        paused = spent(rig.model, price)
        assert 2.0 < paused <= 3.0
        again = run(rig, "run", "--max-cost", "20", "--json")
        assert again.code == 0, again
    stats = rig.model.stats()
    assert stats.answered_ok <= 3000 + 2 * IN_FLIGHT
    assert again.json["rows"]["ok"] == 3000
    measured("budget, workers killed", paused_at=round(paused, 4), asked=stats.requests)
