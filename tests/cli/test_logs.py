"""`--log-format json`: each line of stderr is one record, whoever wrote it, and none holds what a row holds."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import Project, Result, eventually, write_csv
from tests.cli.test_metrics import scrape_text, url_of
from tests.cli.test_processes import NOISY, slow, workers_of
from tests.harness.model_server import ModelServer

pytestmark = pytest.mark.timeout(900)
CANARY = "c4n4ry"
BROKEN = """
import logging
from typing import TypedDict

from langgraph.graph import END, START, StateGraph


class State(TypedDict, total=False):
    body: str
    reply: str


def node(state: State) -> State:
    logging.getLogger("mine").warning("logged by a node")
    if "3" in state["body"]:
        raise ValueError(state["body"])
    return {"reply": state["body"].upper()}


building = StateGraph(State)
building.add_node("node", node)
building.add_edge(START, "node")
building.add_edge("node", END)
graph = building.compile()
"""


def records(err: str) -> list[dict[str, Any]]:
    """Every line, parsed."""
    found = [json.loads(line) for line in err.splitlines()]
    for record in found:
        assert list(record)[:3] == ["time", "level", "message"], record
        assert record["level"] in ("info", "warning", "error"), record
        assert record["time"].endswith("Z")
        assert record["process"]
    return found


def logged(result: Result) -> list[dict[str, Any]]:
    return records(result.err)


def test_what_is_printed_becomes_a_record_with_its_stream_and_process(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    project = Project.make(tmp_path, count=3)
    project.spec["stages"] = [{"name": "noise", "uses": "noisy:graph", "output": {"reply": "str"}}]
    project.write()
    found = logged(project.tandem("run", "--json", "--log-format", "json").ok())
    printed = [(one["message"], one["stream"], one["process"]) for one in found if "stream" in one]
    for line in ("printed by a node", "written by a node", "put by a library", "echoed by a process of a node"):
        whole = [one for one in printed if line in one[0]]
        assert sum(one[0].count(line) for one in whole) == 3, "rows print at once, so that two may share a line"
        assert {one[1:] for one in whole} == {("stdout", "worker 1")}
    ended = [one for one in found if one.get("outcome") == "published"]
    assert sorted(one["partition"] for one in ended) == [f"day=2026-11-0{day}" for day in (1, 2, 3)]
    assert {one["run"] for one in ended} == {project.tandem("runs", "show", "--json").json["run"]}


def test_a_record_of_an_activity_says_of_which_batch(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    project = Project.make(tmp_path, count=30)
    project.spec["stages"] = [{"name": "noise", "uses": "broken:graph", "output": {"reply": "str"}}]
    project.write()
    told = project.tandem("run", "--json", "--log-format", "json")
    found = logged(told)
    mine = [one for one in found if one.get("logger") == "mine"]
    assert len(mine) == 30
    assert {one["level"] for one in mine} == {"warning"}
    run = json.loads(told.out)["run"]
    for one in mine:
        assert (one["run"], one["batch"], one["attempt"]) == (run, 0, 1)
        assert one["partition"].startswith("day=2026-11-0")
        assert one["process"] == "worker 1"


def test_a_worker_that_is_killed_and_errors_of_the_command_are_records_too(
    tmp_path: Path, model_server: ModelServer
) -> None:
    project = slow(tmp_path, model_server, 120)
    with project.start("run", "--processes", "2", "--log-format", "json") as run:
        eventually(lambda: model_server.stats().answered_ok >= 20, "some answers")
        workers_of(run.process.pid)[0].send_signal(signal.SIGKILL)
        found = logged(run.wait(120).ok())
    assert [one["level"] for one in found if "was killed by SIGKILL" in one["message"]] == ["warning"]
    for words in (("run", "absent.yaml"), ("run", "--no-such-flag"), ("runs", "show", "none")):
        refused = project.tandem(*words, "--log-format=json")
        error = logged(refused)[-1]
        assert (error["level"], refused.code) == ("error", 2)
        assert error["code"]
    assert project.tandem("runs", "list", "--log-format", "xml").err == (
        "Error: --log-format xml: not one of text, json.\n"
    )


def test_at_info_there_is_no_line_a_row(tmp_path: Path, model_server: ModelServer) -> None:
    lines = []
    for count in (30, 300):
        folder = tmp_path / str(count)
        folder.mkdir()
        model_server.reset()
        project = Project.make(folder, model_server.env(), count=count, model="openai:test-model")
        lines.append(len(logged(project.tandem("run", "-v", "--log-format", "json").ok())))
    assert lines[1] - lines[0] < 10, lines


def secret_project(folder: Path, server: ModelServer, *, severity: str, max_rejects: float) -> Project:
    """A secret in a key, a row, a prompt, a header, the model's key, an answer, an error and an exception's message."""
    (folder / "broken.py").write_text(BROKEN.replace('warning("logged by a node")', 'warning("logged")'))
    rows = [
        {"id": f"{CANARY}-{number}", "created_at": "2026-11-01", "body": f"{CANARY} number {number} ", "note": "n"}
        for number in range(40)
    ]
    server.script(
        {
            "rules": [
                {"match": "number 5 ", "action": "error", "status": 400, "body": {"error": {"message": CANARY}}},
                {"match": "number 6 ", "action": "error", "status": 500, "times": 2, "body": {"error": CANARY}},
                {"match": "number 7 ", "action": "text", "text": CANARY},
            ]
        }
    )
    env = {**server.env(), "OPENAI_API_KEY": f"sk-{CANARY}", "SECRET_HEADER": CANARY}
    project = Project.make(folder, env, model="openai:test-model")
    write_csv(folder / "rows.csv", rows)
    project.stage["prompt"] = f"{CANARY}: {{{{ body }}}}"
    project.stage["params"] = {"headers": {"X-Secret": "${SECRET_HEADER}"}}
    project.spec["stages"].append({"name": "noise", "uses": "broken:graph", "output": {"reply": "str"}})
    project.spec["checks"] = [{"name": "no reply", "sql": "reply is null", "severity": severity}]
    project.spec["limits"] = {"max_reject_rate": max_rejects}
    project.write()
    return project


@pytest.mark.parametrize(
    ("severity", "max_rejects", "state"),
    [("warn", 1.0, "completed"), ("block", 1.0, "failed"), ("warn", 0.1, "failed")],
)
def test_a_secret_is_in_no_log_and_in_no_metric(
    severity: str, max_rejects: float, state: str, tmp_path: Path, model_server: ModelServer
) -> None:
    project = secret_project(tmp_path, model_server, severity=severity, max_rejects=max_rejects)
    flags = ("--metrics", "127.0.0.1:0", "--metrics-linger", "60s", "--log-format", "json", "-v")
    with project.start("run", "--json", *flags) as run:
        url = url_of(run)
        eventually(lambda: run.out.rstrip().endswith("}"), "a report")
        figures = scrape_text(url)
        assert run.end(signal.SIGTERM, 60).code in (0, 1, 3), "an interrupt ends the linger alone"
    report = json.loads(run.out)
    assert (report["state"], report["rows"]["rejected"] > 3) == (state, True), report
    assert CANARY not in figures
    assert len(records(run.err)) > 40
    assert [line for line in run.err.splitlines() if CANARY in line] == []
