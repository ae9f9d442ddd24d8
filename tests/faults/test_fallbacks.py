"""The first of two models is out in the middle of a run: the second takes over, and gives back what it has answered."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.cli.support import eventually
from tests.faults.conftest import MakeRig
from tests.faults.rig import Rig, measured, table
from tests.harness.model_server import ModelServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]
ROWS, AFTER_S, LATENCY_MS = 2_000, 5.0, 400
FIRST, SECOND = "openai:test-model", "anthropic:claude-haiku-4-5"
OUT = {"rules": [{"action": "error", "status": 503}], "latency_ms": LATENCY_MS}
BACK = {"latency_ms": LATENCY_MS}


@pytest.fixture
def second() -> Iterator[ModelServer]:
    with ModelServer.start(latency_ms=LATENCY_MS) as server:
        yield server


def a_rig(make_rig: MakeRig, second: ModelServer, rows: int) -> Rig:
    models = {"main": {"try": [FIRST, SECOND], "fallback_after": f"{AFTER_S:g}s"}}
    rig = make_rig(table(rows), latency_ms=LATENCY_MS, stage={"model": models})
    rig.env |= {name: value for name, value in second.other_providers().items() if name.startswith("ANTHROPIC")}
    return rig


def until(server: ModelServer, answers: int) -> float:
    """Wait for so many answers of a server. Returns the moment."""
    eventually(lambda: server.stats().answered_ok >= answers, f"{answers} answers", 240)
    return time.monotonic()


def test_the_second_takes_over_and_the_first_is_back(make_rig: MakeRig, second: ModelServer) -> None:
    rig = a_rig(make_rig, second, ROWS)
    first = rig.model
    with rig.run() as process:
        rig.answered(400, timeout_s=240)
        first.script(OUT)
        went = time.monotonic()
        took_over = until(second, 1) - went
        until(second, 300)
        before = first.stats().answered_ok
        first.script(BACK)
        came = time.monotonic()
        returned = until(first, before + 1) - came
        report = process.wait(300).ok().json
    (answered_by,) = report["answered_by"].values()
    told = {name: sum(versions.values()) for name, versions in answered_by.items()}
    counted = {FIRST: first.stats().answered_ok, SECOND: second.stats().answered_ok}
    measured("outage of the first of two models", took_over=took_over, returned=returned, rows=told, calls=counted)
    assert (report["rows"]["ok"], report["rows"]["rejected"], report["rows"]["out"]) == (ROWS, 0, ROWS)
    assert told == counted
    assert sum(counted.values()) == report["usage"]["calls"] == ROWS, "nothing is paid twice"
    assert took_over <= AFTER_S + 2
    assert returned <= 15


def test_what_the_second_has_answered_is_not_asked_again_after_a_kill(make_rig: MakeRig, second: ModelServer) -> None:
    rig = a_rig(make_rig, second, 1_000)
    first = rig.model
    with rig.run() as process:
        rig.answered(200, timeout_s=240)
        first.script(OUT)
        until(second, 200)
        second.script({"rules": [{"action": "hang"}]})
        time.sleep(1)  # what was on its way is answered and noted
        process.end(signal.SIGKILL)
    second.script({"latency_ms": LATENCY_MS})
    first.script(BACK)
    known = {call.message for call in second.calls() if call.status == 200}
    earlier = len(first.calls())
    report = rig.finish(timeout_s=240).json
    asked = {call.message for call in first.calls()[earlier:] if call.status == 200}
    measured("a kill while the second answers", answered_by_second=len(known), asked_again=len(asked & known))
    assert report["rows"]["ok"] == 1_000
    assert len(known) >= 200
    assert asked.isdisjoint(known)
    assert first.stats().answered_ok + second.stats().answered_ok == 1_000
