"""The provider goes away, or will not have us: nothing is rejected for it, and nothing paid twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.rig import Rig, measured, spec_of, table
from tests.harness.ledger import Call
from tests.harness.model_server import ModelServer
from tests.harness.servers import free_ports

ROWS = 300
IN_FLIGHT = 16


def a_rig(folder: Path, model: ModelServer, **env: str) -> Rig:
    return Rig(folder / "rig", model, table(ROWS), spec_of(limits={"rows_in_flight": IN_FLIGHT}), env=env)


def outage(folder: Path, refused_s: float, failing_s: float) -> float:
    """Connections refused, then 500s, then all is well. The seconds from then to the end of the run."""
    (port,) = free_ports(1)
    with ModelServer.start(latency_ms=200, port=port) as model:
        rig = a_rig(folder, model)
        process = rig.run()
        rig.answered(60)
        model.script({"rules": [{"action": "hang"}]})
        time.sleep(0.5)  # what was on its way is answered, so that all answers are counted
        before: list[Call] = model.calls()
        model.child.kill()
    with process:
        time.sleep(refused_s)
        with ModelServer.start(latency_ms=200, port=port) as model:
            model.script({"rules": [{"action": "error", "status": 500}], "latency_ms": 200})
            time.sleep(failing_s)
            asked = model.stats().requests
            model.script({"latency_ms": 200})
            recovered = time.monotonic()
            report = process.wait(150).ok().json
            took = time.monotonic() - recovered
            answered = [call for call in [*before, *model.calls()] if call.status == 200]
    measured("outage", asked_while_failing=asked, seconds_after=round(took, 1), usage=report["usage"])
    assert (report["state"], report["rows"]["ok"], report["rows"]["rejected"]) == ("completed", ROWS, 0)
    assert len({call.digest for call in answered}) == ROWS
    assert len(answered) <= ROWS + IN_FLIGHT
    assert asked <= IN_FLIGHT + failing_s + 5
    assert "waiting: openai:test-model" in process.err
    return took


def test_an_outage_is_waited_out_and_rejects_nothing(tmp_path: Path) -> None:
    outage(tmp_path, 31, 4)  # longer than a command waits for its first answer


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_after_a_minute_of_it_the_run_is_done_within_ninety_seconds(tmp_path: Path) -> None:
    assert outage(tmp_path, 30, 30) <= 90


def refusal(folder: Path, model: ModelServer, code: str, named: str) -> None:
    model.script({"latency_ms": 200})
    rig = a_rig(folder, model)
    with rig.run() as process:
        rig.answered(60)
        model.script({"rules": [{"action": "error", "code": code}], "latency_ms": 200})
        refused = time.monotonic()
        stopped = process.wait(60)
        took = time.monotonic() - refused
    asked = sum(call.status in (401, 403, 404, 429) for call in model.calls())
    told = stopped.json
    measured(code, asked=asked, seconds=round(took, 1), answered=model.stats().answered_ok)
    assert stopped.code == 3
    # None is paid. Those in flight, and one more for each that was answered well after the first refusal came back.
    assert asked <= 2 * IN_FLIGHT
    (said,) = {failure["message"] for failure in told["failures"] if failure["error"] == "FatalModelError"}
    assert named in said
    assert rig.running() == []
    model.script({})
    report = rig.finish().json
    assert report["rows"]["ok"] == ROWS
    assert model.stats().answered_ok == ROWS  # those of before are not asked again


def test_an_empty_account_stops_the_run_and_the_same_command_carries_it_on(
    tmp_path: Path, model_server: ModelServer
) -> None:
    refusal(tmp_path, model_server, "insufficient_quota", "OPENAI_API_KEY")


@pytest.mark.prove
@pytest.mark.parametrize(
    ("code", "named"),
    [("invalid_api_key", "OPENAI_API_KEY"), ("permission_denied", "OPENAI_API_KEY"), ("model_not_found", "model:")],
)
def test_so_does_what_no_call_could_change(tmp_path: Path, model_server: ModelServer, code: str, named: str) -> None:
    refusal(tmp_path, model_server, code, named)
