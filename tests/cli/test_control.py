"""`runs pause|resume|cancel|set|retry`, as commands beside the one that works."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.support import Project, eventually, rows, write_csv
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)


def slow(folder: Path, server: ModelServer, *, count: int = 90, latency_ms: int = 100) -> Project:
    """Partitions one after another, two rows at once."""
    server.script({"latency_ms": latency_ms})
    project = Project.make(folder, server.env(), count=count, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": 2, "partitions_in_flight": 1}
    project.write()
    return project


def test_a_run_is_paused_changed_and_let_go_on_from_beside_it(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server, latency_ms=400)
    with project.start("run", "--json", "--name", "long") as run:
        eventually(lambda: model_server.stats().answered_ok > 0, "a first answer")
        paused = project.tandem("runs", "pause", "--reason", "lunch", "--json").ok().json
        assert (paused["state"], paused["reason"], paused["partitions"]["total"]) == ("paused", "lunch", 3)
        model_server.script({"latency_ms": 50})
        eventually(lambda: model_server.stats().answered_ok % 30 == 0, "the batch at work finishes")
        finished = model_server.stats().answered_ok
        shown = project.tandem("runs", "show", "tickets/long").ok()
        assert "paused" in shown.out
        assert "Paused: lunch. Resume it with: tandem runs resume long" in shown.err
        assert [item["state"] for item in project.tandem("runs", "list", "--json").ok().json] == ["paused"]
        assert model_server.stats().answered_ok == finished < 90, "nothing new is begun"
        for flags, sentence in (
            (("--max-active", "0"), "--max-active 0: not between 1 and 500."),
            ((), "No limit was given. Give --max-active N, --rows-in-flight N or --max-cost USD."),
        ):
            refused = project.tandem("runs", "set", *flags, "--json")
            assert (refused.code, refused.json["error"]["message"]) == (2, sentence)
        given = project.tandem("runs", "set", "long", "--max-active", "2", "--rows-in-flight", "16", "--json").ok()
        assert given.json == {"run": "long", "pipeline": "tickets", "set": {"max_active": 2, "rows_in_flight": 16}}
        assert project.tandem("runs", "resume", "--json").ok().json["state"] in ("running", "completed")
        done = run.wait()
    assert done.code == 0, done
    assert check_report(done.json)["rows"]["ok"] == 90
    stats = model_server.stats()
    assert stats.max_ok_per_content == 1
    assert stats.max_in_flight > 2, "rows in flight were raised while it was at work"
    over = project.tandem("runs", "set", "--max-active", "2")
    assert (over.code, "The run 'long' has ended." in over.err) == (2, True)


def test_a_killed_run_is_cancelled_without_a_call_and_what_is_left_is_retried(
    tmp_path: Path, model_server: ModelServer
) -> None:
    project = slow(tmp_path, model_server)
    with project.start("run", "--name", "doomed") as run:
        eventually(lambda: model_server.stats().answered_ok > 35, "a partition and a bit")
        run.end(signal.SIGKILL)
    before = model_server.stats().requests
    cancelled = project.tandem("runs", "cancel", "--json").ok().json
    assert (cancelled["state"], cancelled["partitions"]["published"]) == ("cancelled", 1)
    assert model_server.stats().requests == before, "cancelling asks no model"
    again = project.tandem("runs", "cancel")
    assert (again.code, "has ended" in again.err) == (2, True)
    model_server.script({"latency_ms": 0})
    retried = project.tandem("runs", "retry", "doomed", "--only", "cancelled", "--json").ok().json
    assert retried["run"] != "doomed"
    assert (retried["partitions"]["total"], retried["partitions"]["published"]) == (2, 2)
    assert model_server.stats().answered_ok <= 90 + 2 + 20, "calls in flight, and those of the last second"
    nothing = project.tandem("runs", "retry", "doomed", "--only", "cancelled").ok()
    assert "has nothing to retry with --only cancelled" in nothing.err


def test_a_killed_run_is_carried_on_by_resume(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server, count=45)
    with project.start("run", "--name", "cut") as run:
        eventually(lambda: model_server.stats().answered_ok > 20, "a partition and a bit")
        run.end(signal.SIGKILL)
    shown = project.tandem("runs", "show", "--json").ok().json
    assert (shown["state"], shown["reason"]) == ("paused", "no worker runs it now")
    done = project.tandem("runs", "resume", "--json", timeout_s=400).ok().json
    assert (done["run"], done["state"], done["rows"]["ok"]) == ("cut", "completed", 45)
    assert project.tandem("runs", "resume", "--json").ok().json["state"] == "completed"


def test_what_failed_and_what_was_rejected_is_retried(tmp_path: Path, model_server: ModelServer) -> None:
    project = Project.make(tmp_path, model_server.env(), model="openai:test-model")
    table = rows(30)
    write_csv(tmp_path / "rows.csv", [*table, {**table[0], "note": "twice"}])
    model_server.script({"rules": [{"match": "message number 1 ", "action": "error", "status": 400}]})
    first = project.tandem("run", "--json", "--name", "first")
    assert (first.code, first.json["partitions"]["failed"], first.json["rows"]["rejected"]) == (1, 1, 1)
    write_csv(tmp_path / "rows.csv", table)
    model_server.reset()
    failed = project.tandem("runs", "retry", "--only", "failed", "--json").ok().json
    assert (failed["partitions"]["published"], failed["rows"]["in"]) == (1, 10)
    rejected = project.tandem("runs", "retry", "first", "--only", "rejects", "--json").ok().json
    assert (rejected["partitions"]["published"], rejected["rows"]["rejected"], rejected["usage"]["calls"]) == (1, 0, 1)
    wrong = project.tandem("runs", "retry", "first", "--only", "all")
    assert (wrong.code, "--only all: not one of failed, cancelled, rejects." in wrong.err) == (2, True)
