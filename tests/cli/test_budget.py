"""A budget on the command line: the run pauses before it is passed, whatever is killed, and is paid for once."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, eventually
from tests.harness.model_server import ModelServer

COUNT = 300
PRICE = {"input": 50.0, "output": 200.0}
MODEL = "openai:test-model"


@pytest.fixture
def project(tmp_path: Path, model_server: ModelServer) -> Project:
    env = {**model_server.env(), "TANDEM_SPOOL": str(tmp_path / "spool")}
    project = Project.make(tmp_path, env, count=COUNT, model=MODEL)
    project.stage["params"] = {"max_tokens": 50}
    project.spec["prices"] = {MODEL: PRICE}
    project.write()
    return project


def spent(server: ModelServer) -> float:
    stats = server.stats()
    return (stats.prompt_tokens * PRICE["input"] + stats.completion_tokens * PRICE["output"]) / 1e6


def paused(report: dict[str, Any], server: ModelServer, budget: float) -> None:
    """Nothing is passed, most of it is used, and the report knows it."""
    assert report["state"] == "paused"
    assert 0.85 * budget < spent(server) <= budget
    assert report["usage"]["cost_usd"] == pytest.approx(spent(server), abs=1e-5)
    assert report["usage"]["calls"] == server.stats().answered_ok


def test_a_run_pauses_at_its_budget_and_goes_on_with_a_higher_one(project: Project, model_server: ModelServer) -> None:
    first = project.tandem("run", "--name", "dear", "--max-cost", "0.3", "--json")
    assert first.code == 3
    paused(first.json, model_server, 0.3)
    assert "0.3 USD is reached" in first.err
    assert "tandem runs resume dear --max-cost 0.6" in first.err

    assert project.tandem("runs", "list", "--json").json[0]["state"] == "paused"
    shown = project.tandem("runs", "watch", "dear")
    assert shown.code == 3
    assert "tandem runs resume dear --max-cost 0.6" in shown.out

    lower = project.tandem("runs", "resume", "dear", "--max-cost", "0.1")
    assert (lower.code, "are spent already" in lower.err) == (2, True)

    again = project.tandem("runs", "resume", "dear", "--max-cost", "0.6", "--json")
    assert again.code == 3
    paused(again.json, model_server, 0.6)

    last = project.tandem("run", "--name", "dear", "--max-cost", "3", "--json").ok()
    stats = model_server.stats()
    assert (stats.requests, stats.max_ok_per_content) == (COUNT, 1)
    assert last.json["usage"]["calls"] == last.json["rows"]["ok"] == COUNT
    assert last.json["billed_over_needed"] == 1.0


def test_a_budget_that_is_lowered_on_a_live_run_is_kept(project: Project, model_server: ModelServer) -> None:
    """Begun with 100, lowered to 1.6 times what is spent: it ends paused, at most the calls in flight above it."""
    in_flight = 8
    project.spec["limits"] = {"rows_in_flight": in_flight}
    project.write()
    model_server.script({"latency_ms": 1500})  # so that little is spent while `runs set` starts
    with project.start("run", "--name", "dear", "--max-cost", "100", "--json") as process:
        eventually(lambda: model_server.stats().answered_ok >= COUNT // 6, "a sixth of the rows")
        budget = round(1.6 * spent(model_server), 3)
        project.tandem("runs", "set", "dear", "--max-cost", str(budget)).ok()
        ended = process.wait(300)
    assert (ended.code, ended.json["state"]) == (3, "paused"), ended
    stats = model_server.stats()
    assert spent(model_server) <= budget + in_flight * spent(model_server) / stats.answered_ok
    assert stats.answered_ok < COUNT
    model_server.script({})
    last = project.tandem("run", "--name", "dear", "--max-cost", "100", "--json").ok().json
    assert last["usage"]["calls"] == model_server.stats().answered_ok == COUNT


def test_a_kill_does_not_reset_what_is_spent(project: Project, model_server: ModelServer) -> None:
    """Calls that were in flight stay charged, at what they may have come to."""
    model_server.script({"latency_ms": 20})
    project.spec["limits"] = {"rows_in_flight": 4}
    project.write()
    with project.start("run", "--max-cost", "0.5") as run:
        eventually(lambda: model_server.stats().answered_ok >= 60, "some answers")
        run.end(signal.SIGKILL)
    result = project.tandem("run", "--max-cost", "0.5", "--json")
    assert (result.code, result.json["state"]) == (3, "paused")
    assert 0.3 < spent(model_server) <= 0.5


@pytest.mark.prove
@pytest.mark.parametrize(("command", "said"), [("resume", "goes on"), ("set", "max_cost = 3")])
def test_with_wait_a_paused_run_is_waited_for(
    project: Project, model_server: ModelServer, command: str, said: str
) -> None:
    with project.start("run", "--max-cost", "0.2", "--wait", "--json") as run:
        eventually(lambda: "is reached" in run.err, "the pause is told")
        raised = project.tandem("runs", command, "--max-cost", "3").ok()
        assert said in raised.out + raised.err
        assert run.wait().ok().json["state"] == "completed"
    assert model_server.stats().requests == COUNT


@pytest.mark.prove
def test_the_budgets_of_the_spec(project: Project, model_server: ModelServer) -> None:
    """Of a run in tokens, of a day in USD; raised in the spec, the same command goes on: none is part of a run's
    identity."""
    project.spec["limits"] = {"max_tokens": 3_000}
    project.write()
    first = project.tandem("run", "--json")
    assert (first.code, "limits.max_tokens is 3,000" in first.err) == (3, True)
    stats = model_server.stats()
    assert 2_400 < stats.prompt_tokens + stats.completion_tokens <= 3_000
    project.spec["limits"] = {"max_cost_usd_per_day": 0.4}
    project.write()
    second = project.tandem("run", "--json")
    assert (second.code, "after midnight UTC" in second.err) == (3, True)
    assert second.json["run"] == first.json["run"]
    assert spent(model_server) <= 0.4 + spent_before(first.json)
    project.spec["limits"] = {}
    project.write()
    assert project.tandem("run", "--json").ok().json["run"] == first.json["run"]
    assert model_server.stats().requests == COUNT


def spent_before(report: dict[str, Any]) -> float:
    return float(report["usage"]["cost_usd"])


def test_a_price_that_nobody_knows_is_refused_before_any_call(project: Project, model_server: ModelServer) -> None:
    del project.spec["prices"]
    project.write()
    refused = project.tandem("backfill", "--from-date", "2026-11-01", "--to-date", "2026-11-02", "--max-cost", "1")
    assert refused.code == 2
    assert f"the price of '{MODEL}'" in refused.err
    assert "prices: {openai:test-model: {input: …, output: …}}" in refused.err
    project.spec["limits"] = {"max_cost_usd": 1.0}
    project.write()
    assert project.tandem("check").code == 2
    assert model_server.stats().requests == 0


@pytest.mark.parametrize("amount", ["0", "-1", "nan"])
def test_a_budget_is_an_amount(project: Project, amount: str) -> None:
    refused = project.tandem("run", "--max-cost", amount)
    assert (refused.code, "not an amount above zero" in refused.err) == (2, True)
