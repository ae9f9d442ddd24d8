"""Code of a stage that is edited while runs and workers are about: what is published is made by the code that the
command saw, whoever does the work, and nothing that was answered is paid for again."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from tests.cli.support import Project, eventually
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

pytestmark = pytest.mark.timeout(900)

GRAPH = """
from typing import TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime


class State(TypedDict, total=False):
    body: str
    mood: str


def graph(model):
    async def ask(state: State) -> State:
        answer = await model.ainvoke(state["body"])
        return {"mood": "VERSION " + str(bool(answer.content))}

    building = StateGraph(State)
    building.add_node("ask", ask)
    building.add_edge(START, "ask")
    building.add_edge("ask", END)
    return building.compile()
"""


def with_graph(project: Project, version: str) -> None:
    """Stage `triage` by a graph in a file of the user's, which writes its version."""
    (project.folder / "moods.py").write_text(GRAPH.replace("VERSION", version))
    project.spec["stages"] = [
        {
            "name": "triage",
            "uses": "moods:graph",
            "model": "openai:test-model",
            "inputs": {"body": "body"},
            "output": {"mood": "str"},
        }
    ]
    project.write()


def moods(project: Project) -> set[str]:
    frame = pl.read_parquet(str(project.folder / "out" / "data" / "**" / "*.parquet"))
    return set(frame["mood"].to_list())


def test_a_worker_with_the_old_code_makes_no_plan_and_takes_no_batch(
    tmp_path: Path, model_server: ModelServer, temporal_server: TemporalServer
) -> None:
    env = {**model_server.env(), **temporal_server.env(), "TANDEM_TASK_QUEUE": f"code-{tmp_path.name}"}
    project = Project.make(tmp_path, env, count=9, model="openai:test-model")
    with_graph(project, "old")
    with project.start("worker") as stale:
        project.tandem("run", "--json").ok()
        assert moods(project) == {"old True"}
        with_graph(project, "new")
        with project.start("run", "--json") as run:
            eventually(lambda: "waiting for a worker with it" in run.err, "the run says what it waits for")
            assert run.process.poll() is None
            with project.start("worker") as fresh:
                report = run.wait().ok().json
                assert fresh.end(signal.SIGTERM).code == 0
        assert stale.end(signal.SIGTERM).code == 0
    assert (report["partitions"]["published"], report["usage"]["calls"]) == (3, 0)
    assert moods(project) == {"new True"}


def test_a_killed_run_whose_code_is_edited_is_planned_anew_from_the_journal(
    tmp_path: Path, model_server: ModelServer
) -> None:
    """Under its name; what was answered before, spooled answers included, is in the journal."""
    rows, in_flight = 120, 4
    model_server.script({"latency_ms": 200})
    project = Project.make(tmp_path, model_server.env(), count=rows, model="openai:test-model")
    with_graph(project, "old")
    project.spec["limits"] = {"rows_in_flight": in_flight}
    project.spec["journal"] = {"flush": "60s"}  # so that answers are in the spool alone
    project.write()
    with project.start("run", "--json") as first:
        eventually(lambda: model_server.stats().answered_ok >= rows // 2, "half of the rows")
        first.end(signal.SIGKILL)
    name = re.findall(r"Run (\S+) started", first.err)
    time.sleep(0.5)
    (project.folder / "moods.py").write_text(GRAPH.replace("VERSION", "new"))
    again = project.tandem("run", "--json", timeout_s=400).ok()
    assert [again.json["run"]] == name
    assert again.err.index("other stage code; waiting") < again.err.index("planned again, from")
    assert moods(project) == {"new True"}
    assert again.json["rows"]["ok"] == rows
    assert model_server.stats().answered_ok <= rows + in_flight
