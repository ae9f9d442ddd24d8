"""A run that the old version began is finished by this one, and nothing is paid twice.

`TANDEM_OLD_PYTHON=…/old/.venv/bin/python python -m pytest -m prove tests/formats/test_old_worker.py`, the variable
being the interpreter of a checkout of the version before, with its `tandem` beside it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from pipeline import consume
from tests.cli import support
from tests.cli.support import DAYS, Project, eventually
from tests.harness.model_server import ModelServer
from tests.harness.servers import TemporalServer

# Two checkouts are needed, and real seconds.
pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]
ROWS = 60
IN_FLIGHT = 6
LATENCY_MS = 400

ASKING = """
    from typing import TypedDict
    from langgraph.graph import END, START, StateGraph
    from langgraph.types import interrupt

    class State(TypedDict, total=False):
        body: str
        word: str

    def decide(state: State) -> State:
        if "number 7 " not in state["body"]:
            return {"word": "by itself"}
        return {"word": str(interrupt("What of it?"))}

    graph = StateGraph(State)
    graph.add_node("decide", decide)
    graph.add_edge(START, "decide")
    graph.add_edge("decide", END)
"""


@pytest.fixture(scope="module")
def old_tandem() -> str:
    interpreter = os.environ.get("TANDEM_OLD_PYTHON")
    if interpreter is None:
        pytest.fail("Set TANDEM_OLD_PYTHON to the interpreter of a checkout of the version before.")
    program = Path(interpreter).absolute().parent / "tandem"
    if not program.exists():
        pytest.fail(f"TANDEM_OLD_PYTHON={interpreter}: there is no `tandem` beside it.")
    return str(program)


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer.start(latency_ms=LATENCY_MS) as server:
        yield server


@pytest.fixture
def project(tmp_path: Path, model: ModelServer) -> Iterator[Project]:
    project = Project.make(tmp_path, model.env(), count=ROWS, model="openai:test-model")
    project.spec["limits"] = {"rows_in_flight": IN_FLIGHT, "batch_rows": 7}
    project.write()
    yield project
    kill_all(tmp_path)


@contextlib.contextmanager
def the_old(program: str) -> Iterator[None]:
    """Commands that start within are those of the old version."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "TANDEM", program)
        yield


def kill_all(folder: Path) -> None:
    """SIGKILL for the command, its worker, and the embedded server with its supervisor: all that work in a folder."""

    def is_ours(process: psutil.Process) -> bool:
        try:
            return process.environ().get("TANDEM_HOME") == str(folder / ".home")
        except psutil.Error:
            return False  # somebody else's, or gone, or a child of ours that has not been waited for

    while ours := [process for process in psutil.process_iter() if is_ours(process)]:
        for process in ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)


def half_done(model: ModelServer) -> None:
    eventually(lambda: model.stats().answered_ok >= ROWS // 2, "half of the rows answered")


def check(project: Project, model: ModelServer, report: dict[str, Any], *, again: int) -> None:
    """Complete, one live generation of each partition, paid once but for what was in flight when all died."""
    stats = model.stats()
    answered = stats.answered_ok
    print(f"needed {ROWS}, billed {stats.billed}, requests {stats.requests}, usage {report['usage']}")
    assert (report["state"], report["rows"]["ok"], report["rows"]["out"]) == ("completed", ROWS, ROWS)
    assert ROWS <= stats.requests <= ROWS + again
    assert stats.max_ok_per_content <= 2
    assert ROWS <= report["usage"]["calls"] + report["usage"]["unknown"] <= answered + again
    sink = project.folder / "out"
    assert consume.partitions(sink) == dict.fromkeys(DAYS, 1)
    rows = consume.scan(sink).collect()
    assert (rows.height, rows["id"].n_unique(), rows["summary"].null_count()) == (ROWS, ROWS, 0)
    assert project.tandem("outputs", "verify", "--json").ok().json["ok"]
    assert {line["decision"] for line in project.tandem("plan", "--json").ok().json["partitions"]} == {"skip"}


def test_what_was_killed_under_the_old_version_is_carried_on_by_the_same_command(
    project: Project, model: ModelServer, old_tandem: str
) -> None:
    """The new command starts the server on the database that the old one left, and replays its workflows."""
    with the_old(old_tandem):
        killed = project.start("run", "--json")
    half_done(model)
    kill_all(project.folder)
    assert killed.wait().code == -signal.SIGKILL
    before = model.stats().requests
    assert before < ROWS
    report = project.tandem("run", "--json").ok().json
    assert [line["run"] for line in project.tandem("runs", "list", "--json").ok().json] == [report["run"]]
    check(project, model, report, again=IN_FLIGHT)


def test_a_fleet_changes_its_version_while_a_run_goes_on(
    project: Project, model: ModelServer, old_tandem: str, temporal_server: TemporalServer
) -> None:
    """An old worker drains by SIGTERM, a new one takes over; the old client follows to the end."""
    project.env |= {**temporal_server.env(), "TANDEM_TASK_QUEUE": f"versions-{os.getpid()}"}
    with the_old(old_tandem):
        worker = project.start("worker")
        client = project.start("run", "--json", "--yes")
    half_done(model)
    with project.start("worker"):
        assert worker.end(signal.SIGTERM).code == 0
        report = client.wait().ok().json
        check(project, model, report, again=0)


def test_dev_of_the_old_version_drains_and_dev_of_the_new_one_goes_on(
    project: Project, model: ModelServer, old_tandem: str
) -> None:
    """The embedded server goes with the old `dev`; the new one starts it on the same database."""
    with the_old(old_tandem):
        dev = project.start("dev")
        eventually(lambda: "Temporal: " in dev.out, "the old dev is up")
        project.tandem("run", "--detach", "--name", "moved", "--yes").ok()
    half_done(model)
    assert dev.end(signal.SIGTERM).code == 0, dev.err
    with project.start("dev") as new:
        eventually(lambda: "Temporal: " in new.out, "the new dev is up")
        report = project.tandem("runs", "watch", "moved", "--json", timeout_s=400).ok().json
        new.end(signal.SIGTERM)
    check(project, model, report, again=0)


def test_a_run_that_waits_for_people_and_takes_its_rows_through_workflows_is_carried_on(
    project: Project, model: ModelServer, old_tandem: str
) -> None:
    """A partition is parked, rows of a `placement: node` stage have workflows of their own; all are killed, the answer
    is given to the new version."""
    (project.folder / "asking.py").write_text(dedent(ASKING))
    project.spec["stages"].append(
        {"name": "ask", "uses": "asking:graph", "output": {"word": "str"}, "placement": "node", "pending": "wait"}
    )
    project.write()
    with the_old(old_tandem):
        killed = project.start("run", "--json")
        eventually(
            lambda: len(project.tandem("review", "ls", "--json").json) == 1 and len(published(project)) == 2,
            "one partition parked, two published", timeout_s=400,
        )  # fmt: skip
    kill_all(project.folder)
    assert killed.wait().code == -signal.SIGKILL
    with project.start("run", "--json") as run:
        time.sleep(3)
        project.tandem("review", "answer", "--row", "7", "--answer", "well").ok()
        report = run.wait().ok().json
    check(project, model, report, again=0)
    assert consume.scan(project.folder / "out").collect().filter(id=7)["word"].to_list() == ["well"]


def published(project: Project) -> dict[str, int]:
    return consume.partitions(project.folder / "out")
