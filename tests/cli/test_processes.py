"""A command and its worker processes: what user code does to a process, it does to one that is replaced."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.cli.support import Project, eventually, write_csv
from tests.cli.test_run import check_report
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
NOISY = """
import ctypes
import os
import subprocess
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    body: str
    reply: str


def node(state: State) -> State:
    print("printed by a node")
    os.write(1, b"written by a node\\n")
    ctypes.CDLL(None).puts(b"put by a library")
    ctypes.CDLL(None).fflush(None)
    subprocess.run(["echo", "echoed by a process of a node"], check=True)
    return {"reply": state["body"].upper()}


building = StateGraph(State)
building.add_node("node", node)
building.add_edge(START, "node")
building.add_edge("node", END)
graph = building.compile()
"""


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a command: its fork server's children, without those that have just been killed."""
    found = [child for server in psutil.Process(pid).children() for child in server.children()]
    return [child for child in found if is_alive(child)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def answered(server: ModelServer, calls: int) -> bool:
    return server.stats().answered_ok >= calls


def slow(folder: Path, server: ModelServer, count: int, in_flight: int = 16) -> Project:
    server.script({"latency_ms": 300})
    project = Project.make(folder, server.env(), count=count, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": in_flight}
    project.write()
    return project


def test_what_nodes_and_their_libraries_print_goes_to_stderr_with_their_process(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    project = Project.make(tmp_path, count=3)
    project.spec["stages"] = [{"name": "noise", "uses": "noisy:graph", "output": {"reply": "str"}}]
    project.write()
    told = project.tandem("run", "--json").ok()
    assert check_report(told.json)["rows"]["ok"] == 3
    for line in ("printed by a node", "written by a node", "put by a library", "echoed by a process of a node"):
        assert told.err.count(line) == 3, told.err  # rows print at once, so that two may share a line
        assert f"[worker 1] {line}" in told.err


def test_a_worker_process_that_is_killed_costs_the_calls_in_flight_and_no_row(
    tmp_path: Path, model_server: ModelServer
) -> None:
    rows, in_flight = 240, 16
    project = slow(tmp_path, model_server, rows, in_flight)
    with project.start("run", "--json", "--processes", "2") as run:
        for kills in range(1, 4):
            enough = kills * 40
            eventually(partial(answered, model_server, enough), "some answers")
            eventually(lambda: len(workers_of(run.process.pid)) == 2, "two workers")
            workers_of(run.process.pid)[0].send_signal(signal.SIGKILL)
        told = run.wait(120).ok()
    report = check_report(told.json)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (rows, 0)
    assert model_server.stats().answered_ok <= rows + 3 * in_flight
    assert told.err.count("was killed by SIGKILL; another takes its place") == 3


def test_worker_processes_end_with_their_command(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server, 240)
    with project.start("run", "--processes", "2") as run:
        eventually(lambda: model_server.stats().answered_ok >= 20, "some answers")
        left = [*psutil.Process(run.process.pid).children(), *workers_of(run.process.pid)]
        assert len(left) >= 3
        assert {oom_score(worker.pid) for worker in workers_of(run.process.pid)} == {500}, "before the command itself"
        assert oom_score(run.process.pid) < 500
        os.kill(run.process.pid, signal.SIGKILL)
        run.wait(5)
        time.sleep(2)
        assert [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []
    report = check_report(project.tandem("run", "--json", timeout_s=400).ok().json)
    assert report["rows"]["ok"] == 240


def test_the_warm_parent_of_the_workers_may_be_killed(tmp_path: Path, model_server: ModelServer) -> None:
    project = slow(tmp_path, model_server, 240)
    with project.start("run", "--json") as run:
        eventually(lambda: model_server.stats().answered_ok >= 40, "some answers")
        psutil.Process(run.process.pid).children()[0].send_signal(signal.SIGKILL)
        report = check_report(run.wait(150).ok().json)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (240, 0)


def two_batches_of_equal_rows(folder: Path, server: ModelServer, texts: int, **limits: object) -> Project:
    """One partition of many batches, which two processes share; each text several times, in different batches."""
    project = Project.make(folder, server.env(), count=3, model="openai:test-model")
    write_csv(folder / "rows.csv", [{"id": at, "body": f"text {at % texts}"} for at in range(240)])
    project.spec["partition"] = {"by": "files"}
    project.spec["limits"] = {"batch_rows": 30, "rows_in_flight": 16, **limits}
    project.write()
    return project


def test_equal_rows_over_two_processes_are_paid_for_once(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.script({"latency_ms": 100})
    project = two_batches_of_equal_rows(tmp_path, model_server, 60)
    report = check_report(project.tandem("run", "--json", "--processes", "2", timeout_s=200).ok().json)
    assert report["rows"]["ok"] == 240
    stats = model_server.stats()
    assert (stats.answered_ok, stats.max_ok_per_content) == (60, 1)


def test_rows_in_flight_hold_for_all_processes_together(tmp_path: Path, model_server: ModelServer) -> None:
    model_server.script({"latency_ms": 100})
    project = two_batches_of_equal_rows(tmp_path, model_server, 240, rows_in_flight=7)
    report = check_report(project.tandem("run", "--json", "--processes", "3", timeout_s=200).ok().json)
    assert report["rows"]["ok"] == model_server.stats().answered_ok == 240
    assert model_server.stats().max_in_flight <= 7


def test_an_outage_is_not_held_against_rows(tmp_path: Path, model_server: ModelServer) -> None:
    """Far longer than a row may take by its own doing."""
    project = slow(tmp_path, model_server, 60)
    project.spec["stages"][0]["row_timeout"] = "3s"
    project.write()
    with project.start("run", "--json") as run:
        eventually(partial(answered, model_server, 10), "some answers")
        model_server.script({"rules": [{"match": "*", "action": "error", "status": 503}]})
        time.sleep(12)
        model_server.script({"latency_ms": 300})
        report = check_report(run.wait(200).ok().json)
    assert (report["rows"]["ok"], report["rows"]["rejected"]) == (60, 0)


def most_in_a_window(starts: list[float], seconds: float) -> int:
    """The most calls that began within so many seconds."""
    return max(sum(first <= start < first + seconds for start in starts) for first in starts)


@pytest.mark.parametrize("rows", [200, pytest.param(760, marks=pytest.mark.prove)])
def test_a_limit_a_minute_holds_for_four_processes_together(
    tmp_path: Path, model_server: ModelServer, rows: int
) -> None:
    """Counted by the server; with `prove`, more rows than a minute allows. Each process may begin with one call."""
    model_server.script({"latency_ms": 50, "limits": {"requests_per_minute": 600}})
    project = Project.make(tmp_path, model_server.env(), count=3, model="openai:test-model")
    write_csv(tmp_path / "rows.csv", [{"id": at, "body": f"text {at}"} for at in range(rows)])
    project.spec["partition"] = {"by": "files"}
    project.spec["limits"] = {"batch_rows": 10, "rows_in_flight": 16, "requests_per_minute": 600}
    project.write()
    report = check_report(project.tandem("run", "--json", "--processes", "4", timeout_s=400).ok().json)
    assert report["rows"]["ok"] == rows
    starts = [call.t_start for call in model_server.calls()]
    assert len(starts) == rows, "no call met the limit"
    assert most_in_a_window(starts, 60) <= 600
    assert most_in_a_window(starts, 10) <= 100 + 4
