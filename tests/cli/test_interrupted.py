"""Commands that are killed, interrupted or left alone: the work goes on where it stopped, and nothing is paid twice."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.support import Project, eventually
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

pytestmark = pytest.mark.timeout(900)
ROWS, IN_FLIGHT, FLUSH = 300, 8, 50


def slow(folder: Path, server: ModelServer, env: Mapping[str, str] | None = None) -> Project:
    """A run of some fifteen seconds."""
    server.script({"latency_ms": 400})
    project = Project.make(folder, {**server.env(), **(env or {})}, count=ROWS, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": IN_FLIGHT}
    project.write()
    return project


def test_a_killed_command_given_again_carries_on(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server)
    with project.start("run", "--json") as first:
        eventually(lambda: model_server.stats().answered_ok >= ROWS // 2, "half of the rows")
        assert first.end(signal.SIGKILL).out == ""
    name = re.findall(r"Run (\S+) started", first.err)
    again = project.tandem("run", "--json", timeout_s=400).ok()
    report = check_report(again.json)
    assert [report["run"]] == name
    assert (report["rows"]["ok"], report["partitions"]["published"]) == (ROWS, 3)
    assert model_server.stats().answered_ok <= ROWS + IN_FLIGHT + FLUSH
    assert "resuming it" in again.err or "running already" in again.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_pays_nothing_twice(
    tmp_path: Path, model_server: ModelServer, number: signal.Signals
) -> None:
    project = slow(tmp_path, model_server)
    with project.start("run") as first:
        eventually(lambda: model_server.stats().answered_ok >= 50, "some answers")
        told = first.end(number, timeout_s=20)
    assert told.code == 130, told
    assert "Interrupted. Nothing that was answered is lost; the same command resumes it" in told.err
    assert "Traceback" not in told.err
    shown = project.tandem("runs", "show", "--json").ok().json
    assert shown["state"] == "paused", shown
    assert project.tandem("runs", "watch", "--json").json["state"] == "paused"
    report = check_report(project.tandem("run", "--json", timeout_s=400).ok().json)
    assert report["run"] == shown["run"]
    assert report["rows"]["ok"] == model_server.stats().answered_ok == ROWS
    assert report["usage"]["calls"] == ROWS
    assert model_server.stats().max_ok_per_content == 1


def test_a_watch_that_ends_first(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server)
    told = project.tandem("run", "--json", "--watch-timeout", "3s", "--name", "long")
    assert told.code == 5, told
    assert check_report(told.json, state="running")["run"] == "long"
    other = project.tandem("run", "--name", "long", "--reprocess", "all")
    assert other.code == 2
    assert "'long'" in other.err
    assert check_report(project.tandem("run", "--json", timeout_s=400).ok().json)["run"] == "long"
    assert model_server.stats().max_ok_per_content == 1


def test_dev_works_for_what_is_detached(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server)
    with project.start("dev") as dev:
        eventually(lambda: "UI: http" in dev.out, "tandem dev")
        second = project.tandem("dev")
        assert second.code == 2
        assert "runs here already" in second.err
        accepted = project.tandem("run", "--detach", "--json", "--name", "far").ok()
        assert accepted.json["state"] == "running"
        model_server.script({"latency_ms": 400, "rules": [{"action": "error", "status": 503}]})
        with project.start("runs", "watch") as watch:  # it is there before the last partition ends
            eventually(lambda: "Run far" in watch.err or "waiting" in watch.err, "the watch")
            model_server.script({"latency_ms": 50})
            watched = watch.wait(400).ok()
        assert "Run far completed" in watched.out
        assert sum(line.startswith("✓ ") for line in watched.err.splitlines()) == 3
        again = project.tandem("run", "--detach", "--name", "far").ok()
        assert "Run far completed" in again.out
        ended = dev.end(signal.SIGTERM)
    assert ended.code == 0, ended
    assert "Working on tickets" in ended.err
    shown = check_report(project.tandem("runs", "show", "far", "--json").ok().json)
    assert shown["usage"]["calls"] == model_server.stats().answered_ok == ROWS
    told = project.tandem("run", "--detach")
    assert told.code == 2, "dev is gone"


def test_a_worker_that_is_drained(tmp_path: Path, model_server: ModelServer, temporal_server: TemporalServer) -> None:
    env = {**temporal_server.env(), "TANDEM_TASK_QUEUE": f"cli-{tmp_path.name}"}
    project = slow(tmp_path, model_server, env)
    with project.start("worker") as first, project.start("run", "--json") as run:
        eventually(lambda: model_server.stats().answered_ok >= 50, "some answers")
        drained = first.end(signal.SIGTERM, timeout_s=35)
        assert drained.code == 0, drained
        assert "Draining" in drained.err
        assert run.process.poll() is None, "the run waits for another worker"
        with project.start("worker") as second:
            told = run.wait(150).ok()
            assert second.end(signal.SIGTERM).code == 0
    report = check_report(told.json)
    assert report["rows"]["ok"] == report["usage"]["calls"] == model_server.stats().answered_ok == ROWS
    assert model_server.stats().max_ok_per_content == 1
    assert "Temporal UI" not in told.err

    # What the workflow finds wrong is told with the right code too: the source is gone when the worker comes.
    project.spec["stages"][0]["version"] = 2
    project.write()
    late = project.tandem("run", "--detach", "--json").ok().json["run"]
    (tmp_path / "rows.csv").unlink()
    with project.start("worker", "-v"):
        told = project.tandem("runs", "watch", late, "--json")
    assert (told.code, told.json["state"]) == (2, "failed"), told
    # Interrupting a watch leaves the run alive.
    project = Project.make(tmp_path, env)
    with project.start("run") as watching:
        eventually(lambda: "started." in watching.err, "a run")
        told = watching.end(signal.SIGINT)
    assert told.code == 130
    assert "follow it with: " in told.err
    assert project.tandem("runs", "show", "--json").ok().json["state"] == "running"
    cancelled = project.start("runs", "cancel")
    with project.start("worker"), cancelled:
        assert cancelled.wait().code == 0
    assert project.tandem("runs", "show", "--json").ok().json["state"] == "cancelled"


def test_successes_end_as_successes(tmp_path: Path, temporal_server: TemporalServer) -> None:
    """The native client aborts at exit now and then, which must never be seen."""
    project = Project.make(tmp_path)
    project.tandem("run", "-q").ok()
    project.env = temporal_server.env()
    commands = [*[("runs", "list")] * 10, *[("outputs", "ls")] * 20]
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda args: project.tandem(*args).code, commands))
    assert codes == [0] * 30


def test_temporal_may_die_under_a_watch(
    tmp_path: Path, model_server: ModelServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with TemporalServer.start(tmp_path_factory.mktemp("temporal")) as server:
        project = slow(tmp_path, model_server, server.env())
        with project.start("worker"), project.start("run", "--json") as run:
            eventually(lambda: model_server.stats().answered_ok >= 50, "some answers")
            server.kill()
            time.sleep(5)
            server.restart()
            report = check_report(run.wait(200).ok().json)
    assert report["rows"]["ok"] == ROWS
    assert model_server.stats().max_ok_per_content == 1
