"""What stages report to those who listen, and that nothing is done for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import telemetry
from pipeline.telemetry.metrics import recorder
from pipeline.telemetry.metrics.recorder import Recorder
from stages import observer
from stages.models.settings.choice import ModelServices
from tests.harness.model_server import ModelServer
from tests.harness.own_calls import OwnCalls
from tests.stages.support import a_context, an_extract, enrich, kinds

_LISTENING = (str(Path(observer.__file__)), str(Path(telemetry.__file__).parent))


@pytest.fixture
def recording() -> Iterator[Recorder]:
    yield recorder.record()
    recorder.stop()


async def a_batch(server: ModelServer) -> list[str | None]:
    server.script({"rules": [{"match": "broken", "action": "error", "status": 500, "times": 2}]})
    return kinds(await enrich(an_extract(ModelServices()), ["a", "b", "b", "broken"], a_context()))


async def test_without_a_listener_a_batch_makes_no_call_for_it(
    server: ModelServer,
) -> None:
    with OwnCalls(*_LISTENING) as calls:
        assert await a_batch(server) == ["ok"] * 4
    assert calls.number == 0


async def test_a_listener_hears_of_calls_rows_waits_and_flushes(server: ModelServer, recording: Recorder) -> None:
    with OwnCalls(*_LISTENING) as calls:
        assert await a_batch(server) == ["ok"] * 4
    assert calls.number > 0
    report = recording.report()
    counted = {(name, *labels.values()): amount for name, labels, amount in report["counts"]}
    model = "openai:test-model"
    assert counted["tandem_model_calls_total", model, "standard", "answered"] == 3
    assert counted["tandem_model_calls_total", model, "standard", "failed"] == 2
    assert counted["tandem_stage_rows_total", "stage0"] == 4
    assert counted["tandem_tokens_total", model, "input"] > 0
    waits = next(buckets for name, _, buckets in report["observed"] if name == "tandem_limit_wait_seconds")
    assert sum(waits[:-1]) == 5
    lag = next(value for name, _, value in report["gauges"] if name == "tandem_flush_lag_seconds")
    assert lag > 0
    assert recording.report()["counts"] == []


async def test_the_tier_of_a_call_is_the_one_that_its_answer_names(recording: Recorder) -> None:
    for tier in ("", "default", "flex", "priority"):
        recording.call_answered("openai:test-model", {"input": 1}, 0.5, tier)
    counted = {(name, labels.get("tier")): amount for name, labels, amount in recording.report()["counts"]}
    calls = {tier: amount for (name, tier), amount in counted.items() if name == "tandem_model_calls_total"}
    assert calls == {"standard": 2, "flex": 1, "priority": 1}
    assert counted["tandem_cost_usd_total", "flex"] == 0.5
