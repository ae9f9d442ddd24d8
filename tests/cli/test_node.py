"""`placement: node`: a worker that dies in a long tool call costs that call, and the output is that of a batch."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from pipeline.consume import scan
from tests.cli.support import Project, eventually
from tests.harness.model_server import ModelServer

# `log` tells which nodes began, `ends` which had their answers; the tool takes as long as `hold` is there.
GRAPH = """
    import asyncio
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Any, TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.runtime import Runtime

    HERE = Path(__file__).parent

    class State(TypedDict, total=False):
        body: str
        idea: str
        found: str
        word: str

    @dataclass
    class Context:
        model: Any

    def note(file: str, node: str, state: State) -> None:
        with (HERE / file).open("a") as log:
            log.write(f"{node} {state['body']}\\n")

    async def plan(state: State, runtime: Runtime[Context]) -> State:
        note("log", "plan", state)
        return {"idea": str((await runtime.context.model.ainvoke(f"plan {state['body']}")).content)}

    async def tool(state: State, runtime: Runtime[Context]) -> State:
        note("log", "tool", state)
        await runtime.context.model.ainvoke(f"prepare {state['body']}")
        note("ends", "tool", state)
        while "number 1 " in state["body"] and (HERE / "hold").exists():
            await asyncio.sleep(0.1)
        return {"found": f"found {state['body']}"}

    async def write(state: State, runtime: Runtime[Context]) -> State:
        note("log", "write", state)
        await runtime.context.model.ainvoke(f"write {state['found']}")
        note("ends", "write", state)
        return {"word": f"{state['found']} by {len(state['idea']) > 0}"}

    graph = StateGraph(State, context_schema=Context)
    for node in (plan, tool, write):
        graph.add_node(node)
    graph.add_edge(START, "plan")
    graph.add_edge("plan", "tool")
    graph.add_edge("tool", "write")
    graph.add_edge("write", END)
"""


@pytest.fixture
def project(tmp_path: Path, model_server: ModelServer) -> Project:
    project = Project.make(tmp_path, model_server.env(), count=4, model="openai:test-model")
    (tmp_path / "slowly.py").write_text(dedent(GRAPH))
    project.spec["partition"] = {"by": "files"}
    project.spec["stages"] = [
        {
            "name": "slow", "uses": "slowly:graph", "model": "openai:test-model", "output": {"word": "str"},
            "placement": "node",
        }
    ]  # fmt: skip
    project.write()
    return project


def nodes(project: Project, file: str = "log") -> Counter[str]:
    path = project.folder / file
    return Counter(path.read_text().splitlines() if path.exists() else ())


def test_a_worker_that_dies_in_a_tool_call_repeats_that_call_alone(project: Project, model_server: ModelServer) -> None:
    (project.folder / "hold").touch()
    held = "tool message number 1 about a thing"
    with project.start("run", "--json") as run:
        eventually(lambda: held in nodes(project, "ends"), "the tool at work")
        eventually(lambda: nodes(project, "ends").total() == 7, "the other rows at their ends")
        run.end(signal.SIGKILL)
    (project.folder / "hold").unlink()
    report = project.tandem("run", "--json").ok().json
    assert (report["rows"]["ok"], report["usage"]["calls"], report["usage"]["unknown"]) == (4, 12, 0)
    assert model_server.stats().requests == 12, "what the model answered within the tool call is kept too"
    began = nodes(project)
    assert began.pop(held) == 2
    assert set(began.values()) == {1}
    assert len(began) == 11

    by_row = scan(project.folder / "out").collect()
    project.spec["stages"][0]["placement"] = "batch"
    project.spec["sink"] = {"path": "other"}
    project.write()
    whole = project.tandem("run", "--json").ok().json
    assert whole["rows"]["ok"] == 4
    assert scan(project.folder / "other").collect().equals(by_row)


def test_too_many_rows_and_stages_that_are_no_graphs_are_refused(project: Project) -> None:
    project.spec["stages"].append({"name": "few", "uses": "sql", "query": "SELECT * FROM rows", "placement": "node"})
    project.write()
    refused = project.tandem("check")
    assert (refused.code, "placement: node belongs to graphs" in refused.err) == (2, True)
